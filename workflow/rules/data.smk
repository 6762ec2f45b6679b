"""Raw reviews, or a release, to the k-core and its split."""


rule make_glassbox:
    output:
        reviews=f"{SHARED}/world/reviews.jsonl.gz",
        metadata=f"{SHARED}/world/metadata.jsonl.gz",
        texts=f"{SHARED}/world/texts.parquet",
        truth=f"{SHARED}/world/truth.parquet",
        provenance=f"{SHARED}/world/provenance.json",
    log:
        f"{SHARED}/logs/make_glassbox.log",
    benchmark:
        f"{SHARED}/benchmarks/make_glassbox.tsv"
    wildcard_constraints:
        dataset=PLAN.sourced("glassbox"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1500),
        runtime=scaled(10),
    params:
        settings=pick("glassbox"),
        code=PLAN.digest("make_glassbox"),
    script:
        "../scripts/make_glassbox.py"


rule read_reviews:
    input:
        reviews=asked(PLAN.raw_file, "reviews"),
        metadata=asked(PLAN.raw_file, "items"),
    output:
        interactions=f"{SHARED}/raw/interactions.parquet",
        item_table=f"{SHARED}/raw/items.parquet",
        provenance=f"{SHARED}/raw/provenance.json",
    log:
        f"{SHARED}/logs/read_reviews.log",
    benchmark:
        f"{SHARED}/benchmarks/read_reviews.tsv"
    wildcard_constraints:
        dataset=PLAN.sourced("glassbox", *READ),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(120),
    params:
        settings=pick("read"),
        source=dataset_key("source"),
        columns=dataset_key("columns"),
        code=PLAN.digest("read_reviews"),
    script:
        "../scripts/read_reviews.py"


rule fetch_release:
    input:
        manifest=resource_inputs("manifest.tsv"),
    output:
        folder=directory(f"{config['run']['results']}/downloads/{{download}}"),
        provenance=f"{config['run']['results']}/downloads/{{download}}.provenance.json",
    log:
        f"{config['run']['results']}/downloads/logs/{{download}}.log",
    benchmark:
        f"{config['run']['results']}/downloads/benchmarks/{{download}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(500),
        runtime=scaled(60),
    params:
        settings={},
        copies=lambda wildcards: Told(PLAN.release_copies(wildcards)),
        resources=PLAN.resource_digests("manifest.tsv"),
        code=PLAN.digest("fetch_release"),
    script:
        "../scripts/fetch_release.py"


rule import_release:
    input:
        unpack(lambda wildcards: PLAN.release(wildcards.dataset)),
        unpack(own_files(lambda wildcards: PLAN.release_places(wildcards.dataset))),
    output:
        interactions=f"{SHARED}/raw/interactions.parquet",
        item_table=f"{SHARED}/raw/items.parquet",
        edges=f"{SHARED}/raw/edges.parquet",
        texts=f"{SHARED}/raw/texts.parquet",
        provenance=f"{SHARED}/raw/provenance.json",
    log:
        f"{SHARED}/logs/import_release.log",
    benchmark:
        f"{SHARED}/benchmarks/import_release.tsv"
    wildcard_constraints:
        dataset=PLAN.sourced("release"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(3000),
        runtime=scaled(20),
    params:
        settings={},
        release=own_digests(lambda wildcards: PLAN.release_places(wildcards.dataset)),
        code=PLAN.digest("import_release"),
    script:
        "../scripts/import_release.py"


rule filter_kcore:
    input:
        interactions=f"{SHARED}/raw/interactions.parquet",
        item_table=f"{SHARED}/raw/items.parquet",
    output:
        interactions=f"{SHARED}/kcore/interactions.parquet",
        item_table=f"{SHARED}/kcore/items.parquet",
        provenance=f"{SHARED}/kcore/provenance.json",
    log:
        f"{SHARED}/logs/filter_kcore.log",
    benchmark:
        f"{SHARED}/benchmarks/filter_kcore.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=pick("kcore"),
        code=PLAN.digest("filter_kcore"),
    script:
        "../scripts/filter_kcore.py"


rule split_interactions:
    input:
        unpack(PLAN.split_inputs),
        interactions=f"{SHARED}/kcore/interactions.parquet",
    output:
        graph=f"{SHARED}/split/graph.parquet",
        texts=f"{SHARED}/split/texts.parquet",
        provenance=f"{SHARED}/split/provenance.json",
    log:
        f"{SHARED}/logs/split_interactions.log",
    benchmark:
        f"{SHARED}/benchmarks/split_interactions.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(3000),
        runtime=scaled(20),
    params:
        settings=pick("split"),
        code=PLAN.digest("split_interactions"),
    script:
        "../scripts/split_interactions.py"
