"""What the trainings of all scorers share: the corpus, batches, the plan, the start of the weights, the folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xrec_repro.errors import DataError
from xrec_repro.identity import digest_json
from xrec_repro.io import atomic_folder
from xrec_repro.scorers.content import ContentModel
from xrec_repro.scorers.perturb import Pair, Perturber
from xrec_repro.seeding import numpy_rng, torch_generator
from xrec_repro.special_tokens import speller
from xrec_repro.training import Plan, Trainee, one_cycle, train

MAX_TEXTS = 10_000  # more tell nothing new to models of this size
# How far the embedding of a token starts towards those of the words that its own word is similar to.
KINSHIP = 0.5
WEIGHT_OF_NOTHING = 0.05  # what a hint on the commonest word counts
REPORTED = 20  # losses in the log of a training
CHECKPOINT_EVERY = 100  # steps

Settings = Mapping[str, Any]


def read_corpus(texts: Sequence[str], seed: int, marks: Sequence[str]) -> tuple[list[str], ContentModel]:
    """Return the texts to learn from, at most `MAX_TEXTS` and none that spells one of `marks`, and what words weigh.

    Raises:
        DataError: There are fewer than two different texts.
    """
    spell = speller(marks)
    kept = [" ".join(spell(text).split()) for text in texts if text.strip()]
    if len(set(kept)) < 2:
        raise DataError(
            f"scorers: the train split has {len(set(kept))} different explanations to learn from, needed are 2; "
            "check split.ratios"
        )
    chosen = np.sort(numpy_rng(seed, "scorer texts").permutation(len(kept))[:MAX_TEXTS])
    kept = [kept[row] for row in chosen]
    return kept, ContentModel(kept)


def make_pairs(
    texts: Sequence[str], content: ContentModel, settings: Settings, shares: Mapping[str, float]
) -> list[Pair]:
    """Draw ``settings["pairs"]`` perturbed pairs of the given kinds."""
    return Perturber(texts, content, settings["seed"]).pairs(settings["pairs"], shares)


@dataclass
class Scorer(Trainee):
    """The modules of a scorer, trained in one epoch of as many steps as are wanted."""

    module: nn.Module
    loss_of: Callable[[list[int]], Tensor]
    lengths: Sequence[int]
    wanted: int
    what: str

    def loss(self, batch: list[int]) -> Tensor:
        """Return the loss of a batch of rows."""
        return self.loss_of(batch)

    def steps(self, plan: Plan) -> int:
        """Return how many are wanted."""
        return self.wanted

    def batches(self, epoch: int, plan: Plan) -> list[list[int]]:
        """Return batches of rows of like length, pass after pass over the rows, in random order."""
        rng, size, taken = numpy_rng(plan.seed, self.what, "order"), plan.batch_size, []
        while len(taken) < self.wanted:
            # A little noise in the length makes other batches in every pass.
            order = np.argsort(np.array(self.lengths) * rng.uniform(0.9, 1.1, size=len(self.lengths)), kind="stable")
            parts = [order[start : start + size].tolist() for start in range(0, len(order), size)]
            taken += [parts[index] for index in rng.permutation(len(parts))]
        return taken[: self.wanted]


def fit(
    modules: Sequence[nn.Module],
    loss_of: Callable[[list[int]], Tensor],
    lengths: Sequence[int],
    settings: Settings,
    what: str,
    folder: Path,
    fingerprint: str,
) -> list[float]:
    """Train modules with AdamW, a one-cycle schedule and clipped gradients.

    The state of an unfinished training lies beside the folder, until `save` removes it.

    Args:
        modules: What is trained.
        loss_of: From the rows of a batch to its loss.
        lengths: Length of every row.
        settings: Section ``scorers.<what>``: steps, batch_size, learning_rate, seed.
        what: The scorer's name.
        folder: Where the model will be saved.
        fingerprint: Of all else that the result depends on; a checkpoint must match it to be resumed.

    Returns:
        The loss over the training, as `REPORTED` means at most.

    Raises:
        ModelError: A loss is not finite.
        StoppedError: A stop was asked for; what was done is in the checkpoint.
    """
    plan = Plan(
        name=f"training {what}",
        rate_key=f"scorers.{what}.learning_rate",
        seed=settings["seed"],
        epochs=1,
        batch_size=settings["batch_size"],
        optimizer=partial(torch.optim.AdamW, lr=settings["learning_rate"], weight_decay=0.01, fused=True),
        schedule=one_cycle,
        clip=1.0,
        checkpoint=_checkpoint(folder),
        identity=digest_json([fingerprint, what, dict(settings), list(lengths)]),
        save_every=CHECKPOINT_EVERY,
    )
    trainee = Scorer(nn.ModuleList(modules), loss_of, lengths, settings["steps"], what)
    losses = np.concatenate(train(trainee, plan).curve)
    return [float(part.mean()) for part in np.array_split(losses, min(REPORTED, len(losses)))]


def pad(rows: Sequence[Sequence[float]], value: float = 0, dtype: torch.dtype = torch.long) -> Tensor:
    """Return rows as a tensor, padded on the right, (rows, longest)."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], True, value)


@torch.no_grad()
def start_embeddings(table: Tensor, tokenizer: Any, content: ContentModel, scale: float, seed: int) -> None:
    """Draw token embeddings in which the tokens of similar words start near each other.

    Args:
        table: The embedding matrix, (tokens, width); overwritten.
        tokenizer: Splits words into tokens.
        content: Knows the similar words.
        scale: Standard deviation.
        seed: Of the draw.
    """
    own = torch.randn(table.shape, generator=torch_generator(seed, "embeddings"))
    spelled = tokenizer([f" {word}" for word in content.known_words], add_special_tokens=False)["input_ids"]
    spelling = torch.zeros(len(spelled), len(table))
    for word, ids in enumerate(spelled):
        spelling[word, ids] = 1 / max(len(ids), 1)
    others = torch.from_numpy(content.similarity).float().fill_diagonal_(0)
    mixed = own + KINSHIP * spelling.T @ (others @ (spelling @ own))
    table.copy_(scale * mixed / mixed.std(dim=1, keepdim=True))


@torch.no_grad()
def start_attention(query: nn.Linear, key: nn.Linear) -> None:
    """Let an attention start by looking for its own token: add the identity to both projections.

    A small form of mimetic initialisation (Trockman and Kolter, 2023), without which a model needs many times the
    steps to find out that two texts share words.
    """
    for projection in (query, key):
        projection.weight.add_(torch.eye(*projection.weight.shape))


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer as a transformers folder, whole or not at all; the training's checkpoint goes."""
    with atomic_folder(folder) as temporary:
        model.eval().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    _checkpoint(folder).unlink(missing_ok=True)


def _checkpoint(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.checkpoint.safetensors")


def word_hints(ends: Sequence[int], text: str, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give each token what is known of the word that it belongs to.

    Args:
        ends: Where each token ends in the text, in characters.
        text: Words parted by single spaces.
        values: Of each word.
        weights: Of each word.

    Returns:
        Value and weight of each token, (tokens, 2).
    """
    if not ends:
        return np.empty((0, 2))
    starts = np.cumsum([0, *(len(word) + 1 for word in text.split(" "))])
    words = np.searchsorted(starts, np.array(ends) - 1, side="right") - 1
    return np.stack([values[words], weights[words] + WEIGHT_OF_NOTHING], axis=1)


def hint_loss(found: Tensor, hints: Sequence[np.ndarray]) -> Tensor:
    """Return the weighted mean squared error of what a head finds at the tokens.

    Args:
        found: (rows, longest, 1).
        hints: Value and weight of each token for each row, (tokens, 2); no weight, no error.
    """
    known = nn.utils.rnn.pad_sequence([torch.from_numpy(row).float() for row in hints], batch_first=True)
    values, weights = known.unbind(dim=2)
    errors = weights * (found[:, : values.shape[1], 0] - values) ** 2
    return errors.sum() / weights.sum().clamp(min=1e-9)
