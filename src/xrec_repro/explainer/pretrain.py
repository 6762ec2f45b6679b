"""A small Llama for machines without a model hub: byte-level BPE and pretraining on train-split text alone.

It stands in for an instruction-tuned model, so it must have seen prompts of the kind it will get. Its documents are
the prompts of the train examples with their explanation, in four forms of each template: twice with records alone, with
records and profiles, and with profiles alone. An epoch shows each example in one form, the next epoch in the next.

Large models make use of vectors that are no word's; a small one has to be shown some. Where the reserved tokens will
stand, it reads a record in brief: the mean of the token embeddings of the explanation itself and of a few others, of
the same user's or the same item's train pairs, so that what both records share is what there is to say. It knows no
recommender's embeddings, and the reserved tokens are no part of what it reads: as with a downloaded model, they are
new. Only explanations are learnt: words of titles and profiles cannot be foretold, and their gradients drown the rest.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from xrec_repro.errors import DataError, ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.prompts import (
    EXPLAIN_POS,
    ITEM_EMBED,
    RESERVED_TOKENS,
    USER_EMBED,
    prompt_text,
    spelled,
)
from xrec_repro.identity import digest_json
from xrec_repro.io import names_full_disk
from xrec_repro.seeding import derive_seed, numpy_rng
from xrec_repro.special_tokens import speller
from xrec_repro.training import Plan, Trainee, one_cycle, train

log = logging.getLogger("xrec_repro")

CHECKPOINT_EVERY = 200  # steps: under a minute of the demo
SUMMED_UP = 3  # explanations at most that a record is in brief, beside the example's own
CONTRAST = 4.0  # how much what tells a record from all explanations counts
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
_SPELL = speller([*RESERVED_TOKENS, BOS, EOS, UNKNOWN])  # as prompts of the finished model are spelled


def pretraining_texts(example: Example, domain: str, templates: Sequence[str]) -> list[str]:
    """Write the forms of an example, four a template; an epoch later, the next is shown.

    `UNKNOWN` stands for each record.
    """
    example = spelled(example, _SPELL)
    bare = replace(example, user_profile=None, item_profile=None)
    return [
        _with_places(prompt_text(version, domain, template, train=True, records=records))
        for version, records in ((bare, True), (example, True), (bare, True), (example, False))
        for template in templates
    ]


def _with_places(text: str) -> str:
    for token in (USER_EMBED, ITEM_EMBED):
        text = text.replace(token, UNKNOWN, 1)
    return text.replace(f" {EXPLAIN_POS}", "", 1).removeprefix(BOS)


def train_tokenizer(texts: Sequence[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that puts BOS in front, as Llama's does."""
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[UNKNOWN, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN, model_max_length=context
    )


def pretrain(
    examples: Sequence[Example],
    domain: str,
    settings: dict[str, Any],
    folder: Path,
    checkpoint: Path,
    fingerprint: str = "",
) -> dict[str, Any]:
    """Train tokenizer and model on the train examples and save them as a transformers folder.

    An example that the context has no room for in one of its forms is left out, and logged with its item.
    A run that was killed continues from its checkpoint and ends in the same bytes as an undisturbed one.

    Args:
        examples: Train-split examples, with profiles.
        domain: ``book`` or ``business``.
        settings: Section ``llm.scratch``.
        folder: Where the model goes.
        checkpoint: Where to keep the state of an unfinished run; removed at the end.
        fingerprint: Of all else that the result depends on; a checkpoint must match it to be resumed.

    Returns:
        Sizes and the loss of every epoch (mean per token, natural logarithm); ``left_out`` if examples were.

    Raises:
        DataError: There is no train text.
        ModelError: All examples are too long, or the loss is not finite.
        StoppedError: A stop was asked for; what was done is in the checkpoint.
    """
    if not examples:
        raise DataError("pretraining: the train split has no examples with texts; check split.ratios")
    forms = [pretraining_texts(example, domain, settings["templates"]) for example in examples]
    with_all = len(settings["templates"])  # the first form that has records and profiles
    tokenizer = train_tokenizer([texts[with_all] for texts in forms], settings["vocabulary"], settings["context"])
    explanations = [f" {_SPELL(example.reference)}" for example in examples]
    documents = [_documents(texts, asked, tokenizer) for texts, asked in zip(forms, explanations, strict=True)]
    fitting = _fitting(documents, examples, settings["context"])
    documents, kept = [documents[row] for row in fitting], [examples[row] for row in fitting]
    set_seed(derive_seed(settings["seed"], "pretraining") % 2**32)
    trainee = Pretraining(LlamaForCausalLM(_llama(settings, tokenizer)), tokenizer, documents, kept)
    losses = _train(trainee, settings, checkpoint, digest_json([fingerprint, settings, documents, trainee.related]))
    model = trainee.module
    with names_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    checkpoint.unlink(missing_ok=True)
    parameters = sum(p.numel() for p in model.parameters())
    log.info("pretrained %d parameters on %d examples, loss %.3f", parameters, len(documents), losses[-1])
    longest, left_out = max(map(_longest, documents)), len(examples) - len(documents)
    report = {"parameters": parameters, "examples": len(documents), "longest": longest, "epoch_losses": losses}
    return report | ({"left_out": left_out} if left_out else {})


class Document(NamedTuple):
    """Token ids of a text and its end, and how many of them, at the end, are learnt."""

    ids: list[int]
    learnt: int


def _documents(texts: Sequence[str], explanation: str, tokenizer: PreTrainedTokenizerFast) -> list[Document]:
    """Encode the forms of an example; a space begins a token, so that the explanation can be encoded apart."""
    found = []
    for text in texts:
        start = text.rindex(explanation)
        learnt = [*tokenizer(text[start:], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        found.append(Document(tokenizer(text[:start])["input_ids"] + learnt, len(learnt)))
    return found


def _longest(forms: Sequence[Document]) -> int:
    return max(len(document.ids) for document in forms)


def _fitting(documents: list[list[Document]], examples: Sequence[Example], context: int) -> list[int]:
    """Return the rows of the examples but for those that are longer than the context in one of their forms."""
    over = {row: _longest(forms) for row, forms in enumerate(documents) if _longest(forms) > context}
    if not over:
        return list(range(len(documents)))
    longest, most = max(over, key=over.__getitem__), max(over.values())
    items = sorted({examples[row].item_id for row in over})
    found = (
        f"pretraining: {len(over)} of {len(documents)} examples are longer than llm.scratch.context, {context} tokens: "
        f"those of {len(items)} items ({', '.join(items[:5])}{', …' if len(items) > 5 else ''}); the longest text has "
        f"{most} tokens (example {examples[longest].example_id}, item {examples[longest].item_id})"
    )
    if len(over) == len(documents):
        raise ModelError(f"{found}; raise llm.scratch.context, now {context}")
    log.warning("%s; they are left out", found)
    return [row for row in range(len(documents)) if row not in over]


def _llama(settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings["hidden"],
        intermediate_size=settings["intermediate"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["heads"],
        max_position_embeddings=settings["context"],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,  # to name what was read is then one matrix for all words
        # The usual 0.02 is for models of thousands: in a narrow one attention would pass on next to nothing.
        initializer_range=settings["hidden"] ** -0.5,
    )


class Pretraining(Trainee):
    """A language model and the documents of each example, of which an epoch shows one form.

    Attributes:
        related: Of each example the rows of the others of its user, and of its item: what its records sum up.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        documents: Sequence[Sequence[Document]],
        examples: Sequence[Example],
    ) -> None:
        self.module, self.documents, self.rows = model, documents, len(documents)
        self.unknown, self.end = tokenizer.unk_token_id, tokenizer.eos_token_id
        self.related = list(zip(_others([e.user for e in examples]), _others([e.item for e in examples]), strict=True))
        spelt = [f" {_SPELL(example.reference)}" for example in examples]
        self.explanations = tokenizer(spelt, add_special_tokens=False)["input_ids"]
        self.vocabulary = len(tokenizer)
        tokens = torch.tensor([token for text in self.explanations for token in text])
        self.usual = tokens.bincount(minlength=self.vocabulary) / max(len(tokens), 1)

    def batches(self, epoch: int, plan: Plan) -> list[list[tuple[int, Document]]]:
        """Return batches of rows and their documents, of like length, in random order."""
        shown = [forms[(i + epoch) % len(forms)] for i, forms in enumerate(self.documents)]
        rng, size = numpy_rng(plan.seed, f"{plan.name} order", epoch), plan.batch_size
        shuffled = rng.permutation(len(shown)).tolist()
        # Sorting within pools of batches keeps padding low and the order random.
        pool = 50 * size
        batches = []
        for start in range(0, len(shuffled), pool):
            part = sorted(shuffled[start : start + pool], key=lambda row: len(shown[row].ids))
            batches += [[(row, shown[row]) for row in part[i : i + size]] for i in range(0, len(part), size)]
        return [batches[index] for index in rng.permutation(len(batches))]

    def loss(self, batch: Sequence[tuple[int, Document]]) -> Tensor:
        """Return the negative log-likelihood of the batch's explanations, each with its end, per token."""
        ids = pad_sequence(
            [torch.tensor(document.ids) for _, document in batch], batch_first=True, padding_value=self.end
        )
        # Padding stands on the right and attention looks left, so no mask is needed: only its loss is left out.
        hidden = self.module.model(inputs_embeds=self._read(batch, ids), use_cache=False).last_hidden_state
        asked = torch.zeros_like(ids, dtype=torch.bool)
        for place, (_, document) in enumerate(batch):
            last = len(document.ids) - 1
            asked[place, last - document.learnt : last] = True
        return F.cross_entropy(self.module.lm_head(hidden[asked]), ids[:, 1:][asked[:, :-1]])

    def _read(self, batch: Sequence[tuple[int, Document]], ids: Tensor) -> Tensor:
        """Return the input embeddings, [B, T, hidden], with records in brief at their places."""
        embedding = self.module.get_input_embeddings()
        with_records = [row for row, document in batch if self.unknown in document.ids]
        texts = [[row, *others] for row in with_records for others in self.related[row]]
        if not texts:
            return embedding(ids)
        # Which words each record has; in the order of their places, row by row, the user's first.
        counted = [
            n * self.vocabulary + t for n, rows in enumerate(texts) for row in rows for t in self.explanations[row]
        ]
        words = torch.tensor(counted, dtype=torch.long).bincount(minlength=len(texts) * self.vocabulary)
        shares = F.normalize(words.view(len(texts), -1).float(), p=1)
        shares = self.usual + CONTRAST * (shares - self.usual)
        return embedding(ids).index_put((ids == self.unknown).nonzero(as_tuple=True), shares @ embedding.weight)


def _others(ids: Sequence[int]) -> list[list[int]]:
    """Return of each place some other places that have the same id: the next `SUMMED_UP` of them, and round again."""
    places, rank = defaultdict(list), []
    for place, one in enumerate(ids):
        rank.append(len(places[one]))
        places[one].append(place)
    found = []
    for one, own in zip(ids, rank, strict=True):
        same = places[one]
        found.append([same[(own + step) % len(same)] for step in range(1, min(len(same), SUMMED_UP + 1))])
    return found


def _train(trainee: Pretraining, settings: dict[str, Any], checkpoint: Path, identity: str) -> list[float]:
    """Train; return the mean loss per token of each epoch."""
    plan = Plan(
        name="pretraining",
        rate_key="llm.scratch.learning_rate",
        seed=settings["seed"],
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        optimizer=partial(torch.optim.AdamW, lr=settings["learning_rate"], weight_decay=0.01, fused=True),
        schedule=partial(one_cycle, warm_up=100),
        clip=1.0,
        checkpoint=checkpoint,
        identity=identity,
        save_every=CHECKPOINT_EVERY,
    )
    losses, means = iter(train(trainee, plan).curve), []
    for epoch in range(plan.epochs):
        tokens = [sum(document.learnt for _, document in batch) for batch in trainee.batches(epoch, plan)]
        taken = zip(tokens, islice(losses, len(tokens)), strict=True)
        means.append(sum(count * loss for count, (loss,) in taken) / sum(tokens))
    return means
