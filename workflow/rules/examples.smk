"""The one join of texts, profiles, references, ratings and times, which every method reads."""


rule join_examples:
    input:
        unpack(PLAN.example_inputs),
        texts=f"{SHARED}/split/texts.parquet",
        references=f"{SHARED}/references/references.parquet",
        interactions=f"{SHARED}/kcore/interactions.parquet",
    output:
        examples=PLAN.examples,
        provenance=f"{SHARED}/examples/provenance.json",
    log:
        f"{SHARED}/logs/join_examples.log",
    benchmark:
        f"{SHARED}/benchmarks/join_examples.tsv"
    priority: 5
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings={},
        code=PLAN.digest("join_examples"),
    script:
        "../scripts/join_examples.py"
