"""Audit of the published material: what the papers print against what follows from their tables and data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from xrec_repro.audit.facts import Finding, Sources
from xrec_repro.audit.marks import check_marks
from xrec_repro.audit.release import check_release
from xrec_repro.audit.runs import check_runs
from xrec_repro.audit.tables import check_tables
from xrec_repro.audit.texts import check_texts
from xrec_repro.errors import ConfigError
from xrec_repro.io import write_json, write_text
from xrec_repro.markdown import markdown_table

VERDICTS = ("differs", "agrees", "not checked")
_CONSTANTS = ("carbon_intensity", "pue")
_HEAD = """# Audit of the published material

What the XRec paper and its reproduction study print, against what follows from their own tables and from the released
data. Every number under *computed* was computed from the files listed at the end; this page is written by
`xrec-repro audit --write docs/audit.md`, and a test fails when it drifts. The printed tables, marks and statements are
in `resources/published`, with their sources; the released data are the folders of HKUDS/XRec, listed in
`resources/manifest.tsv`.
"""


def run_audit(
    resources_folder: str | Path, data_folder: str | Path | None = None, settings: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Run every check.

    Args:
        resources_folder: The folder ``resources``.
        data_folder: Released data, one folder a data set (``amazon``, ``yelp``, ``google``); checks of what is not
            there are reported as not checked.
        settings: carbon_intensity (kg/kWh) and pue for equation 1; None takes those that the study states.

    Returns:
        Findings with unique ids, always the same ones in the same order.

    Raises:
        ConfigError: A constant is missing from `settings`.
        DataError: A file of ``resources`` is missing or malformed.
    """
    sources = Sources(resources_folder, data_folder)
    if settings is None:
        settings = {key: sources.number(key) for key in _CONSTANTS}
    for key in _CONSTANTS:
        if key not in settings:
            raise ConfigError(f"audit: {key} is missing from the settings; give it, or none for the study's own")
    found = chain(
        check_runs(sources, settings),
        check_release(sources),
        check_tables(sources),
        check_marks(sources),
        check_texts(sources),
    )
    return [replace(finding, sha256=sources.digests(finding.files)) for finding in found]


def write_audit(
    resources_folder: str | Path,
    data_folder: str | Path | None,
    out_json: str | Path,
    out_md: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Run every check and write the findings as JSON and Markdown; arguments as for `run_audit`."""
    findings = run_audit(resources_folder, data_folder, settings)
    write_json(out_json, audit_json(findings))
    write_text(out_md, audit_markdown(findings))
    return findings


def audit_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return ``verdicts`` (verdict -> how many) and ``findings`` (a dict each) for a JSON file."""
    return {"verdicts": _count(findings), "findings": [asdict(finding) for finding in findings]}


def audit_text(findings: Sequence[Finding]) -> str:
    """Return the findings for a terminal: verdict, id and title, then what is printed, computed and follows."""
    blocks = []
    for finding in findings:
        lines = [f"[{finding.verdict}] {finding.id}: {finding.title}"]
        if finding.computed != "–":
            lines += [f"    printed:  {finding.printed}", f"    computed: {finding.computed}"]
        blocks.append("\n".join([*lines, *([f"    {finding.comment}"] if finding.comment else [])]))
    return "\n".join([*blocks, _summary(findings)])


def audit_markdown(findings: Sequence[Finding]) -> str:
    """Return the findings as a page: a summary, one section a finding with the rows behind it, and the files."""
    lines = [_HEAD, _summary(findings), ""]
    lines += _table(
        {
            "check": f"[{finding.id}](#{finding.id.replace('.', '')})",
            "printed": finding.printed,
            "computed": finding.computed,
            "verdict": f"**{finding.verdict}**" if finding.verdict == "differs" else finding.verdict,
        }
        for finding in findings
    )
    for finding in findings:
        lines += _section(finding)
    digests = {name: digest for finding in findings for name, digest in finding.sha256.items()}
    lines += ["", "## Files", ""]
    lines += _table({"file": f"`{name}`", "SHA-256": f"`{digest}`"} for name, digest in sorted(digests.items()))
    return "\n".join(lines) + "\n"


def _section(finding: Finding) -> list[str]:
    points = {"Method": finding.method, "Printed": finding.printed, "Computed": finding.computed}
    points["From"] = ", ".join(f"`{name}`" for name in finding.files)
    shown = [f"- {head}: {text}" for head, text in points.items() if text not in ("", "–")]
    verdict = "" if finding.verdict == "not checked" else f": {finding.verdict}"  # which the comment then says
    parts = [[f"## {finding.id}"], [f"{finding.title}{verdict}. {finding.comment}".rstrip()], shown]
    parts.append(_table(finding.details) if finding.details else [])
    return [line for part in parts if part for line in ("", *part)]


def _count(findings: Iterable[Finding]) -> dict[str, int]:
    verdicts = [finding.verdict for finding in findings]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def _summary(findings: Sequence[Finding]) -> str:
    counts = ", ".join(f"{number} {verdict}" for verdict, number in _count(findings).items())
    return f"{len(findings)} findings: {counts}."


def _table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(rows)
    heads = list(dict.fromkeys(key for row in rows for key in row))
    return markdown_table([*map(_cell, heads)], [[_cell(row.get(head, "–")) for head in heads] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4f}".rstrip("0").rstrip(".")
    return str(value).replace("|", "\\|").replace("<", "&lt;")
