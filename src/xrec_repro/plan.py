"""What a run is made of: from the configuration to what each experiment needs, and which file each stage makes.

The Snakefile asks here, and is parsed again in every job: this module must stay free of heavy imports.
"""

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from xrec_repro.config import (
    READ_EMBEDDINGS,
    Config,
    expand_sweeps,
    experiment_pairs,
    like,
    method_class,
    raw_files,
    settings,
)
from xrec_repro.errors import ConfigError
from xrec_repro.identity import code_digest, places_digest
from xrec_repro.plan_metrics import PlannedMetrics
from xrec_repro.plan_rows import PaperRows, when
from xrec_repro.plugins import module_file
from xrec_repro.recommenders import RECOMMENDERS
from xrec_repro.shards import JUDGES, shard_names

Files = dict[str, Any]


class Plan(PaperRows, PlannedMetrics):
    """The plan of a run.

    Methods that take `w` take anything with the attributes dataset, experiment, seed and so on that the paths in
    question have: Snakemake's wildcards. Places are files and models of the user's own: no stage makes them, and their
    digests, not their times, tell when they change.

    Args:
        config: Checked and whole, not expanded.
        root: The checkout.

    Attributes:
        config: With the experiments of its sweeps.
        listed: (data set, experiment) pairs that tables and figures show unless they name others: those of the run.
        pairs: Those, and what sweeps add.
        datasets: Names of the run's data sets.
        seeds: Its seeds.
        run: Folder of all; `shared`, `experiment`, `method`, `paper`, `audit` are folders in it, patterns of paths.
        examples: The pattern of the joined examples.
        raw: Data set -> kind -> its raw files, as they are when the configuration is read.

    Raises:
        ConfigError: A sweep cannot be expanded, no file matches a pattern, or nothing can score an experiment.
    """

    def __init__(self, config: Config, root: Path) -> None:
        self.root = root
        self.listed = experiment_pairs(config)
        self.config = expand_sweeps(config)
        self.pairs = experiment_pairs(self.config)
        self.datasets = list(dict.fromkeys(dataset for dataset, _ in self.pairs))
        self.seeds: list[int] = config["run"]["seeds"]
        self.results = config["run"]["results"]
        self.run = f"{self.results}/{config['run']['name']}"
        self.shared = f"{self.run}/{{dataset}}/shared"
        self.examples = f"{self.shared}/examples/examples.parquet"
        self.experiment = f"{self.run}/{{dataset}}/{{experiment}}/seed{{seed}}"
        self.method = f"{self.experiment}/method"
        self.paper = f"{self.run}/paper"
        self.audit = f"{self.run}/audit"
        self.raw = raw_files(self.config)
        # Relative, as all paths in params and inputs are, so that a copy of the folder elsewhere is the same run.
        self.resources = os.path.relpath(root / "resources")
        self._settings = lru_cache(None)(lambda *names: settings(self.config, *names))
        for pair in self.pairs:
            if not self.metrics(*pair):
                raise ConfigError(
                    f"configuration: metrics.use: none of {', '.join(config['metrics']['use'])} can score "
                    f"{'/'.join(pair)}, which has no true reasons or predicts no ratings; add one"
                )

    def settings(self, dataset: str, experiment: str | None = None) -> Config:
        """Return the settings of a data set, or of an experiment on it; not to be changed."""
        return self._settings(dataset, experiment)

    def source(self, dataset: str) -> str:
        """Return where a data set comes from."""
        return self.config["datasets"][dataset]["source"]

    def sourced(self, *sources: str) -> str:
        """Return a wildcard constraint: the run's data sets that come from one of these sources."""
        return _any_of(name for name in self.datasets if self.source(name) in sources)

    def digest(self, stem: str, *modules: str) -> str:
        """Return the digest of a script, of modules that it imports by name, and of all modules behind them."""
        paths = [f"workflow/scripts/{stem}.py", *(f"src/xrec_repro/{module}.py" for module in modules)]
        return code_digest(*(str(self.root / path) for path in paths))

    def resource_digests(self, *names: str) -> dict[str, str]:
        """Return the digests of files of the folder resources."""
        return places_digest({name: f"{self.resources}/{name}" for name in names})

    # --- Data ---------------------------------------------------------------------------------------------------------
    def raw_file(self, w: Any, kind: str) -> str | list[str]:
        """Return raw files of a data set, made by the glassbox or given by the user; `kind` is reviews or items."""
        if self.source(w.dataset) == "glassbox":
            name = {"reviews": "reviews.jsonl.gz", "items": "metadata.jsonl.gz"}[kind]
            return f"{self.shared}/world/{name}".format(dataset=w.dataset)
        return self.raw[w.dataset][kind]

    def release(self, dataset: str) -> Files:
        """Return the folder of a release that is fetched and checked: it has a name in the manifest."""
        name = self.config["datasets"][dataset]["download"]
        return when(name, folder=f"{self.results}/downloads/{name}")

    def release_places(self, dataset: str) -> Files:
        """Return the folder of a release of the user's own."""
        entry = self.config["datasets"][dataset]
        return when(not entry["download"], folder=entry["paths"].get("folder"))

    def release_copies(self, w: Any) -> list[str]:
        """List the folders in which the files of a download may lie already."""
        entries = [self.config["datasets"][name] for name in self.datasets]
        found = [entry["paths"].get("folder") for entry in entries if entry["download"] == w.download]
        return list(filter(None, found))

    def split_inputs(self, w: Any) -> Files:
        """Return the files of a release that the split may need."""
        release, raw = self.source(w.dataset) == "release", f"{self.shared}/raw".format(dataset=w.dataset)
        edges = release and self.settings(w.dataset)["split"]["graph"] == "released"
        return when(release, texts=f"{raw}/texts.parquet") | when(edges, edges=f"{raw}/edges.parquet")

    # --- Texts; `key` is backend (of profiles) or references ----------------------------------------------------------
    def published_texts(self, w: Any, key: str) -> Files:
        """Return the file of published texts where a stage is set to use it."""
        folder = "world" if self.source(w.dataset) == "glassbox" else "raw"
        published = f"{self.shared}/{folder}/texts.parquet".format(dataset=w.dataset)
        return when(self.settings(w.dataset)["profiles"][key] == "published", published=published)

    def writer_settings(self, w: Any, key: str) -> Config:
        """Return the settings of profiles or references, less what their backend does not read."""
        full = self.settings(w.dataset)["profiles"]
        unread = {"backend", "references"} - {key} | ({"chat"} if full[key] != "chat" else set())
        return {"profiles": {name: value for name, value in full.items() if name not in unread}}

    def written(self, key: str, by_model: bool) -> str:
        """Return a wildcard constraint: the run's data sets whose texts a chat model of this machine writes, or not."""
        return _any_of(name for name in self.datasets if self.writes_by_model(name, key) == by_model)

    def writes_by_model(self, dataset: str, key: str) -> bool:
        """Tell whether the texts are written by a chat model of this machine: not by rules, nor by a server."""
        chosen = self.settings(dataset)["profiles"]
        return chosen[key] == "chat" and chosen["chat"]["base_url"] is None

    def chat_places(self, w: Any, key: str) -> Files:
        """Return the folder of a chat model that runs here, if one writes the texts and no hub revision pins it."""
        chat = self.settings(w.dataset)["profiles"]["chat"]
        return when(self.writes_by_model(w.dataset, key) and chat["revision"] is None, chat_model=chat["model"])

    def example_inputs(self, w: Any) -> Files:
        """Return the profiles where something reads them: a method, or the language model that is pretrained here."""
        folder = f"{self.shared}/profiles".format(dataset=w.dataset)
        given = [self.given(*pair) for pair in self.pairs if pair[0] == w.dataset]
        pretrained = self.settings(w.dataset)["llm"]["source"] == "scratch" and any("llm" in one for one in given)
        read = pretrained or any("profiles" in one for one in given)
        return when(read, user_profiles=f"{folder}/users.parquet", item_profiles=f"{folder}/items.parquet")

    # --- Recommenders -------------------------------------------------------------------------------------------------
    def recommender(self, w: Any) -> tuple[Config, str]:
        """Return a recommender's entry, and where it stands."""
        return like(self.settings(w.dataset)["recommenders"], w.recommender), f"recommenders.{w.recommender}"

    def reads_release(self, w: Any) -> bool:
        """Tell whether a recommender reads the release."""
        return "release" in RECOMMENDERS.chosen(*self.recommender(w)).needs

    def recommender_gpu(self, w: Any) -> bool:
        """Tell whether a recommender gains from a GPU."""
        return RECOMMENDERS.chosen(*self.recommender(w)).gpu

    def recommender_inputs(self, w: Any) -> Files:
        """Return the graph, and the release and the ids in it where a recommender reads them."""
        shared, reads = self.shared.format(dataset=w.dataset), self.reads_release(w)
        graph = {"graph": f"{shared}/split/graph.parquet"}
        return graph | (self.release(w.dataset) | {"ids": f"{shared}/kcore/interactions.parquet"} if reads else {})

    def recommender_places(self, w: Any) -> Files:
        """Return the folder of a release of the user's own, where a recommender reads it."""
        return self.release_places(w.dataset) if self.reads_release(w) else {}

    def recommender_code(self, w: Any) -> str:
        """Return the digest of what trains a recommender: the stage's code and its own module's."""
        script = self.root / "workflow/scripts/train_recommender.py"
        return code_digest(str(script), module_file(RECOMMENDERS.module_of(*self.recommender(w))))

    def embeddings(self, dataset: str, experiment: str, seed: str, **_: Any) -> str:
        """Return the embeddings of the recommender that an experiment names, which all that name it share."""
        name = self.settings(dataset, experiment)["embeddings"]["of"]
        return f"{self.shared}/recommender/{name}/seed{seed}/embeddings.safetensors".format(dataset=dataset)

    # --- Methods ------------------------------------------------------------------------------------------------------
    def given(self, dataset: str, experiment: str) -> frozenset[str]:
        """Return what an experiment's method is given: what it needs, less what the experiment takes from it."""
        chosen = self.settings(dataset, experiment)
        taken = {"embeddings"} if chosen["embeddings"]["as"] == "none" else set()
        taken |= set() if chosen["prompt"]["profiles"] else {"profiles"}
        return method_class(self.config, experiment).needs - taken

    def is_trained(self, dataset: str, experiment: str) -> bool:
        """Tell whether an experiment trains its method."""
        kind, form = method_class(self.config, experiment), self.settings(dataset, experiment)["embeddings"]["as"]
        return kind.trained and kind.trained_on <= self.given(dataset, experiment) and form != "swapped"

    def reads_embeddings(self, dataset: str, experiment: str) -> bool:
        """Tell whether an experiment's method reads a recommender's embeddings."""
        form = self.settings(dataset, experiment)["embeddings"]["as"]
        return form in READ_EMBEDDINGS and "embeddings" in self.given(dataset, experiment)

    def embeddings_of(self, dataset: str, experiment: str) -> dict[str, str | None]:
        """Return the form of an experiment's embeddings, None where its method reads none, and whose adapters write."""
        chosen, reads = self.settings(dataset, experiment)["embeddings"], method_class(self.config, experiment).needs
        return {"embeddings_as": chosen["as"] if "embeddings" in reads else None, "tuned_by": chosen["tuned_by"]}

    def llm_places(self, w: Any) -> Files:
        """Return the folder of a language model of the user's own."""
        llm = self.settings(w.dataset)["llm"]
        return when(llm["source"] == "local", llm=llm["path"])

    def method_inputs(self, w: Any) -> Files:
        """Return all files of other stages that training and writing read in common."""
        shared, given = self.shared.format(dataset=w.dataset), self.given(w.dataset, w.experiment)
        scratch = "llm" in given and self.settings(w.dataset)["llm"]["source"] == "scratch"
        return (
            {"examples": self.examples.format(dataset=w.dataset)}
            | when(scratch, llm=f"{shared}/llm/model")
            | when("graph" in given, graph=f"{shared}/split/graph.parquet")
            | when(self.reads_embeddings(w.dataset, w.experiment), embeddings=self.embeddings(**w))
            | (self.release(w.dataset) if self._of_release(w) else {})
        )

    def _of_release(self, w: Any) -> list[str]:
        """Return the settings of a method that name files of the data set's release: names without a folder."""
        chosen = self.settings(w.dataset, w.experiment)["method"]
        names = method_class(self.config, w.experiment).files if self.source(w.dataset) == "release" else ()
        return [name for name in names if chosen[name] and Path(chosen[name]).name == chosen[name]]

    def method_places(self, w: Any) -> Files:
        """Return the user's own files and models that a method reads."""
        chosen, released = self.settings(w.dataset, w.experiment)["method"], self._of_release(w)
        own = self.llm_places(w) if "llm" in self.given(w.dataset, w.experiment) else {}
        own |= self.release_places(w.dataset) if released else {}
        files = {name: chosen[name] for name in method_class(self.config, w.experiment).files if name not in released}
        return own | {name: path for name, path in files.items() if path is not None}

    def learnt(self, w: Any) -> Files:
        """Return what an experiment's method learnt, if it is trained, or what it takes from another that is."""
        chosen = self.settings(w.dataset, w.experiment)["embeddings"]
        source = chosen["tuned_by"] if chosen["as"] == "swapped" else w.experiment
        folder = self.method.format(dataset=w.dataset, experiment=source, seed=w.seed)
        trained = self.is_trained(w.dataset, source)
        return when(trained, weights=f"{folder}/weights.safetensors", facts=f"{folder}/method.json")

    def method_gpu(self, w: Any) -> bool:
        """Tell whether a method's jobs gain from a GPU."""
        return method_class(self.config, w.experiment).gpu

    def method_settings(self, w: Any, stage: str) -> Config:
        """Return what decides a stage of a method (fit or write), of the sections that the method reads.

        Of `embeddings` it is told the form alone: whose they are decides which file is its input.
        """
        merged, other = self.settings(w.dataset, w.experiment), {"fit": "generation", "write": "tuning"}[stage]
        sections = method_class(self.config, w.experiment).sections
        own = ("method", *sections, *(["generation"] if stage == "write" else []))
        return {name: merged[name] for name in own if name != other} | {
            "domain": self.config["datasets"][w.dataset]["domain"],
            "embeddings": merged["embeddings"]["as"],
            "embedding_width": like(merged["recommenders"], merged["embeddings"]["of"])["dim"],
            "profiles_shown": "profiles" in self.given(w.dataset, w.experiment),
        }

    def method_code(self, w: Any, script: str, stage: str) -> str:
        """Return the digest of a script and of the module that does a method's stage."""
        kind = method_class(self.config, w.experiment)
        module = module_file(kind.modules.get(stage, kind.__module__))
        return code_digest(str(self.root / f"workflow/scripts/{script}.py"), module)

    # --- Shards -------------------------------------------------------------------------------------------------------
    def shards(self, stage: str, metric: str | None = None) -> list[str]:
        """Return the names of a stage's shards, none where one job does it all; of metrics, judges alone have some."""
        count = 1 if stage == "judging" and metric not in JUDGES else self.config["scatter"][stage]
        return shard_names(count) if count > 1 else []


def _any_of(names: Iterable[str]) -> str:
    """Return a wildcard constraint that holds of these data sets; of none, it holds of nothing."""
    return "|".join(map(re.escape, names)) or "no-such-dataset"


def asked(function: Callable[..., Any], *more: Any) -> Callable[[Any], Any]:
    """Return a function of the wildcards alone, from one that takes more."""
    return lambda wildcards: function(wildcards, *more)
