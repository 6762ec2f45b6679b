"""What the small scorers are made of; tests/e2e/test_scorers.py asks whether they score well."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from xrec_repro.errors import DataError, ModelError
from xrec_repro.metrics._judge import REMINDER, SYSTEM_PROMPT, question
from xrec_repro.metrics.registry import build_metric
from xrec_repro.scorers import train_scorer
from xrec_repro.scorers.content import ContentModel, words_of
from xrec_repro.scorers.judge import BETWEEN, CLOSE, MARK, OPEN, _prompts
from xrec_repro.scorers.perturb import Pair, Perturber

FRAMES = ("They would buy it because it offers {}.", "They enjoy {} and will read on.", "It is full of {}, as hoped.")
THINGS = ("dry humour", "slow suspense", "quiet prose", "epic battles", "clever twists", "tender romance")
TEXTS = [
    frame.format(f"{one} and {two}") for frame in FRAMES for one in THINGS for two in THINGS if one != two
]  # 90 texts
SETTINGS = {
    "vocabulary": 400, "hidden": 16, "layers": 1, "heads": 2, "context": 128, "pairs": 60, "steps": 4,
    "batch_size": 16, "learning_rate": 4e-3, "seed": 1,
}  # fmt: skip
METRICS = {
    "bart": ("bartscore", {"weights": None, "direction": "pred_to_ref", "max_length": 64, "dtype": "float32"}),
    "bleurt": ("bleurt", {"max_length": 64, "dtype": "float32"}),
    "judge": (
        "llamascore",
        {"mode": "expected", "max_new_tokens": 4, "attempts": 1, "min_mass": 0.0, "dtype": "float32"},
    ),
}


@pytest.mark.parametrize("scorer", METRICS)
def test_the_same_seed_gives_the_same_bytes_and_a_model_that_scores(tmp_path, scorer):
    reports = [train_scorer(scorer, TEXTS, SETTINGS, tmp_path / name) for name in ("a", "b")]
    train_scorer(scorer, TEXTS, SETTINGS | {"seed": 2}, tmp_path / "c")
    assert reports[0] == reports[1]
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "c")]
    assert weights[0] != weights[1]
    name, settings = METRICS[scorer]
    metric = build_metric(name, settings | {"model": str(tmp_path / "a"), "revision": None, "batch_size": 4}, "cpu")
    scores = metric.score(TEXTS[:5], TEXTS[5:10]).columns[name]
    assert np.isfinite(scores).all()


def test_too_few_texts_and_a_loss_that_explodes_are_named(tmp_path):
    with pytest.raises(DataError, match="has 1 different explanations to learn from, needed are 2"):
        train_scorer("bart", ["One text."] * 5, SETTINGS, tmp_path / "a")
    with pytest.raises(ModelError, match=r"lower scorers\.bart\.learning_rate"):
        train_scorer("bart", TEXTS, SETTINGS | {"learning_rate": 1e30, "steps": 20}, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("steps", [1, 10, 11])
def test_any_number_of_steps_can_be_trained(tmp_path, steps):
    report = train_scorer("bart", TEXTS, SETTINGS | {"steps": steps}, tmp_path)
    assert report["losses"]


def test_the_judge_reads_the_protocol_as_few_tokens_and_can_write_each_number(tmp_path):
    train_scorer("judge", TEXTS, SETTINGS, tmp_path / "judge")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "judge")
    pair = "Dry humour, well-made.", 'It says "slow" at 85%.'
    prompt = tokenizer.apply_chat_template(question(*pair), tokenize=False, add_generation_prompt=True)
    tokens = tokenizer.tokenize(prompt)
    assert [token for token in tokens if token in (SYSTEM_PROMPT, OPEN, BETWEEN, CLOSE)] == [
        SYSTEM_PROMPT, OPEN, BETWEEN, CLOSE,
    ]  # fmt: skip
    assert MARK not in prompt[: prompt.index(BETWEEN)]
    assert prompt.endswith(rf'{BETWEEN}ǀIt ǀsays ǀ\"slow\" ǀat ǀ85%."}}[SEP]')
    again = [*question(*pair), {"role": "assistant", "content": "?"}, {"role": "user", "content": REMINDER}]
    assert REMINDER in tokenizer.tokenize(tokenizer.apply_chat_template(again, tokenize=False))
    for number in range(101):
        assert tokenizer.decode(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(str(number)))) == str(number)
        assert len(tokenizer.tokenize(str(number))) == 1


def test_the_hints_of_the_judge_lie_on_the_words_of_both_texts(tmp_path):
    train_scorer("judge", TEXTS, SETTINGS, tmp_path / "judge")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "judge")
    prediction, reference = "They enjoy dry humour.", "It is full of dry prose."
    comparison = ContentModel(TEXTS).compare(words_of(prediction), words_of(reference))
    _, (ids,), (hints,) = _prompts([Pair(prediction, reference, comparison)], tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    found = {token: value for token, (value, weight) in zip(tokens, hints, strict=True) if weight > 0}
    values = dict(zip(words_of(prediction), comparison.predicted, strict=True))
    values |= {MARK + word: value for word, value in zip(words_of(reference), comparison.referred, strict=True)}
    assert {token: found[token] for token in values} == values
    assert found.keys() - values.keys() == {"."}
    assert values["dry"] == values[f"{MARK}dry"] == 1 > values["humour"]


def test_prompts_that_are_all_too_long_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"no prompt has at most 4 tokens; raise scorers\.judge\.context"):
        train_scorer("judge", TEXTS, SETTINGS | {"context": 4}, tmp_path / "judge")


def test_the_more_of_a_text_another_says_the_higher_their_comparison():
    model = ContentModel(TEXTS)
    reference = "They would buy it because it offers dry humour and slow suspense."
    ordered = [
        reference,
        "It is full of dry humour and slow suspense, as hoped.",
        "It is full of dry humour and epic battles, as hoped.",
        "It is full of quiet prose and epic battles, as hoped.",
    ]
    scores = [model.compare(words_of(text), words_of(reference)).score for text in ordered]
    assert scores[0] == 1.0
    assert scores == sorted(scores, reverse=True)
    assert scores[1] > scores[2] > scores[3]


def test_perturbed_pairs_are_of_the_kinds_asked_for():
    made = Perturber(TEXTS, ContentModel(TEXTS), seed=1)
    same = made.pairs(20, {"same": 1})
    assert all(pair.prediction == pair.reference and pair.comparison.score == 1 for pair in same)
    shuffled = made.pairs(20, {"shuffled": 1})
    assert all(sorted(pair.prediction.split()) == sorted(pair.reference.split()) for pair in shuffled)
    shortened = made.pairs(20, {"shortened": 1})
    assert all(set(pair.prediction.split()) <= set(pair.reference.split()) for pair in shortened)
    again = Perturber(TEXTS, ContentModel(TEXTS), seed=1).pairs(20, {"same": 1})
    assert [pair.reference for pair in again] == [pair.reference for pair in same]
