"""A call that is launched as a whole: on a GPU a CUDA graph that is captured once and replayed, elsewhere the call."""

from collections.abc import Callable
from typing import Any

import torch


class Replayed:
    """A call without arguments that reads and writes tensors which stay where they are.

    A step of a language model is some hundred small launches, which take a CPU longer than the GPU needs for them.

    Args:
        call: It may not wait for the device, and runs once more than it is asked to, before it is captured.
        device: Where it runs.
        pool: Memory that several graphs share, none of which runs beside another (`torch.cuda.graph_pool_handle`).
    """

    def __init__(self, call: Callable[[], None], device: torch.device, pool: Any = None) -> None:
        self._run = call
        if device.type != "cuda":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()  # what is compiled or set up at the first call cannot be captured
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            call()
        self._run = graph.replay

    def __call__(self) -> None:
        """Run it, on the current stream."""
        self._run()
