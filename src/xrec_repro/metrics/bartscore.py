"""BARTScore (Yuan, Neubig and Liu, 2021): how likely BART finds one text after it has read the other.

The papers score the reference given the prediction (`pred_to_ref`) with facebook/bart-large-cnn. XRec's authors also
load the weights that BARTScore's authors tuned on ParaBank2 (``bart_score.pth``, XRec issue 11); the values of the
reproducibility study fit the plain checkpoint. That is `weights` here, and the signature tells the two apart.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.identity import versions
from xrec_repro.lm.load import load_pretrained, local_folder, require_revision, shown_file, shown_model
from xrec_repro.metrics._batches import count_empty, score_pairs, warn_of
from xrec_repro.metrics._models import load_network, torch_device, torch_dtype
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column
from xrec_repro.special_tokens import special_tokens, speller

LIBRARIES = ("transformers",)
_KEY = "metrics.bartscore"
# From a direction to the (source, target) it scores, of (prediction, reference); their mean is the score.
_DIRECTIONS = {"pred_to_ref": ((0, 1),), "ref_to_pred": ((1, 0),), "f": ((0, 1), (1, 0))}


_WINDOW = 8  # batches whose encoder states are held at once: enough to sort targets by length, in bounded memory
_LOGITS = 2**24  # computed at once: enough tokens for fast products, in bounded memory
_Ids = tuple[int, ...]


class _Side(NamedTuple):
    ids: list[_Ids]
    cut: list[bool]  # whether the text was longer


@dataclass(frozen=True, kw_only=True)
class BartScore(Metric):
    """Mean log-likelihood of a target given a source (`bartscore`): 1/n sum_t log p(target_t | target_<t, source).

    As in the original code, the targets are all tokens that the tokenizer makes of the text, special ones included
    (but a text that spells one, such as ``<pad>``, stays text); the decoder reads them shifted by one behind its start
    token, and the sum is divided by their number. An empty text consists of its special tokens and has a score; such
    texts are counted, and so are those that were cut. In float32, values depend on neither the batch size nor the order
    of the rows.

    Attributes:
        model: A folder or hub repository of a BART with a language model head, e.g. facebook/bart-large-cnn.
        revision: The 40-digit commit of the hub repository; None for a folder.
        weights: A state dict to load over the model's weights, a .safetensors file or one of torch.save (such as
            bart_score.pth of the BARTScore repository); None for the model as it is.
        direction: ``pred_to_ref`` scores the reference given the prediction (recall in the BARTScore paper),
            ``ref_to_pred`` the prediction given the reference (precision), ``f`` is their arithmetic mean.
        max_length: Tokens after which either text is cut.
        dtype: ``float32`` | ``float16`` | ``bfloat16``.
        batch_size: Pairs at once.
    """

    name: ClassVar[str] = "bartscore"
    columns: ClassVar[Mapping[str, Column]] = {"bartscore": Column("BARTScore", "BART")}
    files: ClassVar[tuple[str, ...]] = ("model", "weights")

    model: str
    revision: str | None
    weights: str | None
    direction: str
    max_length: int
    dtype: str
    batch_size: int

    def __post_init__(self) -> None:
        require_revision(self.model, self.revision, self._folder, _KEY)
        torch_dtype(self.dtype, _KEY)
        if self.direction not in _DIRECTIONS:
            raise ConfigError(
                f"{_KEY}.direction: {self.direction!r} is not known; use one of: {', '.join(_DIRECTIONS)}"
            )
        if self._weights is not None and not self._weights.is_file():
            raise ConfigError(f"{_KEY}.weights: {self.weights}: no such file; null scores with the model as it is")

    def facts(self) -> dict[str, Any]:
        """Return the digests of model and weights, and the version of transformers."""
        return {
            "model": shown_model(self.model, None, self._folder),
            "weights": self._weights and shown_file(self._weights),
            **versions(*LIBRARIES),
        }

    @cached_property
    def _folder(self) -> Path | None:
        return local_folder(self.model, _KEY)

    @cached_property
    def _weights(self) -> Path | None:
        return None if self.weights is None else Path(self.weights).expanduser().resolve()

    @cached_property
    def _network(self) -> nn.Module:
        from transformers import BartForConditionalGeneration

        network = load_network(
            BartForConditionalGeneration,
            self._folder or self.model,
            self.revision,
            _KEY,
            self.max_length,
            dtype=torch_dtype(self.dtype, _KEY),
        )
        if self._weights is not None:
            _load_weights(network, self._weights)
        return network.to(torch_device(self.device))

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        padding = self._network.config.pad_token_id  # the model first: its errors say more
        tokenizer = load_pretrained(AutoTokenizer, self._folder or self.model, self.revision, _KEY)
        if tokenizer.pad_token_id != padding:
            raise ModelError(
                f"bartscore: {self.model} pads with token {padding} but its tokenizer with {tokenizer.pad_token_id}; "
                "save the two together"
            )
        if not tokenizer("")["input_ids"]:
            raise ModelError(
                f"bartscore: the tokenizer of {self.model} adds no special tokens, without which an empty text "
                "cannot be scored; give it a post-processor"
            )
        return tokenizer

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        spell = speller(special_tokens(self._tokenizer))
        sides = [spell(text) for text in predictions], [spell(text) for text in references]
        found = score_pairs(*sides, _WINDOW * self.batch_size, self.name, self._score)
        empty = count_empty(predictions, references)
        cut = {"truncated_predictions": int(found[:, 1].sum()), "truncated_references": int(found[:, 2].sum())}
        warn_of(empty, self.name, "scored by their special tokens alone")
        warn_of(cut, self.name, f"cut to {self.max_length} tokens")
        return {"bartscore": found[:, 0]}, empty | cut

    def _score(self, predictions: list[str], references: list[str]) -> np.ndarray:
        """Return score, whether the prediction was cut and whether the reference was, shape ``(pairs, 3)``."""
        sides = self._encode(predictions), self._encode(references)
        ways = [
            self._likelihood(sides[source].ids, sides[target].ids) for source, target in _DIRECTIONS[self.direction]
        ]
        return np.column_stack([np.mean(ways, axis=0), sides[0].cut, sides[1].cut])

    def _encode(self, texts: list[str]) -> _Side:
        ids = [tuple(row) for row in self._tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]]
        whole = [text for text, row in zip(texts, ids, strict=True) if len(row) == self.max_length]
        lengths = iter(map(len, self._tokenizer(whole, verbose=False)["input_ids"] if whole else ()))
        return _Side(ids, [len(row) == self.max_length and next(lengths) > self.max_length for row in ids])

    @torch.inference_mode()
    def _likelihood(self, sources: Sequence[_Ids], targets: Sequence[_Ids]) -> np.ndarray:
        """Return the mean log-likelihood of each target; batches have sources, then targets of like length."""
        read = self._read(sources)
        order = sorted(range(len(targets)), key=lambda row: (len(targets[row]), targets[row], sources[row]))
        values = np.empty(len(targets))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            values[rows] = self._decode([read[sources[row]] for row in rows], [targets[row] for row in rows])
        return values

    def _read(self, sources: Sequence[_Ids]) -> dict[_Ids, Tensor]:
        """Return source -> encoder states, shape ``(tokens, hidden)``; each different source is read once."""
        different = sorted(set(sources), key=lambda ids: (len(ids), ids))
        read = {}
        for start in range(0, len(different), self.batch_size):
            batch = different[start : start + self.batch_size]
            ids, mask = self._pad(batch)
            states = self._network.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            read |= {source: row[: len(source)] for source, row in zip(batch, states, strict=True)}
        return read

    def _decode(self, read: list[Tensor], targets: list[_Ids]) -> np.ndarray:
        network = self._network
        states = pad_sequence(read, batch_first=True)
        lengths = torch.tensor([len(row) for row in read], device=states.device)
        ids, mask = self._pad(targets)
        hidden = network.get_decoder()(
            input_ids=network.prepare_decoder_input_ids_from_labels(ids),
            encoder_hidden_states=states,
            encoder_attention_mask=(torch.arange(states.shape[1], device=states.device) < lengths[:, None]).long(),
            use_cache=False,
        ).last_hidden_state
        scored = mask.bool()
        total = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
        total[scored] = self._log_likelihood(hidden[scored], ids[scored]).double()
        return (total.sum(dim=1) / mask.sum(dim=1)).cpu().numpy()

    def _log_likelihood(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Return log p of each token, shape ``(tokens,)``, some at a time: logits over the vocabulary are large."""
        network, size = self._network, max(1, _LOGITS // self._network.config.vocab_size)
        found = [
            functional.cross_entropy(
                network.lm_head(states).add_(network.final_logits_bias).float(), wanted, reduction="none"
            )
            for states, wanted in zip(hidden.split(size), ids.split(size), strict=True)
        ]
        return -torch.cat(found)

    def _pad(self, batch: Sequence[_Ids]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, both of shape ``(texts, tokens)``, padded on the right."""
        rows = [torch.tensor(ids) for ids in batch]
        ids = pad_sequence(rows, batch_first=True, padding_value=self._network.config.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return ids.to(self._network.device), mask.to(self._network.device)


def _load_weights(network: nn.Module, path: Path) -> None:
    """Replace the weights of `network` by those of a file; every one must be there, and no other."""
    what = f"{_KEY}.weights: {path}"
    try:
        # weights_only: such a file comes from anywhere, and a plain pickle could run code.
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelError(f"{what} is neither a state dict of torch.save nor of safetensors; check the file") from error
    own = network.state_dict()
    strange = next((name for name in state if name not in own), None) if isinstance(state, dict) else type(state)
    if strange is not None:
        raise ModelError(f"{what} holds {strange}, which the model has not; it is not a state dict of this model")
    # Tied weights stand in a file once or several times: a name is missing only if none of its ties is there.
    given = {own[name].data_ptr() for name in state}
    missing = [name for name, tensor in own.items() if tensor.data_ptr() not in given]
    if missing:
        raise ModelError(f"{what} has no {missing[0]}; it is not a whole state dict of this model")
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"{what} has other shapes than the model; set {_KEY}.model to the one it belongs to"
        ) from error


METRIC = BartScore
