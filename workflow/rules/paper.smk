"""Tables, claims, statistics and the page to browse, from the scores of all experiments; figures.smk draws."""

CHOICES = config["paper"]
TABLE_OPTIONS = {name: CHOICES["tables"][name] for name in ("columns", "published", "show_difference")}
TABLE_OPTIONS |= {"primary": config["statistics"]["primary"]}
GLASSBOXES = {name: PLAN.settings(name)["glassbox"] for name in PLAN.datasets if PLAN.source(name) == "glassbox"}
COLUMNS = PLAN.metric_columns()
# What tables, figures and reports read of the folder resources.
COMPARED = ["published/signatures.csv", "models.tsv"]  # what tells whether a score compares with a published one
TABLE1, TABLE2 = (
    ["published/study_table1.csv", "published/xrec_table1.csv", *COMPARED],
    ["published/study_table2.csv", *COMPARED],
)
TABLE3 = ["published/study_table3.csv", "published/statements.csv", "hardware.tsv"]


rule make_table1:
    input:
        **paper_inputs(CHOICES["tables"]["table1"], "summary", "generate"),
        published=resource_inputs(*TABLE1),
    output:
        **table_files(1),
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
        settings={"number": 1, "rows": PLAN.rows(CHOICES["tables"]["table1"]), **TABLE_OPTIONS},
        resources=Told(PLAN.resources),
        published=PLAN.resource_digests(*TABLE1),
        files=paper_paths(CHOICES["tables"]["table1"], "summary", "generate"),
        metric_columns=COLUMNS,
        code=PLAN.digest("make_score_table"),
    script:
        "../scripts/make_score_table.py"


use rule make_table1 as make_table2 with:
    input:
        **paper_inputs(CHOICES["tables"]["table2"], "summary", "generate"),
        published=resource_inputs(*TABLE2),
    output:
        **table_files(2),
    log:
        f"{PAPER}/logs/make_table2.log",
    benchmark:
        f"{PAPER}/benchmarks/make_table2.tsv"
    params:
        settings={"number": 2, "rows": PLAN.rows(CHOICES["tables"]["table2"]), **TABLE_OPTIONS},
        resources=Told(PLAN.resources),
        published=PLAN.resource_digests(*TABLE2),
        files=paper_paths(CHOICES["tables"]["table2"], "summary", "generate"),
        metric_columns=COLUMNS,
        code=PLAN.digest("make_score_table"),


rule collect_jobs:
    input:
        **paper_inputs(None, "summary", "generate", "train"),
        published=resource_inputs("hardware.tsv"),
    output:
        **paper_files("costs/jobs", "json", "csv", category="Numbers"),
        rules=f"{PAPER}/costs/rules.csv",
    log:
        f"{PAPER}/logs/collect_jobs.log",
    benchmark:
        f"{PAPER}/benchmarks/collect_jobs.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        settings={"emissions": config["emissions"]},
        resources=Told(PLAN.resources),
        published=PLAN.resource_digests("hardware.tsv"),
        store=f"{PAPER}/costs/slurm.json",
        code=PLAN.digest("collect_jobs"),
    script:
        "../scripts/collect_jobs.py"


rule make_table3:
    input:
        **paper_inputs(None, "generate", "train"),
        jobs=f"{PAPER}/costs/jobs.json",
        published=resource_inputs(*TABLE3),
    output:
        **table_files(3),
    log:
        f"{PAPER}/logs/make_table3.log",
    benchmark:
        f"{PAPER}/benchmarks/make_table3.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        settings={
            "rows": PLAN.rows(None),
            "emissions": config["emissions"],
            "published": CHOICES["tables"]["published"],
        },
        resources=Told(PLAN.resources),
        published=PLAN.resource_digests(*TABLE3),
        files=paper_paths(None, "generate", "train"),
        code=PLAN.digest("make_table3"),
    script:
        "../scripts/make_table3.py"


rule write_statistics:
    input:
        **paper_inputs(None, "summary", "scores", "texts"),
    output:
        **paper_files("statistics/statistics", "json", "md", category="Numbers"),
    log:
        f"{PAPER}/logs/write_statistics.log",
    benchmark:
        f"{PAPER}/benchmarks/write_statistics.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        settings={"rows": PLAN.rows(None), "statistics": config["statistics"]},
        files=paper_paths(None, "summary", "scores", "texts"),
        metric_columns=COLUMNS,
        code=PLAN.digest("write_statistics"),
    script:
        "../scripts/write_statistics.py"


rule write_questions:
    input:
        **paper_inputs(None, "summary", "scores", "explanations", "graph", "texts", "core", "embeddings"),
    output:
        **paper_files("questions", "json", "md", category="Claims and audit"),
    log:
        f"{PAPER}/logs/write_questions.log",
    benchmark:
        f"{PAPER}/benchmarks/write_questions.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(3000),
        runtime=scaled(30),
    params:
        settings={
            "rows": [row | PLAN.embeddings_of(row["dataset"], row["experiment"]) for row in PLAN.rows(None)],
            "glassbox": GLASSBOXES,
            "statistics": config["statistics"],
            **CHOICES["questions"],
        },
        files=paper_paths(None, "summary", "scores", "explanations", "graph", "texts", "core", "embeddings"),
        metric_columns=COLUMNS,
        code=PLAN.digest("write_questions"),
    script:
        "../scripts/write_questions.py"


rule judge_claims:
    input:
        **paper_inputs(None, "summary", "scores", "texts"),
        published=resource_inputs(*TABLE1, *TABLE2, "published/study_verdicts.csv"),
    output:
        **paper_files("claims", "json", "md", category="Claims and audit"),
    log:
        f"{PAPER}/logs/judge_claims.log",
    benchmark:
        f"{PAPER}/benchmarks/judge_claims.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        settings={"rows": PLAN.rows(None), "claims": config["claims"], "statistics": config["statistics"]},
        resources=Told(PLAN.resources),
        published=PLAN.resource_digests(*TABLE1, *TABLE2, "published/study_verdicts.csv"),
        files=paper_paths(None, "summary", "scores", "texts"),
        metric_columns=COLUMNS,
        code=PLAN.digest("judge_claims"),
    script:
        "../scripts/judge_claims.py"


rule group_scores:
    input:
        **paper_inputs(None, "scores", "summary", "graph", "texts"),
    output:
        **paper_files("statistics/groups", "json", "csv", category="Numbers"),
    log:
        f"{PAPER}/logs/group_scores.log",
    benchmark:
        f"{PAPER}/benchmarks/group_scores.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        settings={"rows": PLAN.rows(None), "statistics": config["statistics"], **CHOICES["sparsity"]},
        files=paper_paths(None, "scores", "summary", "graph", "texts"),
        metric_columns=COLUMNS,
        code=PLAN.digest("group_scores"),
    script:
        "../scripts/group_scores.py"


rule pick_examples:
    input:
        **paper_inputs(None, "explanations", "scores", "summary"),
    output:
        **paper_files("examples", "json", "md", category="Explanations"),
    log:
        f"{PAPER}/logs/pick_examples.log",
    benchmark:
        f"{PAPER}/benchmarks/pick_examples.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        settings={"rows": PLAN.rows(None), **CHOICES["examples"]},
        files=paper_paths(None, "explanations", "scores", "summary"),
        metric_columns=COLUMNS,
        code=PLAN.digest("pick_examples"),
    script:
        "../scripts/pick_examples.py"


rule write_browser:
    input:
        **paper_inputs(None, "explanations", "scores", "summary", "examples", "truth"),
    output:
        **paper_files("browse", "html", category="Explanations"),
    log:
        f"{PAPER}/logs/write_browser.log",
    benchmark:
        f"{PAPER}/benchmarks/write_browser.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(20),
    params:
        settings={"rows": PLAN.rows(None), "run": config["run"]["name"], **CHOICES["browse"]},
        files=paper_paths(None, "explanations", "scores", "summary", "examples", "truth"),
        metric_columns=COLUMNS,
        code=PLAN.digest("write_browser"),
    script:
        "../scripts/write_browser.py"


PAPER_FILES = [
    f"{PAPER}/{name}"
    for name in (
        *(f"tables/table{number}.{ending}" for number in (1, 2, 3) for ending in ("csv", "md", "tex")),
        *(f"figures/{stem}.{ending}" for stem in PLAN.figures() for ending in ("pdf", "png")),
        "statistics/statistics.md",
        *(["statistics/groups.csv"] if "figure4" in PLAN.figures() else []),
        "costs/jobs.csv",
        "claims.md",
        "questions.md",
        "examples.md",
        "browse.html",
    )
]
