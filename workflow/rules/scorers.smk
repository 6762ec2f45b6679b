"""Small scorers for machines without a model hub, trained on the train-split references of the run's data sets."""

for SCORER in ("bart", "bleurt", "judge"):

    rule:
        name:
            f"train_{SCORER}"
        input:
            examples=expand(PLAN.examples, dataset=PLAN.datasets),
        output:
            model=directory(f"{RUN}/scorers/{SCORER}/model"),
            provenance=f"{RUN}/scorers/{SCORER}/provenance.json",
        log:
            f"{RUN}/scorers/logs/train_{SCORER}.log",
        benchmark:
            f"{RUN}/scorers/benchmarks/train_{SCORER}.tsv"
        conda:
            ENVIRONMENT
        threads: config["compute"]["threads"]
        resources:
            mem_mb=scaled(3000),
            runtime=scaled(60),
        params:
            settings=config["scorers"][SCORER],
            scorer=SCORER,
            compute=THREADS,
            code=PLAN.digest("train_scorer", f"scorers/{SCORER}"),
        script:
            "../scripts/train_scorer.py"
