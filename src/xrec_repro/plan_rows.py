"""What the paper stage asks a plan: its rows, and the file of a kind that each has."""

from collections.abc import Iterable, Mapping
from typing import Any

from xrec_repro.config import method_class, sweep_members
from xrec_repro.kinds import kind_of

Row = dict[str, Any]
Files = dict[str, Any]


def when(condition: Any, **files: Any) -> Files:
    """Return the files if the condition holds, else none: optional inputs by name."""
    return files if condition else {}


class PaperRows:
    """The base of `xrec_repro.plan.Plan`, which has what is used here."""

    def rows(self, experiments: Iterable[str] | None) -> list[Row]:
        """List the rows of a table or figure: those of these experiments that run, or all.

        All are those that the run lists; of what a sweep adds, only what is named. A list of which none runs is the
        default (`config_rules.check_config` refuses any other), and stands for all, too.
        """
        named = [pair for pair in self.pairs if experiments and pair[1] in experiments]
        return [self.row(*pair, seed) for pair in named or self.listed for seed in self.seeds]

    def row(self, dataset: str, experiment: str, seed: int) -> Row:
        """Describe one experiment and seed, as the paper stage names it."""
        chosen, data = self.settings(dataset, experiment), self.config["datasets"][dataset]
        entry = self.config["experiments"][experiment]
        return {
            "dataset": dataset,
            "dataset_label": data["label"],
            "published_as": data["published_as"],
            "experiment": experiment,
            "experiment_label": entry["label"],
            "published_model": entry["published_model"],
            "seed": seed,
            "kind": kind_of(
                data["source"], chosen["llm"]["source"] if "llm" in self.given(dataset, experiment) else None
            ),
            "few": chosen["generation"]["subset"] < 1,
        }

    def file(self, kind: str, row: Row) -> str | None:
        """Return the file of a kind for a row, or None where the row has none."""
        pair = row["dataset"], row["experiment"]
        shared, own, trained = self.shared.format(**row), self.experiment.format(**row), self.is_trained(*pair)
        present = {
            "train": trained,
            "training": trained,
            "weights": trained and "adapter" in method_class(self.config, row["experiment"]).sections,
            "embeddings": self.reads_embeddings(*pair),
            "truth": self.source(row["dataset"]) == "glassbox",
        }
        paths = {
            "train": f"{own}/method/provenance.json",
            "training": f"{own}/method/training.parquet",
            "weights": f"{own}/method/weights.safetensors",
            "embeddings": self.embeddings(**row),
            "generate": f"{own}/generation/provenance.json",
            "explanations": f"{own}/generation/explanations.parquet",
            "scores": f"{own}/metrics/scores.parquet",
            "summary": f"{own}/metrics/summary.json",
            "core": f"{shared}/kcore/interactions.parquet",
            "graph": f"{shared}/split/graph.parquet",
            "texts": f"{shared}/split/texts.parquet",
            "examples": self.examples.format(**row),
            "truth": f"{shared}/world/truth.parquet",
        }
        return paths[kind] if present.get(kind, True) else None

    def files(self, rows: Iterable[Row], *kinds: str) -> dict[str, list[str | None]]:
        """Return kind -> the file of each row, None where it has none."""
        rows = list(rows)
        return {kind: [self.file(kind, row) for row in rows] for kind in kinds}

    def swept(self) -> list[Row]:
        """List the rows of the figure of the sweeps."""
        return [
            self.row(dataset, experiment, seed)
            | {"sweep": sweep, "key": entry["key"], "value": value, "own": experiment == base}
            | {"base_label": self.config["experiments"][base]["label"]}
            for sweep, entry in self.config["sweeps"].items()
            for dataset, base in [entry["base"].split("/")]
            for value, experiment in sweep_members(self.config, sweep)
            for seed in self.seeds
        ]

    def figures(self) -> list[str]:
        """List the figures of the run: curves and embeddings need a tuned experiment, groups of users a score."""
        paper = self.config["paper"]
        needed = {"figure3": "training", "embeddings": "weights"}
        found = [
            name for name, kind in needed.items() if any(self.files(self.rows(paper[name]["experiments"]), kind)[kind])
        ]
        columns = {column for metric in self.config["metrics"]["use"] for column in self.stated(metric).columns}
        groups = ["figure4"] if columns.intersection(paper["sparsity"]["metrics"]) else []
        return ["figure2", "figure2_zoomed", *groups, "costs", *found]


def inputs(files: Mapping[str, Iterable[str | None]]) -> dict[str, list[str]]:
    """Return the files of `Plan.files`, each once, without those that are none."""
    return {kind: list(dict.fromkeys(filter(None, paths))) for kind, paths in files.items()}
