"""LightGCN, trained on the graph with BPR."""


rule train_lightgcn:
    input:
        graph=f"{SHARED}/split/graph.parquet",
    output:
        embeddings=f"{SHARED}/lightgcn/seed{{seed}}/embeddings.safetensors",
        metrics=f"{SHARED}/lightgcn/seed{{seed}}/metrics.json",
        provenance=f"{SHARED}/lightgcn/seed{{seed}}/provenance.json",
    log:
        f"{SHARED}/logs/train_lightgcn.seed{{seed}}.log",
    benchmark:
        f"{SHARED}/benchmarks/train_lightgcn.seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
        gpu=GPUS,
    params:
        settings=pick("recommender"),
        checkpoint=f"{SHARED}/lightgcn/seed{{seed}}/checkpoint.safetensors",
        compute=config["compute"],
        code=digest("train_lightgcn"),
    script:
        "../scripts/train_lightgcn.py"


# For an experiment that overrides the section recommender.
use rule train_lightgcn as train_own_lightgcn with:
    output:
        embeddings=f"{EXPERIMENT}/lightgcn/embeddings.safetensors",
        metrics=f"{EXPERIMENT}/lightgcn/metrics.json",
        provenance=f"{EXPERIMENT}/lightgcn/provenance.json",
    log:
        f"{EXPERIMENT}/logs/train_own_lightgcn.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/train_own_lightgcn.tsv"
    params:
        settings=pick("recommender"),
        checkpoint=f"{EXPERIMENT}/lightgcn/checkpoint.safetensors",
        compute=config["compute"],
        code=digest("train_lightgcn"),
