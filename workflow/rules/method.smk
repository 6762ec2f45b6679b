"""A method: trained, and its explanations of the test split, by one job, or by a job a shard and one that joins theirs."""

SHARDS = PLAN.shards("generation")
GENERATION = f"{EXPERIMENT}/generation"
MADE = f"{GENERATION}/shards/{{shard}}" if SHARDS else GENERATION
NAMED = "generate_shard_{shard}" if SHARDS else "generate_explanations"


rule train_method:
    input:
        unpack(PLAN.method_inputs),
        unpack(own_files(PLAN.method_places)),
    output:
        weights=f"{METHOD}/weights.safetensors",
        facts=f"{METHOD}/method.json",
        training=f"{METHOD}/training.parquet",
        provenance=f"{METHOD}/provenance.json",
    log:
        f"{EXPERIMENT}/logs/train_method.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/train_method.tsv"
    priority: 3  # then generation, then scoring by models: what is long and waited for starts first
    conda:
        ENVIRONMENT
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(by_llm(4000, 32000)),
        runtime=scaled(by_llm(720, 840)),
        gpu=lambda wildcards: GPUS * PLAN.method_gpu(wildcards),
    params:
        **split_params(asked(PLAN.method_settings, "fit")),
        models=own_digests(PLAN.method_places),
        checkpoint=f"{METHOD}/checkpoint.safetensors",
        compute=config["compute"],
        code=asked(PLAN.method_code, "train_method", "fit"),
    script:
        "../scripts/train_method.py"


rule:
    name:
        "generate_shard" if SHARDS else "generate_explanations"
    input:
        unpack(PLAN.method_inputs),
        unpack(own_files(PLAN.method_places)),
        unpack(PLAN.learnt),
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
        gpu=lambda wildcards: GPUS * PLAN.method_gpu(wildcards),
    params:
        **split_params(asked(PLAN.method_settings, "write")),
        **when(SHARDS, cut=lambda wildcards: pick("generation")(wildcards)["generation"]["batch_size"]),
        models=own_digests(PLAN.method_places),
        partial=f"{MADE}/explanations.partial.jsonl",
        shard="{shard}" if SHARDS else "1-of-1",
        # Whole batches are dealt to shards: those of two sizes would not make a whole.
        compute=config["compute"],
        code=asked(PLAN.method_code, "generate_explanations", "write"),
    script:
        "../scripts/generate_explanations.py"


if SHARDS:

    rule gather_explanations:
        input:
            # What the shards read as well: its provenance is to say of the whole what theirs say of a part.
            unpack(PLAN.method_inputs),
            unpack(own_files(PLAN.method_places)),
            unpack(PLAN.learnt),
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
            **split_params(asked(PLAN.method_settings, "write")),
            models=own_digests(PLAN.method_places),
            code=PLAN.digest("gather_explanations"),
        script:
            "../scripts/gather_explanations.py"
