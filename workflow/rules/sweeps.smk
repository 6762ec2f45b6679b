"""The figure of the sweeps: scores and held-out loss over the values of a setting."""

SWEPT = PLAN.swept()
SWEPT_FILES = PLAN.files(SWEPT, "summary", "scores", "texts", "train")


rule plot_sweeps:
    input:
        **inputs(SWEPT_FILES),
    output:
        csv=f"{PAPER}/statistics/sweeps.csv",
        pdf=f"{PAPER}/figures/sweeps.pdf",
        png=shown(f"{PAPER}/figures/sweeps.png", "Figures"),
        provenance=f"{PAPER}/figures/sweeps.provenance.json",
    log:
        f"{PAPER}/logs/plot_sweeps.log",
    benchmark:
        f"{PAPER}/benchmarks/plot_sweeps.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        settings={
            "rows": SWEPT,
            "statistics": config["statistics"],
            **CHOICES["sweeps"],
            **figure_options("sweeps"),
        },
        files=SWEPT_FILES,
        metric_columns=COLUMNS,
        code=PLAN.digest("plot_sweeps"),
    script:
        "../scripts/plot_sweeps.py"


if SWEPT:
    PAPER_FILES += [f"{PAPER}/{name}" for name in ("figures/sweeps.pdf", "figures/sweeps.png", "statistics/sweeps.csv")]
