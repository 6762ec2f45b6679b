"""The figure of the sweeps: scores and held-out loss over the values of a setting."""

SWEPT = [
    paper_row(dataset, experiment, seed)
    | {"sweep": sweep, "key": entry["key"], "value": value, "own": experiment == base}
    | {"base_label": config["experiments"][base]["label"]}
    for sweep, entry in config["sweeps"].items()
    for dataset, base in [entry["base"].split("/")]
    for value, experiment in sweep_members(config, sweep)
    for seed in SEEDS
]
SWEPT_FILES = {kind: [paper_file(kind, row) for row in SWEPT] for kind in ("summary", "scores", "train")}


rule plot_sweeps:
    input:
        **{kind: list(dict.fromkeys(filter(None, paths))) for kind, paths in SWEPT_FILES.items()},
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
        code=digest("plot_sweeps"),
    script:
        "../scripts/plot_sweeps.py"


if SWEPT:
    PAPER_FILES += [f"{PAPER}/{name}" for name in ("figures/sweeps.pdf", "figures/sweeps.png", "statistics/sweeps.csv")]
