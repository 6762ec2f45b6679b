"""Scores of the explanations: one rule a metric, then one file of all."""


rule score_usr:
    input:
        explanations=f"{EXPERIMENT}/generation/explanations.parquet",
    output:
        scores=f"{EXPERIMENT}/metrics/usr/scores.parquet",
        summary=f"{EXPERIMENT}/metrics/usr/summary.json",
        provenance=f"{EXPERIMENT}/metrics/usr/provenance.json",
    log:
        f"{EXPERIMENT}/logs/score_usr.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/score_usr.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        settings=config["metrics"]["usr"],
        metric="usr",
        compute=config["compute"],
        code=digest("score_metric"),
    script:
        "../scripts/score_metric.py"


use rule score_usr as score_bertscore with:
    output:
        scores=f"{EXPERIMENT}/metrics/bertscore/scores.parquet",
        summary=f"{EXPERIMENT}/metrics/bertscore/summary.json",
        provenance=f"{EXPERIMENT}/metrics/bertscore/provenance.json",
    log:
        f"{EXPERIMENT}/logs/score_bertscore.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/score_bertscore.tsv"
    conda:
        ENVIRONMENT
    threads: config["compute"]["threads"]
    resources:
        mem_mb=scaled(3000),
        runtime=scaled(60),
    params:
        settings=config["metrics"]["bertscore"],
        metric="bertscore",
        compute=config["compute"],
        code=digest("score_metric"),


rule merge_scores:
    input:
        scores=expand(
            f"{EXPERIMENT}/metrics/{{metric}}/scores.parquet", metric=config["metrics"]["use"], allow_missing=True
        ),
        summaries=expand(
            f"{EXPERIMENT}/metrics/{{metric}}/summary.json", metric=config["metrics"]["use"], allow_missing=True
        ),
    output:
        scores=f"{EXPERIMENT}/metrics/scores.parquet",
        summary=f"{EXPERIMENT}/metrics/summary.json",
        provenance=f"{EXPERIMENT}/metrics/provenance.json",
    log:
        f"{EXPERIMENT}/logs/merge_scores.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/merge_scores.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        settings={"use": config["metrics"]["use"]},
        code=digest("merge_scores"),
    script:
        "../scripts/merge_scores.py"
