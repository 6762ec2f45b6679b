"""What a plan knows of metrics: which of an experiment's share a job, what each reads, and what decides its scores."""

from collections.abc import Iterable
from typing import Any

from xrec_repro.config import method_class
from xrec_repro.identity import code_digest, libraries_of
from xrec_repro.metrics.columns import Stated, Told, as_told
from xrec_repro.metrics.registry import metric_file, metric_names, stated
from xrec_repro.plan_rows import Files, when
from xrec_repro.shards import JUDGES, SCRATCH_SCORERS

BUNDLED = ("minilm",)  # names of models that a package carries


class PlannedMetrics:
    """A base of `xrec_repro.plan.Plan`, which has what is used here.

    The metrics of an experiment are scored by two jobs for all its seeds, one for those that run models, which then are
    loaded once, and one for the rest, which joins all. A judge that is asked for long has jobs of its own.
    """

    def stated(self, metric: str) -> Stated:
        """Return what a metric states of itself."""
        return stated(metric, self.config["metrics"][metric])

    def metric_columns(self) -> Told:
        """Return metric -> column -> what is stated of it: the metrics of the package, and those in use."""
        names = dict.fromkeys([*metric_names(), *self.config["metrics"]["use"]])
        return as_told({name: stated(name, self.config["metrics"].get(name, {})) for name in names})

    def metrics(self, dataset: str, experiment: str) -> list[str]:
        """List the metrics in use that have what they need of an experiment.

        True reasons are known of a glassbox alone, ratings where the method predicts some. Whether the data have
        ratings or features is seen when they are scored.
        """
        known = {"reference", "feature"} | ({"truth"} if self.source(dataset) == "glassbox" else set())
        known |= {"rating"} if "ratings" in method_class(self.config, experiment).predicts else set()
        return [metric for metric in self.config["metrics"]["use"] if known.issuperset(self.stated(metric).needs)]

    # --- Which job scores it ------------------------------------------------------------------------------------------
    def runs_model(self, metric: str) -> bool:
        """Tell whether a metric runs a model on this machine."""
        return "model" in self.stated(metric).files

    def is_apart(self, metric: str) -> bool:
        """Tell whether a metric has jobs of its own, one an experiment and seed.

        A judge has, unless its model is a small one of the run's own and it is not cut into shards; and so has what
        runs a model and cannot score every experiment.
        """
        if metric in JUDGES:
            return self.config["metrics"][metric].get("model") != "scratch" or bool(self.shards("judging", metric))
        return self.runs_model(metric) and not all(metric in self.metrics(*pair) for pair in self.pairs)

    def by_models(self) -> list[str]:
        """List the metrics in use that run models and share a job."""
        return [name for name in self.config["metrics"]["use"] if self.runs_model(name) and not self.is_apart(name)]

    def by_texts(self, w: Any) -> list[str]:
        """List the metrics of an experiment that run no model and share a job: they take a second together."""
        names = self.metrics(w.dataset, w.experiment)
        return [name for name in names if not self.runs_model(name) and not self.is_apart(name)]

    def metric_memory(self, *metrics: str) -> int:
        """Return the memory of a job of these in MB: without a model, with small ones of ours, with a large one."""

        def memory(metric: str) -> int:
            if not self.runs_model(metric):
                return 1000
            small = self.config["metrics"][metric].get("model") in ("scratch", *BUNDLED)
            return 4000 if small else 32000 if metric in JUDGES else 16000

        return max(map(memory, metrics))

    # --- What it reads ------------------------------------------------------------------------------------------------
    def metric_places(self, w: Any, metric: str) -> Files:
        """Return the user's own files that a metric reads: a model's folder, a state dict."""
        chosen = self.config["metrics"][metric]
        places = {name: chosen[name] for name in self.stated(metric).files if chosen.get(name) is not None}
        elsewhere = places.get("model") in ("scratch", *BUNDLED) or chosen.get("revision") is not None
        return {name: place for name, place in places.items() if not (name == "model" and elsewhere)}

    def metric_inputs(self, w: Any, metric: str) -> Files:
        """Return the explanations of a seed, and what a metric reads beside them."""
        explanations = f"{self.experiment}/generation/explanations.parquet".format(**w)
        return {"explanations": explanations} | self._beside(w, metric)

    def _beside(self, w: Any, metric: str) -> Files:
        scratch = self.config["metrics"][metric].get("model") == "scratch" and metric in SCRATCH_SCORERS
        needs, shared = self.stated(metric).needs, self.shared.format(dataset=w.dataset)
        return (
            when("truth" in needs, truth=f"{shared}/world/truth.parquet")
            | when({"rating", "feature"} & set(needs), examples=self.examples.format(dataset=w.dataset))
            | when(scratch, model=f"{self.run}/scorers/{SCRATCH_SCORERS.get(metric)}/model")
        )

    def shared_places(self, w: Any, metrics: Iterable[str]) -> Files:
        """Return the user's own files that metrics of one job read, by ``<metric>.<setting>``."""
        found = {metric: self.metric_places(w, metric) for metric in metrics}
        return {f"{metric}.{name}": place for metric, places in found.items() for name, place in places.items()}

    def shared_inputs(self, w: Any, metrics: Iterable[str]) -> Files:
        """Return the explanations of all seeds, and what metrics of one job read beside them; ``<metric>.model``."""
        found: Files = {"explanations": self.each_seed(w, "generation/explanations.parquet")}
        for metric in metrics:
            beside = self._beside(w, metric)
            found |= {f"{metric}.model" if name == "model" else name: path for name, path in beside.items()}
        return found

    def each_seed(self, w: Any, name: str) -> list[str]:
        """Return a file of an experiment, of each seed."""
        return [f"{self.experiment}/{name}".format(**{**w, "seed": seed}) for seed in self.seeds]

    def scores(self, w: Any) -> Files:
        """Return the files of the metrics of an experiment that other jobs than the one that joins them scored."""
        joined = self.by_texts(w)
        names = [name for name in self.metrics(w.dataset, w.experiment) if name not in joined]
        files = {"scores": "scores.parquet", "summaries": "summary.json"}
        return {
            kind: [path for name in names for path in self.each_seed(w, f"metrics/{name}/{file}")]
            for kind, file in files.items()
        }

    # --- What decides its scores --------------------------------------------------------------------------------------
    def metric_code(self, script: str, *metrics: str) -> str:
        """Return the digest of what scores metrics: the script's code, and their own modules'."""
        files = [metric_file(metric, self.config["metrics"][metric]) for metric in metrics]
        return code_digest(str(self.root / f"workflow/scripts/{script}.py"), *files)

    def metric_libraries(self, *metrics: str) -> dict[str, str | None]:
        """Return the versions of the libraries that the signatures of metrics name."""
        files = [metric_file(metric, self.config["metrics"][metric]) for metric in metrics]
        return {name: version for file in files for name, version in libraries_of(file).items()}
