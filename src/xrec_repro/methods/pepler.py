"""PEPLER (Li, Zhang and Chen, 2023): a language model that is given a user and an item as its prompt, and tuned whole.

`pepler_fit` and `pepler_write` do the work, on the model in `pepler_model`; docs/baselines-pepler.md has the equations
and what the settings switch.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from xrec_repro.errors import ConfigError
from xrec_repro.methods.base import Method, Run, Settings
from xrec_repro.setting_types import Positive, PositiveNumber


@dataclass(frozen=True, kw_only=True)
class PeplerSettings(Settings):
    """The defaults are those of the authors' main script.

    Attributes:
        prompt: ``continuous``: a vector of the user and one of the item; ``discrete``: words, the features that both
            have in the train split.
        stage1: What is trained before everything is: ``words`` (the vectors and the table of word vectors, as the
            authors' script does), ``vectors`` (as the paper says), or ``none``.
        rating: Whether a rating is learnt along from the two vectors: ``none``, ``mf`` (their product) or ``mlp``.
        rating_weight: Of its squared error in the loss; the authors: 0.01 for ``mf``, 1 for ``mlp``.
        rating_hidden: Width of the three hidden layers of ``mlp``.
        tokens: ``added``: a text stands between new tokens and spaces, as in the authors' code; ``own``: between the
            tokens that the language model begins and ends texts with.
        words: Tokens of a text that are read; the rest of it is cut off.
        prompt_words: Tokens that a discrete prompt is cut or padded to.
        shared: How often a feature of both user and item is in the prompt: ``twice`` (the authors' code) or ``once``.
        max_examples: At most so many of the train split, in its order; null: all.
        epochs: At most, in each stage.
        batch_size: Texts a step.
        order: ``random`` (the authors), or ``pools``: batches of like length out of pools of random texts, which have
            fewer pads to compute.
        learning_rate: Of AdamW; the authors: 1e-4 for the discrete prompt.
        stopping: What ends a stage before: ``endured``, epochs that do not improve the validation loss, over all the
            stage (the authors), or ``patience``, such epochs in a row.
        patience: So many of them.
        unseen: The vector of users and items without a training example: the ``mean`` of the others', or ``random``, as
            each is drawn (the authors).
        repo: A model of the hub instead of that of the section ``llm``, …
        revision: … and its 40-digit commit.
        model: A model's folder instead.
    """

    prompt: Literal["continuous", "discrete"] = "continuous"
    stage1: Literal["words", "vectors", "none"] = "words"
    rating: Literal["none", "mf", "mlp"] = "none"
    rating_weight: PositiveNumber = 1.0
    rating_hidden: Positive = 400
    tokens: Literal["added", "own"] = "added"
    words: Positive = 20
    prompt_words: Positive = 20
    shared: Literal["twice", "once"] = "twice"
    max_examples: Positive | None = None
    epochs: Positive = 100
    batch_size: Positive = 128
    order: Literal["random", "pools"] = "random"
    learning_rate: PositiveNumber = 1.0e-3
    stopping: Literal["endured", "patience"] = "endured"
    patience: Positive = 5
    unseen: Literal["mean", "random"] = "mean"
    repo: str | None = None
    revision: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if self.prompt == "discrete" and (self.stage1, self.rating) != ("none", "none"):
            raise ConfigError(
                "PEPLER: a discrete prompt has no vectors of users and items, which stage1 and rating train; set both "
                "to none, or prompt to continuous"
            )
        if (self.repo is None) != (self.revision is None) or None not in (self.repo, self.model):
            raise ConfigError("PEPLER: give repo and its revision together, or model, or none of them")


class Pepler(Method):
    """PEPLER and its variants; what an experiment lacks for its settings, `needs` of the instance says."""

    Settings = PeplerSettings
    settings: PeplerSettings
    needs = frozenset({"llm"})
    sections = ("llm",)
    files = ("model",)
    predicts = frozenset({"ratings"})  # where `rating` is not none
    gpu = True
    trained = True
    modules: ClassVar = {"fit": "xrec_repro.methods.pepler_fit", "write": "xrec_repro.methods.pepler_write"}

    def __init__(self, settings: PeplerSettings, run: Run) -> None:
        super().__init__(settings, run)
        more = {"ratings"} if settings.rating != "none" else {"features"} if settings.prompt == "discrete" else set()
        self.needs = type(self).needs | more


METHOD = Pepler
