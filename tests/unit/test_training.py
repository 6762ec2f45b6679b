"""The training loop on a small regression: order, rules, best weights, and that no kill changes a bit."""

import os
import signal
from dataclasses import replace
from functools import partial
from itertools import chain

import pytest
import torch
from torch import nn

from xrec_repro.errors import ModelError
from xrec_repro.interrupt import StoppedError
from xrec_repro.seeding import numpy_rng
from xrec_repro.training import Plan, Trainee, curve_rows, one_cycle, train

ROWS, EPOCHS, SIZE = 10, 6, 4
SGD = partial(torch.optim.SGD, lr=0.1)
ADAM = partial(torch.optim.Adam, lr=0.05)


class Killed(BaseException):
    """Stands in for a kill: nothing in the library catches it."""


class Line(Trainee):
    """A regression with dropout, whose held-out scores may be made up."""

    def __init__(self, scores=None):
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = (torch.randn(ROWS, width, generator=generator) for width in (3, 1))
        self.module, self.rows = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 1)), ROWS
        nn.init.constant_(self.module[1].weight, 0.5)
        nn.init.zeros_(self.module[1].bias)
        self.scores, self.taken, self.seen = iter(scores or ()), [], []

    def loss(self, batch):
        assert self.module.training
        self.taken.append(batch)
        return (self.module(self.x[batch]) - self.y[batch]).square()[:, 0]

    def held_out(self):
        assert not self.module.training
        self.seen.append(weights(self))
        found = (self.module(self.x) - self.y).square().mean().item()
        return {"val_loss": next(self.scores, found), "val_other": 1.0}


def weights(trainee):
    return torch.cat([value.detach().reshape(-1).clone() for value in trainee.module.parameters()])


def plan(**changes):
    own = {"name": "line", "rate_key": "line.rate", "seed": 1, "epochs": EPOCHS, "batch_size": SIZE, "optimizer": ADAM}
    return Plan(**own | changes)


def kill_at(step):
    def after_step(done):
        if done == step:
            raise Killed

    return after_step


RECIPES = {
    "adam": {"save_every": 2},
    "one cycle, clipped": {"schedule": one_cycle, "clip": 0.5, "save_every": 4},
    "as the baselines": {
        "optimizer": SGD, "clip": 1.0, "evaluate_every": 1, "patience": 4, "endured": True, "decay": 0.25,
    },
    "losses of an epoch": {"evaluate_every": 2, "keep_curve": False, "save_every": 1},
    "the study's rule": {"early_stopping": {"start": 0.2, "patience": 0.9, "window": 3}, "save_every": 2},
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_training_killed_at_a_step_ends_in_the_same_bits(tmp_path, recipe):
    whole = Line()
    want = train(whole, plan(**recipe, checkpoint=tmp_path / "whole"))
    assert want.done > 4 and not whole.module.training
    for step in {1, 2, 3, 4, want.done - 1, want.done}:
        place = tmp_path / str(step)
        with pytest.raises(Killed):
            train(Line(), plan(**recipe, checkpoint=place, after_step=kill_at(step)))
        resumed = Line()
        assert train(resumed, plan(**recipe, checkpoint=place)) == want
        assert torch.equal(weights(resumed), weights(whole))
        assert len(resumed.taken) < len(whole.taken) or step < recipe.get("save_every", 3)


def test_a_stop_is_met_after_the_step_and_loses_nothing(tmp_path):
    want = train(Line(), plan())

    def ask(done):
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="6 of 18 steps of line are saved"):
        train(Line(), plan(checkpoint=tmp_path / "c", after_step=ask))
    resumed = Line()
    assert train(resumed, plan(checkpoint=tmp_path / "c")) == want
    assert len(resumed.taken) == 12


def test_two_trainings_in_a_row_resume_in_the_second(tmp_path):
    stages = [plan(name=name, checkpoint=tmp_path / f"c{name}", save_every=1, evaluate_every=1) for name in ("a", "b")]
    want = Line()
    for stage in stages:
        train(want, stage)
        stage.checkpoint.unlink()
    broken = Line()
    train(broken, stages[0])
    with pytest.raises(Killed):
        train(broken, replace(stages[1], after_step=kill_at(7)))
    resumed = Line()
    for stage in stages:
        train(resumed, stage)
    assert torch.equal(weights(resumed), weights(want))
    assert len(resumed.taken) == 18 - 7


def test_every_epoch_has_its_named_order():
    line = Line()
    found = train(line, plan())
    for epoch in range(EPOCHS):
        taken = [*chain(*line.taken[3 * epoch : 3 * epoch + 3])]
        assert taken == numpy_rng(1, "line order", epoch).permutation(ROWS).tolist()
    assert [len(losses) for losses in found.curve] == [4, 4, 2] * EPOCHS
    assert (found.stopped_by, found.best_epoch, len(found.history)) == ("epochs", 0, EPOCHS)
    mean = torch.tensor([*chain(*found.curve[:3])]).mean().item()
    assert found.history[0] == {"epoch": 1, "loss": mean}
    rows = curve_rows(found.curve)
    assert [row["examples"] for row in rows[:4]] == [4, 8, 10, 14]
    assert rows[2] == {"step": 3, "examples": 10, "loss": pytest.approx(sum(found.curve[2]) / 2)}


SCORES = [5.0, 6.0, 4.0, 4.0, 3.0, 7.0, 2.0, 8.0, 1.0, 9.0]


@pytest.mark.parametrize(
    ("endured", "epochs", "best"),
    [(True, 6, 5), (False, 10, 9)],  # the third without a better one is the sixth; three in a row there are none
)
def test_patience_counts_in_a_row_or_over_all(endured, epochs, best):
    line = Line(SCORES)
    found = train(line, plan(epochs=10, evaluate_every=1, patience=3, endured=endured))
    assert (len(found.history), found.best_epoch, found.best) == (epochs, best, SCORES[best - 1])
    assert found.stopped_by == ("patience" if endured else "epochs")
    assert torch.equal(weights(line), line.seen[best - 1])
    assert not torch.equal(weights(line), line.seen[-1])
    assert found.history[1]["val_loss"] == 6.0 and found.history[1]["val_other"] == 1.0


def test_what_ends_before_its_first_evaluation_keeps_what_it_learnt():
    line = Line()
    before, rule = weights(line), {"start": 0.2, "patience": 0.9, "window": 3}
    found = train(line, plan(early_stopping=rule, evaluate_every=EPOCHS, optimizer=partial(SGD, lr=1e-9)))
    assert (found.stopped_by, found.best_epoch) == ("losses", 0)
    assert not torch.equal(weights(line), before)


def test_higher_may_be_better():
    line = Line(SCORES)
    line.higher = True
    assert train(line, plan(epochs=10, evaluate_every=3)).best_epoch == 6  # 6.0 at the second evaluation
    assert torch.equal(weights(line), line.seen[1])


def test_the_rate_decays_at_each_epoch_that_is_not_better():
    rates, made = [], []

    def optimizer(parameters):
        made.append(SGD(parameters))
        return made[0]

    watched = {"after_epoch": lambda record: rates.append(made[0].param_groups[0]["lr"])}
    train(Line(SCORES), plan(optimizer=optimizer, evaluate_every=1, decay=0.25, **watched))
    assert rates == pytest.approx([0.1, 0.025, 0.025, 0.00625, 0.00625, 0.0015625])


def test_gradients_are_clipped_and_add_up():
    def moved(**changes):
        line = Line()
        line.module[0].p = 0.0
        before = weights(line)
        train(line, plan(epochs=1, batch_size=ROWS, optimizer=partial(torch.optim.SGD, lr=1.0), **changes))
        return weights(line) - before

    whole = moved()
    torch.testing.assert_close(moved(at_once=3), whole)
    assert whole.norm() > 0.1
    torch.testing.assert_close(moved(clip=0.1), 0.1 * whole / whole.norm(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [2, 3, 15])
def test_a_loss_or_a_score_that_is_not_finite_is_named(tmp_path, bad):
    class Broken(Line):
        def loss(self, batch):
            return super().loss(batch) * (float("nan") if len(self.taken) >= bad else 1)

    with pytest.raises(ModelError, match=rf"^line: the loss of step {bad} is nan; lower line\.rate$"):
        train(Broken(), plan(checkpoint=tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    with pytest.raises(ModelError, match="line: the val_loss of epoch 2 is inf; lower line.rate"):
        train(Line([1.0, float("inf")]), plan(evaluate_every=1))
