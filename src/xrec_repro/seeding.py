"""Named seeds: every random draw has its own stream, so adding one draw never shifts another."""

import hashlib

import numpy as np


def derive_seed(seed: int, *names: object) -> int:
    """Derive the seed of a named stream.

    Args:
        seed: The run's seed.
        *names: What the stream is for, e.g. ``"negatives", epoch``.

    Returns:
        A 63-bit integer: the first bytes of SHA-256 over the seed and the names.
    """
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *names: object) -> np.random.Generator:
    """Return a NumPy generator for a named stream (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, *names))


def torch_generator(seed: int, *names: object):
    """Return a CPU `torch.Generator` for a named stream (see `derive_seed`).

    Draws are made on the CPU whatever the device of the model, so that a GPU run sees the same numbers.
    """
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *names))
