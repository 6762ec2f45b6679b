"""Shards: the jobs that share out the batches of a stage.

This module is imported by the Snakefile, which is parsed again in every job: it must stay free of heavy imports.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from xrec_repro.errors import ConfigError

T = TypeVar("T")

# The metrics whose scoring `scatter.judging` cuts into shards: an LLM reads every pair. The others take minutes for a
# whole test set, or (USR, Distinct, weights by document frequency) need all of it at once.
JUDGES = ("gptscore", "llamascore")
SCRATCH_SCORERS = {"bartscore": "bart", "bleurt": "bleurt", "llamascore": "judge"}  # what a run trains for a metric


@dataclass(frozen=True)
class Shard:
    """One of `count` jobs that share a stage; the first is number 1, and by default it is alone.

    Whole batches are dealt, in turn: what is in a batch, and so every bit of its results, is the same for any count,
    and batches sorted by length make shards that take about as long as each other. With fewer batches than shards,
    some get none.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"{self}: there is no such shard; the last is {self.count}-of-{self.count}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read the name of a shard, such as ``2-of-5``.

        Raises:
            ConfigError: It is none.
        """
        found = re.fullmatch(r"(\d+)-of-(\d+)", text)
        if not found:
            raise ConfigError(f"{text}: not the name of a shard; write it as 2-of-5")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def deal(self, batches: Sequence[T]) -> list[T]:
        """Return this shard's batches, in their order."""
        return list(batches[self.number - 1 :: self.count])


WHOLE = Shard()


def shard_names(count: int) -> list[str]:
    """List the names of all shards: ``1-of-2``, ``2-of-2``."""
    return [str(Shard(number, count)) for number in range(1, count + 1)]
