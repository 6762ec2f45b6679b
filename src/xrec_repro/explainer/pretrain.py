"""A small Llama for machines without a model hub: byte-level BPE and pretraining on train-split text alone.

It stands in for an instruction-tuned model, so it must have seen prompts of the kind it will get. Its documents are
the prompts of the train examples with their explanation, in four forms of each template: twice with profiles in words
where the reserved tokens will stand (a model that reads records can use what an adapter puts there), with profiles
where the prompt has them, and without. An epoch shows each example in one form, the next epoch in the next. The
reserved tokens are no part of them: as with a downloaded model, they are new.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from xrec_repro.errors import DataError, ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.prompts import EXPLAIN_POS, ITEM_EMBED, RESERVED_TOKENS, USER_EMBED, prompt_text, spelled
from xrec_repro.identity import digest_json
from xrec_repro.io import names_full_disk
from xrec_repro.seeding import derive_seed, numpy_rng
from xrec_repro.special_tokens import speller
from xrec_repro.training import Plan, Trainee, one_cycle, train

log = logging.getLogger("xrec_repro")

CHECKPOINT_EVERY = 200  # steps: under a minute of the demo
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
_SPELL = speller([*RESERVED_TOKENS, BOS, EOS, UNKNOWN])  # as prompts of the finished model are spelled


def pretraining_texts(example: Example, domain: str, templates: Sequence[str]) -> list[str]:
    """Write the forms of an example, four a template; an epoch later, the next is shown."""
    example = spelled(example, _SPELL)
    bare = replace(example, user_profile=None, item_profile=None)
    records = {USER_EMBED: example.user_profile or "", ITEM_EMBED: example.item_profile or ""}
    nothing = dict.fromkeys(records, "")
    return [
        _in_words(prompt_text(version, domain, template, train=True), words)
        for version, words in ((bare, records), (example, nothing), (bare, records), (bare, nothing))
        for template in templates
    ]


def _in_words(text: str, records: dict[str, str]) -> str:
    for token, words in (records | {EXPLAIN_POS: ""}).items():
        text = text.replace(f" {token}", f" {words}" if words else "", 1)
    return text.removeprefix(BOS)


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
    tokenizer = train_tokenizer([texts[0] for texts in forms], settings["vocabulary"], settings["context"])
    documents = [[[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]] for texts in forms]
    documents = _fitting(documents, examples, settings["context"])
    set_seed(derive_seed(settings["seed"], "pretraining") % 2**32)
    model = LlamaForCausalLM(_llama(settings, tokenizer))
    losses = _train(model, documents, settings, checkpoint, digest_json([fingerprint, settings, documents]))
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


def _longest(forms: Sequence[list[int]]) -> int:
    return max(map(len, forms))


def _fitting(documents: list[list[list[int]]], examples: Sequence[Example], context: int) -> list[list[list[int]]]:
    """Return the examples' documents without those that are longer than the context in one of their forms."""
    over = {row: _longest(forms) for row, forms in enumerate(documents) if _longest(forms) > context}
    if not over:
        return documents
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
    return [forms for row, forms in enumerate(documents) if row not in over]


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
        tie_word_embeddings=False,
    )


class Pretraining(Trainee):
    """A language model and the documents of each example, of which an epoch shows one form."""

    def __init__(self, model: LlamaForCausalLM, documents: Sequence[Sequence[list[int]]]) -> None:
        self.module, self.documents, self.rows = model, documents, len(documents)

    def batches(self, epoch: int, plan: Plan) -> list[list[list[int]]]:
        """Return batches of documents of like length, in random order."""
        shown = [forms[(i + epoch) % len(forms)] for i, forms in enumerate(self.documents)]
        rng, size = numpy_rng(plan.seed, f"{plan.name} order", epoch), plan.batch_size
        shuffled = rng.permutation(len(shown)).tolist()
        # Sorting within pools of batches keeps padding low and the order random.
        pool = 50 * size
        batches = []
        for start in range(0, len(shuffled), pool):
            part = sorted((shown[i] for i in shuffled[start : start + pool]), key=len)
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        return [batches[index] for index in rng.permutation(len(batches))]

    def loss(self, batch: Sequence[list[int]]) -> Tensor:
        """Return the mean negative log-likelihood of the batch's tokens."""
        ids, targets = (
            pad_sequence([torch.tensor(row) for row in batch], batch_first=True, padding_value=value)
            for value in (0, -100)
        )
        # Padding stands on the right and attention looks left, so no mask is needed: only its loss is left out.
        logits = self.module(input_ids=ids).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)


def _train(
    model: LlamaForCausalLM,
    documents: Sequence[Sequence[list[int]]],
    settings: dict[str, Any],
    checkpoint: Path,
    identity: str,
) -> list[float]:
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
    trainee = Pretraining(model, documents)
    losses, means = iter(train(trainee, plan).curve), []
    for epoch in range(plan.epochs):
        tokens = [sum(map(len, batch)) - len(batch) for batch in trainee.batches(epoch, plan)]
        taken = zip(tokens, islice(losses, len(tokens)), strict=True)
        means.append(sum(count * loss for count, (loss,) in taken) / sum(tokens))
    return means
