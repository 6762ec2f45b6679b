"""Recommenders, each trained once a data set and seed for all experiments that name it."""


rule train_recommender:
    input:
        unpack(PLAN.recommender_inputs),
        unpack(own_files(PLAN.recommender_places)),
    output:
        embeddings=f"{SHARED}/recommender/{{recommender}}/seed{{seed}}/embeddings.safetensors",
        metrics=f"{SHARED}/recommender/{{recommender}}/seed{{seed}}/metrics.json",
        provenance=f"{SHARED}/recommender/{{recommender}}/seed{{seed}}/provenance.json",
    log:
        f"{SHARED}/logs/train_recommender.{{recommender}}.seed{{seed}}.log",
    benchmark:
        f"{SHARED}/benchmarks/train_recommender.{{recommender}}.seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
        gpu=lambda wildcards: GPUS * PLAN.recommender_gpu(wildcards),
    params:
        settings=lambda wildcards: {"recommender": PLAN.recommender(wildcards)[0]},
        checkpoint=f"{SHARED}/recommender/{{recommender}}/seed{{seed}}/checkpoint.safetensors",
        compute=config["compute"],
        release=own_digests(PLAN.recommender_places),
        code=PLAN.recommender_code,
    script:
        "../scripts/train_recommender.py"
