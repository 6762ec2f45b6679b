"""RecBole's numbers of BPR and LightGCN (see each bundle's README) from our LightGCN.

BPR is our model without layers and without a regulariser. Three things of RecBole's LightGCN are not ours: its
regulariser (norms, by default not squared, of layer-0 rows over the batch size), which the test adds to our loss;
1e-7 added to each degree; 1e-10 added inside the logarithm. The last two are below the tolerances.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.golden import each, read_fields
from xrec_repro.recommender.lightgcn import LightGCN
from xrec_repro.recommender.propagation import normalised_adjacency
from xrec_repro.seeding import torch_generator

PLAIN = {"combine": "mean", "regularise": "initial", "weight_decay": 0.0}
TABLES = ("user_embedding.weight", "item_embedding.weight")


def read(bundle: Path) -> tuple[dict, ...]:
    files = (load_file(bundle / f"{name}.safetensors") for name in ("weights", "inputs", "outputs"))
    return read_fields(bundle / "config.json"), *files


def build(weights: dict, edges: torch.Tensor, layers: int, dtype: torch.dtype) -> LightGCN:
    users, items = (weights[name] for name in TABLES)
    settings = PLAIN | {"dim": users.shape[1], "layers": layers}
    model = LightGCN(edges, len(users), len(items), settings, torch_generator(0, "any"))
    model.table = torch.nn.Parameter(torch.cat([users, items]).to(dtype))
    return model


def check_scores(model: LightGCN, inputs: dict, outputs: dict, **tolerance: float) -> None:
    users, items = model.embeddings()
    rows = users[inputs["user"]]
    close = {"check_dtype": False, **tolerance}
    torch.testing.assert_close(rows @ items.T, outputs["full_scores"], **close)
    for side in ("pos", "neg"):
        torch.testing.assert_close((rows * items[inputs[f"{side}_item"]]).sum(1), outputs[f"{side}_score"], **close)


def check_step(model: LightGCN, loss: torch.Tensor, outputs: dict, lr: float, tolerance: float) -> None:
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
    model = build(weights, edges, 0, torch.float64)
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
    model = build(weights, inputs["edges_user_item"].T, config["n_layers"], torch.float32)
    for ours, side in zip(model.embeddings(), ("user", "item"), strict=True):
        torch.testing.assert_close(ours.double(), outputs[f"{side}_propagated"], atol=1e-6, rtol=0)
    check_scores(model, inputs, outputs, atol=1e-6, rtol=0)
    batch = [inputs["user"], *(inputs[f"{side}_item"] + model.n_users for side in ("pos", "neg"))]
    norms = torch.stack([model.table[nodes].norm() for nodes in batch])
    penalty = (norms**2 / 2 if config["require_pow"] else norms).sum() / len(batch[0])
    loss = model.loss(inputs["user"], inputs["pos_item"], inputs["neg_item"])
    check_step(model, loss + config["reg_weight"] * penalty, outputs, config["adam_lr"], 1e-6)
