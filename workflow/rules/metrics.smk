"""Scores of the explanations: one rule a metric (a judge's may be cut into shards), then one file of all."""

for METRIC in config["metrics"]["use"]:
    SHARDS = PLAN.shards("judging", METRIC)
    FOLDER = f"{EXPERIMENT}/metrics/{METRIC}"
    MADE = f"{FOLDER}/shards/{{shard}}" if SHARDS else FOLDER
    NAMED = f"score_{METRIC}_shard_{{shard}}" if SHARDS else f"score_{METRIC}"

    rule:
        name:
            f"score_{METRIC}_shard" if SHARDS else f"score_{METRIC}"
        input:
            unpack(asked(PLAN.metric_inputs, METRIC)),
            unpack(own_files(asked(PLAN.metric_places, METRIC))),
        output:
            **when(SHARDS, blocks=f"{MADE}/blocks.json"),
            **when(not SHARDS, scores=f"{MADE}/scores.parquet", summary=f"{MADE}/summary.json"),
            **when(METRIC in JUDGES and not SHARDS, replies=f"{MADE}/replies.parquet"),
            provenance=f"{MADE}/provenance.json",
        log:
            f"{EXPERIMENT}/logs/{NAMED}.log",
        benchmark:
            f"{EXPERIMENT}/benchmarks/{NAMED}.tsv"
        priority: 1 if PLAN.runs_model(METRIC) else 0
        conda:
            ENVIRONMENT
        threads: config["compute"]["threads"] if PLAN.runs_model(METRIC) else 1
        resources:
            mem_mb=scaled(PLAN.metric_memory(METRIC)),
            runtime=scaled(240 if PLAN.runs_model(METRIC) else 10),
            gpu=GPUS if PLAN.runs_model(METRIC) else 0,
        params:
            **when(SHARDS, shard="{shard}", cut=config["metrics"][METRIC].get("batch_size")),
            **metric_params(METRIC),
            **failure_params(MADE),
            **when(METRIC in JUDGES, partial=f"{MADE}/scores.partial.jsonl"),
            **when(PLAN.runs_model(METRIC), compute=config["compute"]),
            code=PLAN.metric_code(METRIC),
        script:
            "../scripts/score_metric.py"

    if SHARDS:

        rule:
            name:
                f"gather_{METRIC}"
            input:
                explanations=f"{EXPERIMENT}/generation/explanations.parquet",
                parts=expand(f"{MADE}/blocks.json", shard=SHARDS, allow_missing=True),
                records=expand(f"{MADE}/provenance.json", shard=SHARDS, allow_missing=True),
            output:
                scores=f"{FOLDER}/scores.parquet",
                summary=f"{FOLDER}/summary.json",
                replies=f"{FOLDER}/replies.parquet",
                provenance=f"{FOLDER}/provenance.json",
            log:
                f"{EXPERIMENT}/logs/gather_{METRIC}.log",
            benchmark:
                f"{EXPERIMENT}/benchmarks/gather_{METRIC}.tsv"
            conda:
                ENVIRONMENT
            threads: 1
            resources:
                mem_mb=scaled(1000),
                runtime=scaled(10),
            params:
                **metric_params(METRIC),
                **failure_params(FOLDER),
                code=PLAN.digest("gather_scores"),
            script:
                "../scripts/gather_scores.py"


rule merge_scores:
    input:
        unpack(PLAN.scores),
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
        code=PLAN.digest("merge_scores"),
    script:
        "../scripts/merge_scores.py"


# A metric that fails leaves its reason in place of its scores. All else is made; here the run ends with an error.
rule check_metrics:
    input:
        summary=PLAN.files([PLAN.row(*pair, seed) for pair in PLAN.pairs for seed in PLAN.seeds], "summary")["summary"],
    output:
        provenance=f"{PAPER}/metrics.provenance.json",
    log:
        f"{PAPER}/logs/check_metrics.log",
    benchmark:
        f"{PAPER}/benchmarks/check_metrics.tsv"
    priority: -1
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        settings={},
        code=PLAN.digest("check_metrics"),
    script:
        "../scripts/check_metrics.py"
