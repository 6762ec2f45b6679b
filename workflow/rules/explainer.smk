"""The frozen language model, and the adapters tuned through it."""


rule pretrain_lm:
    input:
        examples=EXAMPLES,
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
        code=digest("pretrain_lm"),
    script:
        "../scripts/pretrain_lm.py"


rule tune_explainer:
    input:
        unpack(explainer_inputs),
    output:
        weights=f"{EXPERIMENT}/adapter/adapter.safetensors",
        config=f"{EXPERIMENT}/adapter/adapter.json",
        training=f"{EXPERIMENT}/adapter/training.parquet",
        provenance=f"{EXPERIMENT}/adapter/provenance.json",
    log:
        f"{EXPERIMENT}/logs/tune_explainer.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/tune_explainer.tsv"
    priority: 3  # then generation, then scoring by models: what is long and waited for starts first
    conda:
        ENVIRONMENT
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(by_llm(4000, 32000)),
        runtime=scaled(by_llm(720, 840)),
        gpu=GPUS,
    params:
        **split_params(explainer_settings("prompt", "embeddings", "adapter", "injection", "tuning", "llm")),
        models=own_digests(llm_places),
        checkpoint=f"{EXPERIMENT}/adapter/checkpoint.safetensors",
        compute=config["compute"],
        code=digest("tune_explainer"),
    script:
        "../scripts/tune_explainer.py"
