"""The tables and figures of the study."""

TABLE1 = {ending: f"{PAPER}/tables/table1.{ending}" for ending in ("csv", "md", "tex")}


PAPER_FILES = list(TABLE1.values())


rule make_table1:
    input:
        summaries=[
            f"{EXPERIMENT}/metrics/summary.json".format(
                dataset=row["dataset"], experiment=row["experiment"], seed=row["seed"]
            )
            for row in measured_rows()
        ],
    output:
        **TABLE1,
        provenance=f"{PAPER}/tables/table1.provenance.json",
    log:
        f"{PAPER}/logs/make_table1.log",
    benchmark:
        f"{PAPER}/benchmarks/make_table1.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        settings={"rows": measured_rows()},
        resources=str(WORKFLOW / "resources"),
        code=digest("make_table1"),
    script:
        "../scripts/make_table1.py"
