"""Scores of the explanations: one job for the metrics that run models, and one for the rest, which joins all.

Both are for all seeds of an experiment: what is loaded is loaded once. A judge that is asked for long is apart, in a job
a seed, or in shards.
"""

BY_MODELS = PLAN.by_models()
REPLYING = [metric for metric in BY_MODELS if metric in JUDGES]
APART = [metric for metric in config["metrics"]["use"] if PLAN.is_apart(metric)]
SEEDS = f"{RUN}/{{dataset}}/{{experiment}}"  # of all seeds of an experiment

for METRIC in APART:
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
            **metric_params(METRIC, MADE),
            **when(METRIC in JUDGES, partial=f"{MADE}/scores.partial.jsonl"),
            **when(PLAN.runs_model(METRIC), compute=config["compute"]),
            code=PLAN.metric_code("score_metric", METRIC),
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
                **metric_params(METRIC, FOLDER),
                code=PLAN.digest("gather_scores"),
            script:
                "../scripts/gather_scores.py"


if BY_MODELS:

    rule score_by_models:
        input:
            unpack(asked(PLAN.shared_inputs, BY_MODELS)),
            unpack(own_files(asked(PLAN.shared_places, BY_MODELS))),
        output:
            **when(REPLYING, replies=each_seed(*(f"{metric}/replies.parquet" for metric in REPLYING))),
            scores=each_seed(*(f"{metric}/scores.parquet" for metric in BY_MODELS)),
            summaries=each_seed(*(f"{metric}/summary.json" for metric in BY_MODELS)),
            provenance=f"{SEEDS}/score_by_models.provenance.json",
        log:
            f"{SEEDS}/logs/score_by_models.log",
        benchmark:
            f"{SEEDS}/benchmarks/score_by_models.tsv"
        priority: 1
        conda:
            ENVIRONMENT
        threads: config["compute"]["threads"]
        resources:
            mem_mb=scaled(PLAN.metric_memory(*BY_MODELS)),
            runtime=scaled(240),
            gpu=GPUS,
        params:
            **shared_params(lambda wildcards: BY_MODELS, *each_seed(*BY_MODELS)),
            metrics=BY_MODELS,
            compute=config["compute"],
            code=PLAN.metric_code("score_by_models", *BY_MODELS),
        script:
            "../scripts/score_by_models.py"


rule score_explanations:
    input:
        unpack(lambda wildcards: PLAN.shared_inputs(wildcards, PLAN.by_texts(wildcards))),
        unpack(lambda wildcards: own_files(asked(PLAN.shared_places, PLAN.by_texts(wildcards)))(wildcards)),
        unpack(PLAN.scores),
    output:
        scores=each_seed("scores.parquet"),
        summaries=each_seed("summary.json"),
        provenance=f"{SEEDS}/score_explanations.provenance.json",
    log:
        f"{SEEDS}/logs/score_explanations.log",
    benchmark:
        f"{SEEDS}/benchmarks/score_explanations.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        **shared_params(PLAN.by_texts, *expand(f"{EXPERIMENT}/metrics", seed=PLAN.seeds, allow_missing=True)),
        metrics=lambda wildcards: PLAN.metrics(wildcards.dataset, wildcards.experiment),
        code=lambda wildcards: PLAN.metric_code("score_explanations", *PLAN.by_texts(wildcards)),
    script:
        "../scripts/score_explanations.py"


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
