"""The file of a recommender's embeddings, which explainers read without the recommender and what it imports."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xrec_repro.errors import DataError, ModelError
from xrec_repro.io import atomic_path, require_file
from xrec_repro.seeding import torch_generator


def save_embeddings(path: Path, user: Tensor, item: Tensor, about: dict[str, str | int]) -> None:
    """Write final embeddings atomically as safetensors.

    Args:
        path: Where to write.
        user: [n_users, dim].
        item: [n_items, dim].
        about: What to say of the run in the file's header, as JSON under the key ``run``.
    """
    tensors = {"user": user, "item": item}
    # Slices of one table share memory, which safetensors refuses.
    whole = {
        name: value.detach().float().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    with atomic_path(path) as temporary:
        # One key, because safetensors writes several in random order and equal runs should give equal bytes.
        save_file(whole, temporary, metadata={"run": json.dumps(about)})


def swapped_users(count: int, seed: int) -> Tensor:
    """Return whose vector each user has where they are swapped: [users], no one its own (of a single one, it has).

    Args:
        count: How many users there are.
        seed: The run's seed.
    """
    order = torch.randperm(count, generator=torch_generator(seed, "swapped", "user"))
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def load_embeddings(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read final embeddings.

    Args:
        path: A file of `save_embeddings`.

    Returns:
        User embeddings [n_users, dim] and item embeddings [n_items, dim], float32, on the CPU.

    Raises:
        DataError: The file is missing, is not whole, or lacks one of the two tables.
        ModelError: The tables are not two matrices of the same width.
    """
    path = require_file(path, "run the rule train_recommender")
    try:
        with safe_open(path, framework="pt") as stream:
            present = list(stream.keys())
            for name in ("user", "item"):
                if name not in present:
                    raise DataError(f"{path}: tensor {name!r} is missing (found: {', '.join(present)})")
            user, item = stream.get_tensor("user").float(), stream.get_tensor("item").float()
    except SafetensorError as error:
        raise DataError(f"{path}: not a whole safetensors file; delete it and run the rule again") from error
    if user.ndim != 2 or item.ndim != 2 or user.shape[1] != item.shape[1]:
        raise ModelError(
            f"{path}: user and item must be matrices of one width, not {tuple(user.shape)} and "
            f"{tuple(item.shape)}; delete the file and run the rule again"
        )
    return user, item
