"""Explanations of the test split: by one job, or by a job a shard and one that joins theirs."""

SHARDS = shards_of("generation")
GENERATION = f"{EXPERIMENT}/generation"
MADE = f"{GENERATION}/shards/{{shard}}" if SHARDS else GENERATION
NAMED = "generate_shard_{shard}" if SHARDS else "generate_explanations"


rule:
    name:
        "generate_shard" if SHARDS else "generate_explanations"
    input:
        unpack(explainer_inputs),
        unpack(adapter_inputs),
    output:
        explanations=f"{MADE}/explanations.parquet",
        provenance=f"{MADE}/provenance.json",
    log:
        f"{EXPERIMENT}/logs/{NAMED}.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/{NAMED}.tsv"
    priority: 2
    conda:
        ENVIRONMENT
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(by_llm(4000, 32000)),
        runtime=scaled(720),
        gpu=GPUS,
    params:
        **split_params(explainer_settings("prompt", "embeddings", "adapter", "generation", "llm")),
        **when(SHARDS, cut=lambda wildcards: pick("generation")(wildcards)["generation"]["batch_size"]),
        models=own_digests(llm_places),
        partial=f"{MADE}/explanations.partial.jsonl",
        shard="{shard}" if SHARDS else "1-of-1",
        # Whole batches are dealt to shards: those of two sizes would not make a whole.
        compute=config["compute"],
        code=digest("generate_explanations"),
    script:
        "../scripts/generate_explanations.py"


if SHARDS:

    rule gather_explanations:
        input:
            # What the shards read as well: its provenance is to say of the whole what theirs say of a part.
            unpack(explainer_inputs),
            unpack(adapter_inputs),
            parts=expand(f"{MADE}/explanations.parquet", shard=SHARDS, allow_missing=True),
            records=expand(f"{MADE}/provenance.json", shard=SHARDS, allow_missing=True),
        output:
            explanations=f"{GENERATION}/explanations.parquet",
            provenance=f"{GENERATION}/provenance.json",
        log:
            f"{EXPERIMENT}/logs/gather_explanations.log",
        benchmark:
            f"{EXPERIMENT}/benchmarks/gather_explanations.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=scaled(1000),
            runtime=scaled(10),
        params:
            **split_params(explainer_settings("prompt", "embeddings", "adapter", "generation", "llm")),
            models=own_digests(llm_places),
            code=digest("gather_explanations"),
        script:
            "../scripts/gather_explanations.py"
