"""The page of docs on a run of a real language model, from its files under resources/measured (docs/real_run.py)."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xrec_repro.io import read_json
from xrec_repro.markdown import markdown_table
from xrec_repro.paper.render import number, p_value, span

# Of a run: its page, and what the page calls it.
PAGES = {"xrec-small": ("real-run.md", "make real"), "xrec-smollm": ("real-run-all.md", "config/xrec-smollm.yaml")}
METRICS = ("bertscore_f1", "bleu_1", "bleu_4", "rouge_1", "rouge_l", "usr", "distinct_1", "distinct_2")
HEAD = """# The run of `{called}`

Written by `python docs/real_run.py results/{run}` from a finished run, whose numbers are in
`resources/measured/{run}/`.
[A real language model on real reviews](real.md) says what was run and with which settings.

- commit: {commit}{changed}
- tuned on: {tuned}
- losses computed on: {losses}
- processor time of the run's jobs: {minutes} minutes
- seeds: {seeds}

"""
LOSSES = """## Losses

Mean loss of a test text, in nats a token, under the tuned adapters, less that of

- `untouched`: the model without vectors in its prompt, of the same profiles;
- `others' vectors`: the same adapters, given the vectors of other users and items;
- another experiment, tuned likewise but for one thing: its prompts have no profiles, nothing is injected into layers,
  all users have one vector and all items another, both drawn from N(0, 1) (`fixed_moe`, `no_profile_fixed`), or each
  user's and item's vector is another's (`no_profile_shuffled`).

Intervals of 95 %, p and its correction by Holm over all rows are made as those of scores are
([statistics](statistics.md)): users are drawn with their texts, and from three seeds on a difference must exceed what
trainings differ by; for others' vectors, which the same adapters read, what their differences over the seeds do. With
one seed they say nothing of another training. `seeds` has the change of each seed.
"""
SCORES = """## Scores

Means over all seeds, and the interval of BERTScore F1 over users with their texts.
"""
OPENING = """## Opening

Share of texts whose first words are those of their own reference, or of any reference; intervals likewise.
"""
HABIT = """## What texts do

Texts that begin with "The user", that begin with the word I, You or Your (I'm and You've, too), that take up the system
message's "within 50 words", and that were cut off at the limit of tokens; of all seeds.
"""


def page(folder: Path) -> str:
    """Return the page, from the files of one run."""
    read = {path.stem: _read(path) for path in folder.glob("*.csv")}
    facts = read_json(folder / "provenance.json")
    head = HEAD.format(
        run=folder.name,
        called=PAGES[folder.name][1],
        commit=facts["commit"][:12],
        changed=" with uncommitted changes" if facts["changed"] else "",
        tuned="; ".join(facts["tuned_on"]),
        losses="; ".join(facts["losses_on"]),
        seeds=", ".join(map(str, facts["seeds"])),
        minutes=round(facts["processor_seconds"] / 60),
    )
    return head + "\n".join(
        [
            LOSSES,
            _table(read["losses"], list(read["losses"][0])),
            SCORES,
            _scores(read["scores"]),
            OPENING,
            _table(
                read["form"], ("dataset", "experiment", "embeddings", "own_mean", "own_low", "own_high", "known_mean")
            ),
            HABIT,
            _table(read["habits"], list(read["habits"][0])),
            "## Texts\n\nDrawn by a seed, good and bad.\n",
            *(_text(row) for row in read["texts"]),
        ]
    )


def _scores(rows: Sequence[Mapping[str, str]]) -> str:
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        cells = found.setdefault((row["dataset"], row["label"], row["n"]), {})
        cells[row["metric"]] = row["mean"]
        if row["metric"] == "bertscore_f1":
            cells["95 %"] = span(float(row["mean_low"]), float(row["mean_high"]))
    columns = ("bertscore_f1", "95 %", *METRICS[1:])
    table = [
        {"dataset": name, "experiment": label, "n": n} | {c: cells.get(c, "–") for c in columns}
        for (name, label, n), cells in found.items()
    ]
    return _table(table, ("dataset", "experiment", "n", *columns))


def _text(row: Mapping[str, str]) -> str:
    lines = [f"**{row['dataset']} {row['example_id']}**", "", f"- reference: {_line(row['reference'])}"]
    lines += [f"- {name}: {_line(text)}" for name, text in list(row.items())[3:] if text]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    cells = [[_cell(column, row[column]) for column in columns] for row in rows]
    return "\n".join(markdown_table(columns, cells)) + "\n"


def _cell(column: str, text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return text
    if column in ("p", "p_holm"):
        return p_value(value)
    return text if text.isdigit() else number(value)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
