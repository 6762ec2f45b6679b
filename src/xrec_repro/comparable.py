"""May a score of this run stand beside a published one? Tables, figures, differences and claims all ask here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xrec_repro.metrics.columns import stated_column
from xrec_repro.published import PublishedScores, read_rows

_DIGEST = "@sha256:"  # behind the name of a folder in a signature, whose digest says what it is; its name does not


@dataclass(frozen=True)
class _Scored:
    """How a paper scored: the repository of its model, or "", and what else a signature must have: key -> values."""

    model: str
    parts: dict[str, list[str]]


@dataclass(frozen=True)
class _Pinned:
    """A repository of the hub: the commit that is known to be the published model, or "", and digests of folders."""

    revision: str
    digests: tuple[str, ...]


class Comparable:
    """How the papers scored (``published/signatures.csv``), with which models (``models.tsv``).

    A model is the published one if it is the hub's repository at the pinned commit, or a folder whose digest
    (`identity.model_digest`) is listed for it. What a folder is called says nothing.

    Raises:
        DataError: A file is missing or malformed.
    """

    def __init__(self, resources_folder: str | Path) -> None:
        folder = Path(resources_folder)
        wanted = ("metric", "reported_by", "model", "parts")
        self._scored = {
            (row["metric"], row["reported_by"]): _Scored(row["model"], _alternatives(row["parts"]))
            for _, row in read_rows(folder / "published" / "signatures.csv", wanted)
        }
        self._pinned = {
            row["repository"]: _Pinned(row["revision"], tuple(row["digests"].split()))
            for _, row in read_rows(folder / "models.tsv", ("repository", "revision", "digests"), "\t")
        }

    def difference(self, metric: str, signature: str, n: int, paper: str, published_n: int) -> str | None:
        """Return what keeps a score from being compared with a published one, None where nothing does.

        Args:
            metric: Column, e.g. ``bertscore_f1``.
            signature: What it was computed with.
            n: Examples that it was computed from.
            paper: Who printed the other, ``xrec`` or ``study``.
            published_n: Examples of the other.
        """
        name, *found = signature.split("|")
        scored = self._scored.get((name, paper))
        if scored is None:
            return "nothing pins what the published one was scored with"
        have = dict(part.partition(":")[::2] for part in found)
        if scored.model and (other := self._other_model(have, scored.model)):
            return other
        for key, values in scored.parts.items():
            if have.get(key) not in values:
                return f"{key} {have.get(key, 'not given')}, published {' or '.join(values)}"
        return unequal_size(metric, n, published_n)

    def differences(
        self, metric: str, signature: str, n: int, rows: Iterable[PublishedScores]
    ) -> dict[tuple[str, int], str | None]:
        """Return (paper, N) of each published row that prints a metric -> what keeps it from being compared."""
        printed = dict.fromkeys((row.reported_by, row.n_test) for row in rows if metric in row.values)
        return {(paper, size): self.difference(metric, signature, n, paper, size) for paper, size in printed}

    def _other_model(self, have: dict[str, str], repository: str) -> str | None:
        pinned, shown = self._pinned.get(repository, _Pinned("", ())), have.get("model", "-")
        _, local, digest = shown.rpartition(_DIGEST)
        if local:
            same = len(digest) >= 12 and any(known.startswith(digest) for known in pinned.digests)
            wanted = "no digest of it is listed" if not pinned.digests else "listed digests differ"
        elif shown == repository and not pinned.revision:
            return f"which commit of {repository} the published model is, is not known"
        else:
            same = shown == repository and have.get("rev") == pinned.revision
            shown, wanted = f"{shown} at {have.get('rev', '-')[:7]}", f"at {pinned.revision[:7] or '?'}"
        return None if same else f"another model, {shown}, than the published {repository} ({wanted})"


def unequal_size(metric: str, n: int, other_n: int) -> str | None:
    """Return why scores of so many examples do not compare: those of a whole set of texts need sets of one size."""
    return f"N {n:,} against {other_n:,}" if stated_column(metric).whole and n != other_n else None


def apart(differences: dict[tuple[str, int], str | None]) -> str | None:
    """Return what keeps a score from standing beside published ones (of `differences`), None if any compares."""
    return None if None in differences.values() else next(reversed(differences.values()), None)


def _alternatives(parts: str) -> dict[str, list[str]]:
    pairs = (part.partition(":")[::2] for part in parts.split("|"))
    return {key: values.split(" or ") for key, values in pairs}
