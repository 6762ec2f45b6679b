"""User and item profiles, and the reference explanations: by a chat model of this machine, or by anything else."""

TEXTS = {"backend": "generate_profiles", "references": "generate_references"}
# What decides texts, but for the device of a model that writes them.
WRITTEN = {
    key: {
        **split_params(asked(PLAN.writer_settings, key)),
        "models": own_digests(asked(PLAN.chat_places, key)),
        "domain": dataset_key("domain"),
        "source": dataset_key("source"),
        "cache": f"{SHARED}/cache/chat",
        "code": PLAN.digest(script),
    }
    for key, script in TEXTS.items()
}
# A model of this machine is a module that is imported by name.
WRITTEN_BY_MODEL = {
    key: WRITTEN[key] | {"code": PLAN.digest(script, "profiles/local_model")} for key, script in TEXTS.items()
}


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
    wildcard_constraints:
        dataset=PLAN.written("backend", by_model=False),
    priority: 5  # what pretraining waits for
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        **WRITTEN["backend"],
    script:
        "../scripts/generate_profiles.py"


use rule generate_profiles as generate_profiles_by_model with:
    log:
        f"{SHARED}/logs/generate_profiles_by_model.log",
    benchmark:
        f"{SHARED}/benchmarks/generate_profiles_by_model.tsv"
    wildcard_constraints:
        dataset=PLAN.written("backend", by_model=True),
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(32000),
        runtime=scaled(240),
        gpu=GPUS,
    params:
        **WRITTEN_BY_MODEL["backend"],
        compute=config["compute"],


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
    wildcard_constraints:
        dataset=PLAN.written("references", by_model=False),
    priority: 5
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        **WRITTEN["references"],
    script:
        "../scripts/generate_references.py"


use rule generate_references as generate_references_by_model with:
    log:
        f"{SHARED}/logs/generate_references_by_model.log",
    benchmark:
        f"{SHARED}/benchmarks/generate_references_by_model.tsv"
    wildcard_constraints:
        dataset=PLAN.written("references", by_model=True),
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(32000),
        runtime=scaled(240),
        gpu=GPUS,
    params:
        **WRITTEN_BY_MODEL["references"],
        compute=config["compute"],
