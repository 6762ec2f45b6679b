from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from xrec_repro.errors import DataError, ModelError
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.explainer import shared_opening
from xrec_repro.explainer.tuning import example_losses, held_out_losses, tune
from xrec_repro.methods.xrec_fit import _drawn
from xrec_repro.training import EarlyStopping

SETTINGS = {
    "epochs": 2,
    "batch_size": 3,
    "learning_rate": 1e-2,
    "schedule": "constant",
    "max_examples": None,
    "micro_batch_size": None,
    "activation_checkpointing": False,
    "checkpoint_every": 2,
    "early_stopping": None,
}
STUDY = {"start": 0.2, "patience": 0.1, "window": 10}


class Killed(BaseException):
    """Stands in for a kill: nothing in the library catches it."""


def parameters(explainer):
    return {name: p.detach().clone() for name, p in explainer.adapters.named_parameters()}


@pytest.mark.parametrize(("template", "shape", "form"), [("code", "llama2", "output"), ("fixed", "qwen2", "input")])
def test_a_batch_gives_the_mean_of_its_examples_losses_and_gradients(explainer, examples, template, shape, form):
    made = explainer(shape, form, template)
    encoded = [made.encoder.train(e) for e in examples]
    together = example_losses(made, examples, encoded)
    together.mean().backward()
    gradient = made.adapters.user.weight.grad.clone()
    made.adapters.zero_grad()
    alone = torch.cat([example_losses(made, [e], [x]) for e, x in zip(examples, encoded, strict=True)])
    alone.mean().backward()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, made.adapters.user.weight.grad, atol=1e-6, rtol=1e-4)


def test_loss_is_that_of_full_logits(explainer, examples):
    made = explainer()
    encoded = made.encoder.train(examples[0])
    ids = torch.tensor([encoded.ids])
    with (
        torch.no_grad(),
        made.injector.prompt(made.adapt(examples[:1]), torch.tensor([encoded.positions]), ids.shape[1]),
    ):
        want = made.llm.model(input_ids=ids, labels=torch.tensor([encoded.labels])).loss
    assert held_out_losses(made, examples[:1], 4)[0] == pytest.approx(want.item(), abs=1e-5)


@pytest.mark.parametrize("kill_after", [1, 3, 4, 5])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, explainer, examples, kill_after):
    whole = explainer()
    want = tune(whole, examples, SETTINGS, 1, tmp_path / "a")

    def kill(step):
        if step == kill_after:
            raise Killed

    with pytest.raises(Killed):
        tune(explainer(), examples, SETTINGS, 1, tmp_path / "b", after_step=kill)
    resumed = explainer()
    steps = []
    assert tune(resumed, examples, SETTINGS, 1, tmp_path / "b", after_step=steps.append) == want
    assert len(steps) == 6 - kill_after // 2 * 2
    for name, value in parameters(whole).items():
        assert torch.equal(value, parameters(resumed)[name]), name


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_not_resumed(tmp_path, explainer, examples):
    tune(explainer(), examples, SETTINGS, 1, tmp_path / "c", fingerprint="old")
    steps = []
    want = tune(explainer(), examples, SETTINGS, 1, tmp_path / "c", fingerprint="new", after_step=steps.append)
    assert len(steps) == 6
    checkpoint = tmp_path / "c"
    whole = checkpoint.read_bytes()
    for length in (0, 7, 300, len(whole) - 1):
        checkpoint.write_bytes(whole[:length])
        assert tune(explainer(), examples, SETTINGS, 1, checkpoint, fingerprint="new") == want
    save_file({"a": torch.zeros(1)}, checkpoint)
    assert tune(explainer(), examples, SETTINGS, 1, checkpoint, fingerprint="new") == want


@pytest.mark.parametrize(("schedule", "rate"), [("constant", 1e-2), ("one_cycle", 3e-2)])
def test_tuning_lowers_the_loss(tmp_path, explainer, examples, schedule, rate):
    made = explainer(dropout=0.0)
    before = sum(held_out_losses(made, examples, 4))
    tune(made, examples, SETTINGS | {"epochs": 20, "schedule": schedule, "learning_rate": rate}, 1, tmp_path / "c")
    assert sum(held_out_losses(made, examples, 4)) < 0.95 * before


def test_errors_name_the_place(tmp_path, explainer, examples):
    made = explainer()
    with pytest.raises(DataError, match="train split has no examples"):
        tune(made, [], SETTINGS, 1, tmp_path / "c")
    stray = replace(examples[0], user=99)
    with pytest.raises(DataError, match="example e0: user 99 is out of range, the recommender knows 7 users"):
        tune(made, [stray], SETTINGS, 1, tmp_path / "c")
    with pytest.raises(ModelError, match="the loss of step 2 is"):
        tune(made, examples, SETTINGS | {"learning_rate": 1e30}, 1, tmp_path / "c")


def stopped_after(losses, settings, count):
    """Run the rule example by example; return how many were seen when it stopped, or None."""
    rule = EarlyStopping(settings, count)
    return next((seen for seen, loss in enumerate(losses, start=1) if rule.after([[loss]])), None)


@pytest.mark.parametrize(
    ("losses", "want"),
    [
        ([1.0] * 100, 31),  # awake from 21 on, where the best is set; ten examples later nothing was better
        ([1.0 - i / 1000 for i in range(100)], None),  # always better
        ([1.0 - i / 1000 for i in range(50)] + [2.0] * 50, 60),  # the best is at 50
        ([0.0] * 15 + [1.0] * 5 + [1.0 - i / 1000 for i in range(80)], 31),  # the window of 21 still holds the zeros
    ],
    ids=["flat", "falling", "rising", "early dip"],
)
def test_early_stopping_follows_the_rule_of_the_study(losses, want):
    assert stopped_after(losses, STUDY, 100) == want


def test_early_stopping_by_brute_force():
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        losses = (
            torch.rand(200, generator=rng).double().cumsum(0).mul(-0.01).add(torch.rand(200, generator=rng)).tolist()
        )
        averages = {n: sum(losses[n - 10 : n]) / 10 for n in range(41, 201)}
        best = {n: min(range(41, n + 1), key=lambda m: (averages[m], m)) for n in averages}
        want = next((n for n in averages if n - best[n] >= 20), None)
        assert stopped_after(losses, STUDY, 200) == want


@pytest.mark.parametrize("shape", ["llama2", "llama3", "mistral", "qwen2", "gemma"])
def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(explainer, examples, shape):
    made = explainer(shape, "input", "fixed")
    encoded = [made.encoder.train(e) for e in examples]
    opening = shared_opening(encoded)
    assert len(opening) > 5
    assert all(tuple(row.ids[: len(opening)]) == opening for row in encoded)
    assert len(opening) == min(row.positions[0] for row in encoded)
    losses = example_losses(made, examples, encoded)
    losses.sum().backward()
    gradient = made.adapters.user.weight.grad.clone()
    made.adapters.zero_grad()
    batch = pad_left(encoded, made.pad_id, "cpu")
    with made.injector.prompt(made.adapt(examples), batch.positions, batch.ids.shape[1]):
        logits = made.llm.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False
        ).logits
    whole = torch.stack(
        [
            torch.nn.functional.cross_entropy(row[:-1], labels[1:])
            for row, labels in zip(logits, batch.labels, strict=True)
        ]
    )
    whole.sum().backward()
    torch.testing.assert_close(losses, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, made.adapters.user.weight.grad, atol=1e-5, rtol=1e-4)
    again = example_losses(made, examples, encoded)
    assert torch.equal(again, losses)
    assert len(made._openings) == 1


def test_some_of_the_examples_are_a_seeded_draw_in_their_order():
    everything = list(range(100))
    drawn = _drawn(everything, 10, 1)
    assert len(set(drawn)) == 10 and drawn == sorted(drawn) and drawn != everything[:10]
    assert drawn == _drawn(everything, 10, 1) != _drawn(everything, 10, 2)
    assert _drawn(everything, None, 1) == _drawn(everything, 100, 1) == everything
