"""Figures of the papers, from what paper.smk and the experiments have left."""


rule plot_costs:
    input:
        jobs=f"{PAPER}/costs/jobs.json",
    output:
        **figure_files("costs"),
    log:
        f"{PAPER}/logs/plot_costs.log",
    benchmark:
        f"{PAPER}/benchmarks/plot_costs.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings={"emissions": config["emissions"], **figure_options("costs")},
        code=PLAN.digest("plot_costs"),
    script:
        "../scripts/plot_costs.py"


rule plot_figure2:
    input:
        **paper_inputs(None, "summary"),
        statistics=f"{PAPER}/statistics/statistics.json",
        published=resource_inputs(*TABLE1, *TABLE2),
    output:
        **figure_files("figure2"),
        **figure_files("figure2_zoomed", "zoomed_"),
    log:
        f"{PAPER}/logs/plot_figure2.log",
    benchmark:
        f"{PAPER}/benchmarks/plot_figure2.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings={
            "rows": PLAN.rows(None),
            "confidence": config["statistics"]["confidence"],
            **CHOICES["figure2"],
            **figure_options("figure2", "figure2_zoomed"),
        },
        resources=Told(PLAN.resources),
        published=PLAN.resource_digests(*TABLE1, *TABLE2),
        files=paper_paths(None, "summary"),
        metric_columns=COLUMNS,
        code=PLAN.digest("plot_figure2"),
    script:
        "../scripts/plot_figure2.py"


rule plot_figure3:
    input:
        **paper_inputs(CHOICES["figure3"]["experiments"], "training", "train"),
    output:
        **figure_files("figure3"),
    log:
        f"{PAPER}/logs/plot_figure3.log",
    benchmark:
        f"{PAPER}/benchmarks/plot_figure3.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings={
            "rows": PLAN.rows(CHOICES["figure3"]["experiments"]),
            **CHOICES["figure3"],
            **figure_options("figure3"),
        },
        files=paper_paths(CHOICES["figure3"]["experiments"], "training", "train"),
        code=PLAN.digest("plot_figure3"),
    script:
        "../scripts/plot_figure3.py"


rule plot_figure4:
    input:
        groups=f"{PAPER}/statistics/groups.json",
    output:
        **figure_files("figure4"),
    log:
        f"{PAPER}/logs/plot_figure4.log",
    benchmark:
        f"{PAPER}/benchmarks/plot_figure4.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings={
            "confidence": config["statistics"]["confidence"],
            **CHOICES["sparsity"],
            **figure_options("figure4"),
        },
        metric_columns=COLUMNS,
        code=PLAN.digest("plot_figure4"),
    script:
        "../scripts/plot_figure4.py"


rule plot_embeddings:
    input:
        **paper_inputs(CHOICES["embeddings"]["experiments"], "weights", "embeddings", "texts", "truth"),
    output:
        **figure_files("embeddings"),
    log:
        f"{PAPER}/logs/plot_embeddings.log",
    benchmark:
        f"{PAPER}/benchmarks/plot_embeddings.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(3000),
        runtime=scaled(30),
    params:
        settings={
            "rows": PLAN.rows(CHOICES["embeddings"]["experiments"]),
            "glassbox": GLASSBOXES,
            **CHOICES["embeddings"],
            **figure_options("embeddings"),
        },
        files=paper_paths(CHOICES["embeddings"]["experiments"], "weights", "embeddings", "texts", "truth"),
        code=PLAN.digest("plot_embeddings"),
    script:
        "../scripts/plot_embeddings.py"
