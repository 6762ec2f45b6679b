"""The state of an unfinished training, from which it resumes bit for bit."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xrec_repro.identity import OTHER
from xrec_repro.interrupt import StoppedError
from xrec_repro.io import atomic_path, remove_scraps

log = logging.getLogger("xrec_repro")


class Checkpoint:
    """Trained parameters, the optimiser's state and the progress so far, in one safetensors file.

    Args:
        path: A file beside the outputs; whoever owns the outputs removes it in the end.
        identity: Digest of all that the result depends on: a file of another one is not resumed.
        parameters: Name -> what is trained, in the optimiser's order.
        optimizer: Of these parameters.
        kept: Name -> what else goes on with the training, such as the best parameters so far; changed in place.
    """

    def __init__(
        self,
        path: Path,
        identity: str,
        parameters: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        kept: dict[str, Tensor] | None = None,
    ) -> None:
        self.path, self.identity = Path(path), identity
        self.parameters, self.optimizer, self.kept = parameters, optimizer, kept or {}

    def keep(self, progress: Any, due: bool, stop: bool, done: str) -> None:
        """Save after a step if it is due or a stop was asked for.

        Args:
            progress: What `restore` is to return; of JSON types.
            due: Whether it is time to save.
            stop: Whether to save and stop.
            done: What was done, for the message.

        Raises:
            StoppedError: A stop was asked for, and all is saved.
        """
        if due or stop:
            self.save(progress)
        if stop:
            raise StoppedError(done, self.path)

    def save(self, progress: Any) -> None:
        """Write the file atomically."""
        state = self.optimizer.state_dict()
        tensors = {f"parameter.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"kept.{name}": value for name, value in self.kept.items()}
        for index, values in state["state"].items():
            tensors |= {f"state.{index}.{key}": value for key, value in values.items()}
        header = {"identity": self.identity, "groups": state["param_groups"], "progress": progress}
        with atomic_path(self.path) as temporary:
            whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            save_file(whole, temporary, {"run": json.dumps(header)})

    def restore(self) -> Any | None:
        """Take over parameters and optimiser from the file and return its progress.

        Returns:
            None if there is no such file, or none that can be resumed; then the log says why and nothing has changed.
        """
        remove_scraps(self.path)
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                header = json.loads((file.metadata() or {})["run"])
                if header["identity"] != self.identity:
                    log.warning("%s: %s; starting anew", self.path, OTHER)
                    return None
                # A mapped file is not aligned as torch's own memory is, which can change last bits: clone.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError, KeyError):
            log.warning("%s: damaged; starting anew", self.path)
            return None
        self._take_over(tensors, header["groups"])
        return header["progress"]

    def _take_over(self, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors.pop(f"parameter.{name}"))
            for name, value in self.kept.items():
                value.copy_(tensors.pop(f"kept.{name}"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
