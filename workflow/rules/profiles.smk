"""User and item profiles, and the reference explanations."""


rule generate_profiles:
    input:
        unpack(asked(PLAN.published_texts, "backend")),
        unpack(own_files(asked(PLAN.chat_places, "backend"))),
        interactions=f"{SHARED}/kcore/interactions.parquet",
        item_table=f"{SHARED}/kcore/items.parquet",
        graph=f"{SHARED}/split/graph.parquet",
    output:
        user_profiles=f"{SHARED}/profiles/users.parquet",
        item_profiles=f"{SHARED}/profiles/items.parquet",
        provenance=f"{SHARED}/profiles/provenance.json",
    log:
        f"{SHARED}/logs/generate_profiles.log",
    benchmark:
        f"{SHARED}/benchmarks/generate_profiles.tsv"
    priority: 5  # what pretraining waits for
    conda:
        ENVIRONMENT
    threads: lambda wildcards: config["compute"]["threads"] if PLAN.writes_by_model(wildcards, "backend") else 1
    resources:
        mem_mb=scaled(lambda wildcards: 32000 if PLAN.writes_by_model(wildcards, "backend") else 4000),
        runtime=scaled(240),
        gpu=lambda wildcards: GPUS if PLAN.writes_by_model(wildcards, "backend") else 0,
    params:
        **split_params(asked(PLAN.writer_settings, "backend")),
        models=own_digests(asked(PLAN.chat_places, "backend")),
        domain=dataset_key("domain"),
        source=dataset_key("source"),
        cache=f"{SHARED}/cache/chat",
        compute=lambda wildcards: config["compute"] if PLAN.writes_by_model(wildcards, "backend") else None,
        code=PLAN.digest("generate_profiles"),
    script:
        "../scripts/generate_profiles.py"


rule generate_references:
    input:
        unpack(asked(PLAN.published_texts, "references")),
        unpack(own_files(asked(PLAN.chat_places, "references"))),
        interactions=f"{SHARED}/kcore/interactions.parquet",
        item_table=f"{SHARED}/kcore/items.parquet",
        texts=f"{SHARED}/split/texts.parquet",
    output:
        references=f"{SHARED}/references/references.parquet",
        provenance=f"{SHARED}/references/provenance.json",
    log:
        f"{SHARED}/logs/generate_references.log",
    benchmark:
        f"{SHARED}/benchmarks/generate_references.tsv"
    priority: 5
    conda:
        ENVIRONMENT
    threads: lambda wildcards: config["compute"]["threads"] if PLAN.writes_by_model(wildcards, "references") else 1
    resources:
        mem_mb=scaled(lambda wildcards: 32000 if PLAN.writes_by_model(wildcards, "references") else 4000),
        runtime=scaled(240),
        gpu=lambda wildcards: GPUS if PLAN.writes_by_model(wildcards, "references") else 0,
    params:
        **split_params(asked(PLAN.writer_settings, "references")),
        models=own_digests(asked(PLAN.chat_places, "references")),
        domain=dataset_key("domain"),
        source=dataset_key("source"),
        cache=f"{SHARED}/cache/chat",
        compute=lambda wildcards: config["compute"] if PLAN.writes_by_model(wildcards, "references") else None,
        code=PLAN.digest("generate_references"),
    script:
        "../scripts/generate_references.py"
