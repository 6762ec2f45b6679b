"""RecBole's numbers of BPR and LightGCN (see each bundle's README) from our recommenders of these kinds.

Two things of RecBole's LightGCN are not ours, both below the tolerances: 1e-7 added to each degree; 1e-10 added inside
the logarithm.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.golden import COMMITTED, each, read_fields
from xrec_repro.config import load_config
from xrec_repro.recommenders import RECOMMENDERS
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.factors import Factors
from xrec_repro.recommenders.propagation import normalised_adjacency
from xrec_repro.seeding import torch_generator

TABLES = ("user_embedding.weight", "item_embedding.weight")
TRAINING = {"batch_size": 8, "negatives": "redrawn", "epochs": 1, "patience": 1, "evaluate_every": 1, "k": 1}


def read(bundle: Path) -> tuple[dict, ...]:
    files = (load_file(bundle / f"{name}.safetensors") for name in ("weights", "inputs", "outputs"))
    return read_fields(bundle / "config.json"), *files


def build(kind: str, config: dict, weights: dict, edges: torch.Tensor, dtype: torch.dtype, **own: object) -> Factors:
    """Make the model that a recommender of a kind trains, with the bundle's weights."""
    users, items = (weights[name] for name in TABLES)
    entry = TRAINING | own | {"kind": kind, "dim": users.shape[1], "learning_rate": config["adam_lr"]}
    made, settings = (
        RECOMMENDERS.chosen(entry, "recommenders.golden"),
        RECOMMENDERS.settings(entry, "recommenders.golden"),
    )
    sizes = {"dim": settings.dim, "generator": torch_generator(0, "any")}
    model = Factors(edges, len(users), len(items), **sizes, **made(settings, Run(name="golden", seed=0)).shape())
    model.table = torch.nn.Parameter(torch.cat([users, items]).to(dtype))
    return model


def check_scores(model: Factors, inputs: dict, outputs: dict, **tolerance: float) -> None:
    users, items = model.embeddings()
    rows = users[inputs["user"]]
    close = {"check_dtype": False, **tolerance}
    torch.testing.assert_close(rows @ items.T, outputs["full_scores"], **close)
    for side in ("pos", "neg"):
        torch.testing.assert_close((rows * items[inputs[f"{side}_item"]]).sum(1), outputs[f"{side}_score"], **close)


def check_step(model: Factors, loss: torch.Tensor, outputs: dict, lr: float, tolerance: float) -> None:
    """Compare the loss, its gradients, and the tables after one step of the optimiser that training uses."""
    sizes = [model.n_users, len(model.table) - model.n_users]
    optimizer = torch.optim.Adam([model.table], lr=lr, fused=True)
    loss.backward()
    optimizer.step()
    close = {"check_dtype": False, "atol": tolerance, "rtol": 0}
    torch.testing.assert_close(loss.detach(), outputs["loss"], **close)
    for name, gradient, after in zip(
        TABLES, model.table.grad.split(sizes), model.table.detach().split(sizes), strict=True
    ):
        torch.testing.assert_close(gradient, outputs[f"grad.{name}"], **close)
        torch.testing.assert_close(after, outputs[f"after_adam.{name}"], **close)


@each("bpr")
def test_golden_bpr(bundle):
    config, weights, inputs, outputs = read(bundle)
    edges = torch.stack([inputs["user"], inputs["pos_item"]])
    model = build("bprmf", config, weights, edges, torch.float64)
    check_scores(model, inputs, outputs, atol=1e-12, rtol=0)
    loss = model.loss(inputs["user"], inputs["pos_item"], inputs["neg_item"])
    check_step(model, loss, outputs, config["adam_lr"], 1e-9)


@each("lightgcn")
def test_golden_lightgcn_adjacency(bundle):
    _, weights, inputs, outputs = read(bundle)
    users, items = (len(weights[name]) for name in TABLES)
    ours = normalised_adjacency(inputs["edges_user_item"].T, users, items).to_dense()
    theirs = torch.zeros(users + items, users + items)
    theirs[tuple(outputs["adj_index"])] = outputs["adj_value"].float()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@each("lightgcn")
def test_golden_lightgcn(bundle):
    config, weights, inputs, outputs = read(bundle)
    own = {"layers": config["n_layers"], "combine": "mean", "regularise": "initial"}
    own |= {"penalty": "half_mean" if config["require_pow"] else "norms", "weight_decay": config["reg_weight"]}
    model = build("lightgcn", config, weights, inputs["edges_user_item"].T, torch.float32, **own)
    for ours, side in zip(model.embeddings(), ("user", "item"), strict=True):
        torch.testing.assert_close(ours.double(), outputs[f"{side}_propagated"], atol=1e-6, rtol=0)
    check_scores(model, inputs, outputs, atol=1e-6, rtol=0)
    loss = model.loss(inputs["user"], inputs["pos_item"], inputs["neg_item"])
    check_step(model, loss, outputs, config["adam_lr"], 1e-6)


def test_the_entry_of_recbole_has_the_bundle_s_settings(root):
    entry = load_config(root / "config/config.yaml")["recommenders"]["lightgcn_recbole"]
    bundle = read_fields(COMMITTED / "lightgcn/config.json")
    assert (entry["layers"], entry["weight_decay"]) == (bundle["n_layers"], bundle["reg_weight"])
    assert (entry["penalty"], bundle["require_pow"]) == ("norms", False)
