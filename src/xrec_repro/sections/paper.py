"""Sections of the paper stage: statistics, claims, emissions, tables, figures and reports."""

from typing import Annotated, Literal

from pydantic import Field

from xrec_repro.setting_types import (
    UNIQUE,
    Entry,
    Name,
    Number,
    Positive,
    PositiveNumber,
    PositiveShare,
    Probability,
    Section,
    Seed,
    Text,
    Texts,
    key,
)

Chosen = Annotated[list[Name], Field(min_length=1, json_schema_extra=UNIQUE)] | None
Names = Annotated[list[Name], Field(json_schema_extra=UNIQUE)]
Aspects = Annotated[list[Literal["mean", "std"]], Field(min_length=1, json_schema_extra=UNIQUE)]
Figure = Literal["figure2", "figure2_zoomed", "figure3", "figure4", "embeddings", "costs", "sweeps"]
Inches = Annotated[float, Field(ge=1, le=100)]
Size = Annotated[list[Inches], Field(min_length=2, max_length=2)]


class Statistics(Section):
    """Intervals, tests, and the primary metrics that decide (docs/statistics.md)."""

    seed: Seed = key("of resampling", 0)
    bootstrap_samples: Positive = key("an interval is made from so many", 9999)
    permutations: Positive = key(
        "of a permutation test; more comparisons need more, so that a corrected p can reach alpha", 99999
    )
    interval: Literal["bca", "percentile"] = key("bca | percentile", "bca")
    confidence: Probability = key("of an interval", 0.95)
    clusters: Literal["user", "none"] = key(
        "user | none: what is drawn and swapped whole, where users have several test examples", "user"
    )
    runs: Literal["larger", "both", "fixed"] = key(
        "from three seeds on, a difference must also exceed what trainings differ by: larger (the larger spread of the "
        "two over their seeds, and the texts') | both (the spread of the seeds' differences alone) | fixed (no; a "
        "verdict is about these trainings)",
        "larger",
    )
    test: Literal["permutation", "bootstrap"] = key("permutation | bootstrap: whose p decides", "permutation")
    correction: Literal["holm", "none"] = key("holm | none, over the primary metrics of a table or a claim", "holm")
    alpha: Probability = key("a smaller p is a difference", 0.05)
    reference: Name = key("the experiment with which the others of its data set are compared", "xrec")
    primary: Names | None = key(
        "the few metrics that decide, named before the scores are seen; all others are exploratory; null: all",
        ["llamascore", "gptscore", "bertscore_f1", "faithfulness_f1"],
    )


class System(Entry):
    """What a name in the rules of claims stands for."""

    experiment: Name | None = key("of this run; null: it is known from published tables alone")
    published: Text | None = key("its name in the published tables; null: it is in none")


class Rule(Entry):
    """A claim, and how it is judged."""

    name: Text = key("in the report")
    text: Text = key("the claim in a sentence")
    kind: Literal["better", "unique"] = key(
        "better: higher means / lower standard deviations (aspects) than each of the others | unique: the metric of "
        "each system is at least at_least"
    )
    system: str = key("better: which is", None)
    systems: Texts = key("unique: which are", None)
    against: Texts = key("better: the others", None)
    metrics: Texts = key("by which it is judged")
    aspects: Aspects = key("better: mean, std or both", None)
    at_least: float = key("unique: what the metric must be", None)
    hold: Literal["all", "majority"] | PositiveShare = key(
        "how many comparisons must speak for the claim: all | majority | a share"
    )
    published_datasets: Texts | None = key("whose published numbers count; null: all")


class Claims(Section):
    """The rules by which claims are judged (docs/statistics.md)."""

    systems: Annotated[dict[str, System], Field(min_length=1)] = key(
        "name in the rules -> the experiment of this run, and the name in the published tables"
    )
    min_examples: Positive = key(
        "any comparison: fewer show only effects of more than a quarter of a standard deviation", 100
    )
    min_texts: Positive = key(
        "USR against at_least, which falls with N: the papers' test sets, or as many as one printed", 3000
    )
    rules: dict[Name, Rule] = key("the claims")


class Equivalent(Entry):
    """A thing whose emissions table 3 compares with."""

    label: Text = key("what it is one of")
    kg: PositiveNumber = key("CO2 of one")
    source: Text = key("of the number")


class Emissions(Section):
    """Study, eq. 1: kg = carbon_intensity x pue x power x hours (docs/emissions.md)."""

    charge: Literal["share", "node"] = key(
        "a job's power: share, by the cores and GPUs that it had; or node, all of it, as the study", "share"
    )
    carbon_intensity: Number = key("kg CO2 per kWh", 0.22)
    pue: Annotated[float, Field(ge=1)] = key("power usage effectiveness", 1.2)
    sources: dict[str, Text] = key("factor -> where it is from")
    node_power_kw: dict[str, PositiveNumber] = key(
        "name or kind of a device (e.g. cpu) -> kW of its whole node, all GPUs of it included, where "
        "resources/hardware.tsv does not know it",
        {},
    )
    unknown_cpu_kw: PositiveNumber | None = key(
        "assumed, and said so, of a CPU of which nothing else is known; null: no emissions then", 0.085
    )
    energy: Literal["auto", "none"] = key(
        "of jobs that run a model, by NVML and RAPL, where codecarbon is installed; or none", "auto"
    )
    equivalents: list[Equivalent] = key("table 3: kg of CO2 of one")


class Tables(Section):
    """Tables 1 and 2."""

    table1: Chosen = key("experiments in it", ["xrec", "no_profile"])
    table2: Chosen = key("experiments in it; null: all of the run", None)
    columns: Texts | None = key(
        "in Markdown and LaTeX, null: all; the CSV has all",
        [
            *("gptscore", "llamascore", "bertscore_p", "bertscore_r", "bertscore_f1", "bartscore", "bleurt", "usr"),
            *("faithfulness_p", "faithfulness_r", "faithfulness_f1"),
        ],
    )
    published: Literal["all", "beside"] = key(
        "all | beside: only published rows of the run's own data sets (datasets.*.published_as)", "all"
    )
    show_difference: bool = key("measured minus published", False)


class Figures(Section):
    """What all figures have."""

    captions: bool = key("printed under each figure; without, they stand in its provenance.json alone", True)
    sizes: dict[Figure, Size] = key(
        "figure (figure2, figure2_zoomed, figure3, figure4, embeddings, costs, sweeps) -> [width, height] in inches, "
        "e.g. {figure4: [3.4, 5]}: one column of a paper; others have a size of their own",
        {},
    )


class Figure2(Section):
    """Means and standard deviations of the variants."""

    metrics: Annotated[list[Texts], Field(min_length=1)] = key(
        "a pair of panel rows each: the first that a panel has", [["llamascore", "gptscore"], ["bertscore_f1"]]
    )


class Figure3(Section):
    """Curves of tuning."""

    experiments: Chosen = key("whose tuning is shown", ["xrec", "fixed_moe"])
    method: Literal["rolling", "ema"] = key("rolling | ema", "rolling")
    window: Positive = key("steps", 25)


class SweepsFigure(Section):
    """The figure of the sweeps."""

    metrics: Texts = key(
        "rows of the figure; left out where nothing has it", ["faithfulness_f1", "bertscore_f1", "validation_loss"]
    )


class Sparsity(Section):
    """Figure 4 of the XRec paper."""

    groups: Literal[5, 3] = key("of equal user count, by train interactions; GaVaMoE: 3", 5)
    metrics: Annotated[list[str], Field(min_length=1, json_schema_extra=UNIQUE)] = key(
        "those of them that are scored", ["llamascore", "bertscore_f1", "bleurt", "faithfulness_f1"]
    )


class Questions(Section):
    """What the study left open (docs/questions.md)."""

    words: Positive = key("of a text's opening", 8)
    metrics: Annotated[Texts, Field(min_length=1)] = key(
        "the first that a data set has is the score", ["faithfulness_f1", "bertscore_f1"]
    )
    ranks: Annotated[list[Positive], Field(min_length=1, json_schema_extra=UNIQUE)] = key(
        "upper ends of the ranges of an item's rank for a user", [10, 50, 200]
    )


class EmbeddingsFigure(Section):
    """The map of adapted embeddings."""

    experiments: Chosen = key("whose embeddings are shown; null: all of the run", None)
    method: Literal["tsne", "pca"] = key("tsne | pca", "tsne")
    perplexity: PositiveNumber = key("of t-SNE", 30)
    seed: Seed = key("of the draw of points, and of t-SNE", 0)
    max_points: Positive = key("of users and of items", 200)


class ExampleSection(Entry):
    """Examples of one kind."""

    title: Text = key("its heading")
    experiments: Chosen = key("whose texts stand side by side")
    rule: Literal["random", "difference", "broken"] = key("which examples: random | difference | broken")
    count: Positive = key("a data set")


class Examples(Section):
    """The report of examples."""

    seed: Seed = key("of the rule `random`", 0)
    metric: str = key("of the rule `difference`", "bertscore_f1")
    sections: list[ExampleSection] = key("rules: random | difference | broken; count: a data set")


class Browse(Section):
    """The page of explanations."""

    title: Text = key("of the page", "Explanations")
    max_examples: Positive | None = key("of a data set on the page; null: all", 1000)
    seed: Seed = key("of the draw of these", 0)


class Audit(Section):
    """The audit of the released data."""

    data: Text = key("released folders amazon, yelp, google; checks of absent ones say so", "../shared/data/xrec")


class Paper(Section):
    """Tables, figures and reports; of a default list of experiments, those that run are taken, or all if none does."""

    tables: Tables
    figures: Figures
    figure2: Figure2
    figure3: Figure3
    sweeps: SweepsFigure
    sparsity: Sparsity
    questions: Questions
    embeddings: EmbeddingsFigure
    examples: Examples
    browse: Browse
    audit: Audit
