"""Recommenders, each trained once a data set and seed for all experiments that name it."""


rule train_recommender:
    input:
        unpack(recommender_inputs),
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
        gpu=lambda wildcards: GPUS if RECOMMENDERS.chosen(*recommender_entry(wildcards)).gpu else 0,
    params:
        settings=lambda wildcards: {"recommender": recommender_entry(wildcards)[0]},
        checkpoint=f"{SHARED}/recommender/{{recommender}}/seed{{seed}}/checkpoint.safetensors",
        compute=config["compute"],
        release=own_digests(recommender_places),
        code=recommender_digest,
    script:
        "../scripts/train_recommender.py"
