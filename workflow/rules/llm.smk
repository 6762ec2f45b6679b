"""The frozen language model that the workflow trains itself, where no other is given."""


rule pretrain_lm:
    input:
        examples=PLAN.examples,
    output:
        model=directory(f"{SHARED}/llm/model"),
        provenance=f"{SHARED}/llm/provenance.json",
    log:
        f"{SHARED}/logs/pretrain_lm.log",
    benchmark:
        f"{SHARED}/benchmarks/pretrain_lm.tsv"
    # The longest chain of jobs starts here; what else is ready fills the gaps.
    priority: 4
    conda:
        ENVIRONMENT
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(120),
    params:
        settings=lambda wildcards: pick("llm")(wildcards)["llm"]["scratch"],
        domain=dataset_key("domain"),
        compute=THREADS,
        code=PLAN.digest("pretrain_lm"),
    script:
        "../scripts/pretrain_lm.py"
