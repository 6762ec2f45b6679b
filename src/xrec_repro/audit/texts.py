"""Audit of what the papers say: statements in prose against their own tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from xrec_repro.audit.facts import STD, Finding, ScoreRow, Sources, listing, published

_CONTRADICTIONS = {
    "judge_model": "The judge behind LlamaScore",
    "layers_combined_by": "How the recommender's layers become one embedding",
}


def check_texts(sources: Sources) -> Iterator[Finding]:
    """Yield the findings about statements of the papers.

    Raises:
        DataError: A file of ``resources/published`` is missing or malformed.
    """
    yield _usr_claim(sources)
    yield _judge_gap(sources)
    yield _llamascore_drop(sources)
    yield _outperforms(sources)
    for claim in dict.fromkeys(row["claim"] for row in sources.facts("comparisons")):
        yield _comparison(sources, claim)
    for key, title in _CONTRADICTIONS.items():
        yield _contradiction(sources, key, title)


def _study_pairs(sources: Sources) -> list[tuple[ScoreRow, ScoreRow]]:
    """Return the XRec paper's and the study's row of each model that both have."""
    rows = sources.scores("study_table1")
    theirs = {(row.dataset, row.model): row for row in rows if row.reported_by == "xrec"}
    return [
        (theirs[row.dataset, row.model], row)
        for row in rows
        if row.reported_by == "study" and (row.dataset, row.model) in theirs
    ]


def _usr_claim(sources: Sources) -> Finding:
    stated = sources.number("usr_of_xrec_and_without_profile")
    pairs = _study_pairs(sources)
    wrong = [row for pair in pairs for row in pair if row["usr"] != stated]
    return Finding(
        id="usr-claim",
        title="USR of XRec and of its variant without profiles",
        method="Every USR of the two models in the study's table 1, both papers' rows.",
        files=published("study_table1", "statements"),
        printed=f"{stated:.1f} on all data sets ({sources.source('usr_of_xrec_and_without_profile')})",
        computed=f"{2 * len(pairs) - len(wrong)} of {2 * len(pairs)} rows; others: "
        + listing(f"{row.dataset} {row.model} [{row.reported_by}] {row.printed['usr']}" for row in wrong),
        verdict="differs" if wrong else "agrees",
        comment="Claim 2 was validated with it." if wrong else "",
    )


def _judge_gap(sources: Sources) -> Finding:
    low, high = (sources.number(f"judge_gap_points_{end}") for end in ("min", "max"))
    details = [
        {"dataset": ours.dataset, "model": ours.model, "GPTScore - LlamaScore": theirs["gptscore"] - ours["llamascore"]}
        for theirs, ours in _study_pairs(sources)
    ]
    gaps = [detail["GPTScore - LlamaScore"] for detail in details]
    outside = sum(not low - 0.5 <= gap < high + 0.5 for gap in gaps)
    return Finding(
        id="judge-gap",
        title="Distance between GPTScore and LlamaScore",
        method="GPTScore of the XRec paper's row less LlamaScore of the study's, per model; whole points count.",
        files=published("study_table1", "statements"),
        printed=f"{low:g} to {high:g} points ({sources.source('judge_gap_points_min')})",
        computed=f"{min(gaps):.2f} to {max(gaps):.2f}; {outside} of {len(gaps)} outside",
        verdict="differs" if outside else "agrees",
        comment="Two judges, and two sets of texts.",
        details=tuple(details),
    )


def _llamascore_drop(sources: Sources) -> Finding:
    place = "study_table2", "Amazon-books"
    drop = sources.score(*place, "XRec")["llamascore"] - sources.score(*place, "XRec w/o embed.")["llamascore"]
    stated = sources.number("llamascore_drop_without_embeddings")
    return Finding(
        id="llamascore-drop",
        title="What removing the adapted embeddings costs in LlamaScore",
        method="Difference of the two rows of table 2; whole points count.",
        files=published("study_table2", "statements"),
        printed=f"{stated:g} points ({sources.source('llamascore_drop_without_embeddings')})",
        computed=f"{drop:.2f} points",
        verdict="agrees" if round(drop) == stated else "differs",
        comment="",
    )


def _outperforms(sources: Sources) -> Finding:
    rows = sources.scores("xrec_table1")
    own = [row for row in rows if row.model == "Ours"]
    details, cells = [], 0
    for row in own:
        rivals = [other for other in rows if other.dataset == row.dataset and not other.model.startswith("Ours")]
        for column in row.printed:
            cells += 1
            sign = -1 if column.endswith(STD) else 1
            best = max(rivals, key=lambda rival: sign * rival[column])
            if sign * best[column] >= sign * row[column]:
                place = {"dataset": row.dataset, "column": column, "XRec": row.printed[column]}
                details.append(place | {"best baseline": best.model, "its value": best.printed[column]})
    return Finding(
        id="outperforms",
        title="XRec against the baselines in its own table",
        method="Cells of table 1 in which the full model is not better than every baseline.",
        files=published("xrec_table1", "statements"),
        printed=f"better {sources.statements('outperforms_baselines')[0]['value']} "
        f"({sources.source('outperforms_baselines')})",
        computed=f"better in {cells - len(details)} of {cells} cells",
        verdict="differs" if details else "agrees",
        comment=f"Of the others, {sum(d['column'].endswith(STD) for d in details)} are standard deviations.",
        details=tuple(details),
    )


def _comparison(sources: Sources, claim: str) -> Finding:
    facts = [row for row in sources.facts("comparisons") if row["claim"] == claim]
    said = sources.statements(claim)[0]
    details = [_compare(sources, fact) for fact in facts]
    true = sum(detail["true"] == "yes" for detail in details)
    most = facts[0]["needed"] == "most"
    return Finding(
        id=claim,
        title=said["value"],
        method=f"Each comparison that the sentence makes, in the printed tables; {facts[0]['needed']} must hold.",
        files=published("statements", "comparisons", *sorted({fact["table"] for fact in facts})),
        printed=f"so said in {said['source']}",
        computed=f"{true} of {len(details)} comparisons hold",
        verdict="agrees" if (2 * true > len(details) if most else true == len(details)) else "differs",
        comment=said["note"],
        details=tuple(details),
    )


def _compare(sources: Sources, fact: Mapping[str, str]) -> dict[str, Any]:
    column, place = fact["column"], (fact["table"], fact["dataset"])
    left = sources.score(*place, fact["left"], fact["left_by"])
    if fact["relation"] == "lowest":
        rows = [row for row in sources.scores(fact["table"]) if row.dataset == fact["dataset"]]
        lowest = min((row for row in rows if column in row.printed), key=lambda row: row[column])
        true, other = left[column] <= lowest[column], f"lowest: {lowest.printed[column]} ({lowest.model})"
    else:
        right = sources.score(*place, fact["right"], fact["right_by"])
        true = left[column] > right[column] if fact["relation"] == ">" else left[column] < right[column]
        other = f"{fact['relation']} {right.printed[column]} ({right.model} [{right.reported_by}])"
    detail = {"dataset": fact["dataset"], "column": column, "value": f"{left.printed[column]} ({left.model})"}
    return detail | {"said to be": other, "true": "yes" if true else "no"}


def _contradiction(sources: Sources, key: str, title: str) -> Finding:
    facts = sources.statements(key)
    values = {row["value"] for row in facts}
    return Finding(
        id=f"contradiction-{key.replace('_', '-')}",
        title=title,
        method="The paper's statements about it, side by side.",
        files=published("statements"),
        printed=listing(f"{row['value']} ({row['source']})" for row in facts),
        computed=f"{len(values)} different answers",
        verdict="differs" if len(values) > 1 else "agrees",
        comment="Nothing printed decides between them." if len(values) > 1 else "",
    )
