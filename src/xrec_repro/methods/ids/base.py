"""Methods that explain from ids: what they share of settings, training and writing."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from xrec_repro.methods.base import Fitted, Method, Settings, Written
from xrec_repro.plugins import Positive, PositiveNumber

if TYPE_CHECKING:
    import torch

    from xrec_repro.examples import Example
    from xrec_repro.methods.ids.network import Network
    from xrec_repro.methods.ids.reader import Reader, Rows

log = logging.getLogger("xrec_repro")


@dataclass(frozen=True, kw_only=True)
class IdsSettings(Settings):
    """Settings of data, training and writing.

    Attributes:
        words: Of a text that are learnt and written, at most (the authors: 15; 96 hold every text of XRec's data).
        tokens: What a word is: ``punctuation`` apart and written back in its place, or between ``whitespace`` (the
            authors).
        vocabulary: Whose words are known: those of ``train``, or of ``all`` splits (the authors).
        vocabulary_size: Words that are known, at most: the most frequent.
        special_words: Whether ``<bos>``, ``<pad>`` and ``<unk>`` may be written (the authors).
        unseen: The vector of users and items without a training example: the ``mean`` of the others', or ``random``,
            as drawn (the authors; there each has its own, here all share one).
        learning_rate: Of the optimiser.
        batch_size: Texts a step.
        epochs: At most.
        stopping: What ends training before: ``endured``, epochs that do not improve the validation loss, over all the
            training (the authors), or ``patience``, such epochs in a row.
        patience: So many of them.
        decay: Factor of the learning rate at each of them.
        clip: Global norm that gradients are clipped to; null: none.
        first_epoch: Order of the first epoch: ``shuffled`` as all others, or ``in_order`` of the data (the authors).
    """

    words: Positive = 96
    tokens: Literal["punctuation", "whitespace"] = "punctuation"
    vocabulary: Literal["train", "all"] = "train"
    vocabulary_size: Positive = 20000
    special_words: bool = False
    unseen: Literal["mean", "random"] = "mean"
    learning_rate: PositiveNumber
    batch_size: Positive
    epochs: Positive = 100
    stopping: Literal["endured", "patience"] = "endured"
    patience: Positive = 5
    decay: PositiveNumber = 1.0
    clip: PositiveNumber | None = None
    first_epoch: Literal["shuffled", "in_order"] = "shuffled"


class IdsMethod(Method):
    """A network that is trained on ids and words alone, and writes greedily.

    Attributes:
        rates: Whether it learns ratings, where every training and validation example has one.
    """

    Settings = IdsSettings
    gpu = True
    trained = True
    rates: ClassVar[bool] = False

    @property
    def reads_test(self) -> bool:
        """Whether the words of the test split are known."""
        return self.settings.vocabulary == "all"

    # --- What a kind says of itself -----------------------------------------------------------------------------------
    def network(self, users: int, items: int, reader: "Reader") -> "Network":
        """Return the network, with fresh weights, for tables of so many rows."""
        raise NotImplementedError

    def optimizer(self) -> "Callable[[list[torch.Tensor]], torch.optim.Optimizer]":
        """Return what makes the optimiser."""
        from functools import partial

        from torch.optim import Adam

        return partial(Adam, lr=self.settings.learning_rate)

    def given(self, examples: "Sequence[Example]") -> dict[str, Any]:
        """Return what the network is given beside ids: arguments of `Reader.of`."""
        return {}

    # --- Training -----------------------------------------------------------------------------------------------------
    def reader(self, examples: "Sequence[Example]") -> "Reader":
        """Return what numbers examples, given those of train and val (and of test, where their words are known)."""
        from xrec_repro.methods.ids.reader import Reader

        seen = [example for example in examples if example.split == "train"]
        learnt = [example for example in examples if example.split != "test"]
        rated = self.rates and all(example.rating is not None for example in learnt)
        if self.rates and not rated:
            log.warning("methods.%s: examples have no rating: none is learnt or predicted", self.run_name)
        return Reader.of(
            seen,
            counted=examples if self.reads_test else seen,
            tokens=self.settings.tokens,
            words=self.settings.words,
            vocabulary_size=self.settings.vocabulary_size,
            rated=learnt if rated else (),
            **self.given(learnt),
        )

    @property
    def run_name(self) -> str:
        """Name of the method in the configuration, for messages."""
        return self.run.sections.get("method", {}).get("name", type(self).__name__.lower())

    def fresh(self, reader: "Reader") -> "Network":
        """Return the network as drawn, with a row behind the known users and items; the seed decides alone."""
        import torch

        from xrec_repro.seeding import derive_seed

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.run.seed, "ids init"))
            return self.network(len(reader.users) + 1, len(reader.items) + 1, reader).to(self.run.device)

    def fit(self, examples: "Sequence[Example]") -> Fitted:
        """Train on the train split until the validation loss says stop, and keep the best epoch.

        Raises:
            DataError: There is no word to learn, or a rating that is none.
            ModelError: A loss is not finite.
            StoppedError: A stop was asked for; what was done is in the checkpoint.
        """
        from xrec_repro.methods.ids.fitting import Explaining
        from xrec_repro.training import curve_rows, train

        reader = self.reader(examples)
        parts = [[example for example in examples if example.split == split] for split in ("train", "val")]
        rows = [reader.rows(part, self.run.device) for part in parts]
        network, settings = self.fresh(reader), self.settings
        how = {"batch_size": settings.batch_size, "unseen": settings.unseen}
        trainee = Explaining(network, *rows, **how, in_order=settings.first_epoch == "in_order")
        found = train(trainee, self.plan(bool(parts[1])))
        trainee.settle()
        best = next((one for one in found.history if one["epoch"] == found.best_epoch), {})
        report = {
            "train_examples": len(parts[0]),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "vocabulary": len(reader.vocabulary),
            "ratings": reader.scale is not None,
            **({"given": reader.given, "given_words": reader.given_words} if reader.given else {}),
            "epochs": len(found.history),
            "stopped_by": found.stopped_by,
            "best_epoch": found.best_epoch,
            **{name: value for name, value in best.items() if name.startswith("val_")},
            **_shares(rows[0]),
            "val": {name: value for name, value in reader.unseen(parts[1]).items() if name != "unseen"},
        }
        return Fitted(tensors=network.state_dict(), facts=reader.facts, curve=curve_rows(found.curve), report=report)

    def plan(self, evaluated: bool) -> Any:
        """Return how the network is trained; without a validation split to the end, and the last weights are kept."""
        from xrec_repro.training import Plan

        settings = self.settings
        return Plan(
            name="tuning",
            rate_key=f"methods.{self.run_name}.learning_rate",
            seed=self.run.seed,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            optimizer=self.optimizer(),
            clip=settings.clip,
            evaluate_every=1 if evaluated else None,
            patience=settings.patience,
            endured=settings.stopping == "endured",
            decay=settings.decay,
            checkpoint=self.run.checkpoint,
            identity=self.run.identity,
            save_every=SAVE_EVERY,
        )

    # --- Writing ------------------------------------------------------------------------------------------------------
    def load(self, fitted: Fitted | None) -> None:
        """Take up vocabulary, numbers and weights."""
        from xrec_repro.methods.ids.reader import Reader

        self._reader = Reader.of_facts(fitted.facts)
        self._network = self.fresh(self._reader)
        self._network.load_state_dict(dict(fitted.tensors))
        self._network.eval()

    def write(self, batch: "Sequence[Example]") -> list[Written]:
        """Explain a batch greedily: no text depends on the others."""
        if self._alone and len(batch) > 1:
            return [written for example in batch for written in self.write([example])]
        from xrec_repro.methods.ids.decoding import greedy
        from xrec_repro.methods.ids.words import BOS, EOS, PAD, UNK

        banned = () if self.settings.special_words else (BOS, PAD, UNK)
        rows = self._reader.rows(batch, self.run.device)
        words, ratings = greedy(self._network, rows, self.settings.words, banned)
        texts, rated = words.tolist(), [None] * len(batch) if ratings is None else ratings.tolist()
        return [
            Written(
                self._reader.vocabulary.text(text),
                new_tokens=text.index(EOS) + 1 if EOS in text else len(text),
                finish_reason="eos" if EOS in text else "length",
                rating=rating,
            )
            for text, rating in zip(texts, rated, strict=True)
        ]

    @property
    def _alone(self) -> bool:
        """Whether each text is written by itself: a GPU's products round by their height."""
        exact = self.run.sections.get("generation", {}).get("invariance", "exact") == "exact"
        return exact and self.run.device != "cpu"

    def report(self, examples: "Sequence[Example]") -> dict[str, Any]:
        """Return how many examples have a user or an item that training has not seen, and which they are."""
        found = self._reader.unseen(examples)
        if found["unseen"]:
            log.warning(
                "%d of %d examples have a user (%d) or an item (%d) without a training example: the %s vector stands "
                "for it",
                *(len(found["unseen"]), len(examples), found["unseen_user"], found["unseen_item"]),
                self.settings.unseen,
            )
        return found


SAVE_EVERY = 500  # steps


def _shares(rows: "Rows") -> Mapping[str, float]:
    """Return which share of texts does not fit, and which share of words is unknown."""
    from xrec_repro.methods.ids.words import EOS, PAD, UNK

    full = (rows.text[:, -1] == EOS).float().mean().item()
    return {"full_texts": full, "unknown_words": (rows.text == UNK).sum().item() / (rows.text != PAD).sum().item()}
