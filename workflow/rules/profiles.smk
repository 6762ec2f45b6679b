"""User and item profiles, and the reference explanations."""


rule generate_profiles:
    input:
        unpack(writer_inputs("backend")),
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
    threads: lambda wildcards: config["compute"]["threads"] if writes_by_model(wildcards, "backend") else 1
    resources:
        mem_mb=scaled(by_writer("backend")),
        runtime=scaled(240),
        gpu=lambda wildcards: GPUS if writes_by_model(wildcards, "backend") else 0,
    params:
        **split_params(writer_settings("backend")),
        models=own_digests(lambda wildcards: chat_places(wildcards, "backend")),
        domain=dataset_key("domain"),
        source=dataset_key("source"),
        cache=f"{SHARED}/cache/chat",
        compute=lambda wildcards: config["compute"] if writes_by_model(wildcards, "backend") else None,
        code=digest("generate_profiles"),
    script:
        "../scripts/generate_profiles.py"


rule generate_references:
    input:
        unpack(writer_inputs("references")),
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
    threads: lambda wildcards: config["compute"]["threads"] if writes_by_model(wildcards, "references") else 1
    resources:
        mem_mb=scaled(by_writer("references")),
        runtime=scaled(240),
        gpu=lambda wildcards: GPUS if writes_by_model(wildcards, "references") else 0,
    params:
        **split_params(writer_settings("references")),
        models=own_digests(lambda wildcards: chat_places(wildcards, "references")),
        domain=dataset_key("domain"),
        source=dataset_key("source"),
        cache=f"{SHARED}/cache/chat",
        compute=lambda wildcards: config["compute"] if writes_by_model(wildcards, "references") else None,
        code=digest("generate_references"),
    script:
        "../scripts/generate_references.py"
