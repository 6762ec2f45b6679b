"""The command line `xrec-repro`: see what a run needs, score texts of any origin, and look into a run."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xrec_repro.config import Config, load_config
from xrec_repro.config_rules import check_config
from xrec_repro.errors import DataError, XRecError

ROOT = Path(__file__).resolve().parents[2]
_RELEASED = Path("../shared/data/xrec")  # beside the checkout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or after printing one line the exit code of the error."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # any title can be printed, whatever the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # for modules of the user's own, as the workflow does
        code = options.command(options) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output (head) has had enough; Python must not try to write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except XRecError as error:
        print(f"xrec-repro: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        print(f"xrec-repro: {place}{error.strerror or error}; check the path and its permissions", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xrec-repro", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score", help="score predictions against references, with signatures")
    score.add_argument("predictions", type=Path, help=".txt (one text a line), .jsonl, .parquet or released .pkl")
    score.add_argument("references", type=Path, help="likewise, in the same order")
    score.add_argument("--metrics", nargs="+", default=["usr"], help="names of metrics (default: usr)")
    score.add_argument("--config", type=Path, nargs="*", default=[], help="overlays of config/config.yaml")
    score.add_argument("--out", type=Path, metavar="FILE", help="write every example's scores, too (.parquet or .csv)")
    score.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    score.set_defaults(command=_score)
    explain = commands.add_parser("explain", help="print an explanation, the profiles behind it and the true reasons")
    explain.add_argument("--run", required=True, help="name of the run, e.g. demo")
    explain.add_argument("--dataset", required=True)
    explain.add_argument("--user", required=True, help="user id of the raw data")
    explain.add_argument("--item", required=True, help="item id of the raw data")
    explain.add_argument("--results", type=Path, default=Path("results"), help="folder of all runs (default: results)")
    explain.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    explain.set_defaults(command=_explain)
    audit = commands.add_parser("audit", help="check what the papers print against their own tables and data")
    audit.add_argument("--data", type=Path, help=f"released data, one folder a data set (default: {_RELEASED}, if any)")
    audit.add_argument("--resources", type=Path, default=ROOT / "resources", help="default: resources of the checkout")
    audit.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON, too")
    audit.add_argument("--write", type=Path, metavar="FILE", help="write them as a Markdown page, too")
    audit.set_defaults(command=_audit)
    check = commands.add_parser("check", help="say what a run needs and what of it is missing here")
    check.add_argument("config", type=Path, nargs="*", help="overlays of config/config.yaml")
    check.add_argument("--plan", action="store_true", help="count the jobs, too (some seconds)")
    check.set_defaults(command=_check)
    return parser


def _checked(overlays: Sequence[Path]) -> Config:
    config = load_config(ROOT / "config/config.yaml", *overlays)
    check_config(config)
    return config


def _check(options: argparse.Namespace) -> int:
    from xrec_repro.plan import Plan
    from xrec_repro.preflight import MISSING, check, plan_jobs, show

    config = _checked(options.config)
    plan = partial(plan_jobs, ROOT / "Snakefile", options.config) if options.plan else None
    findings = check(config, ROOT / "resources", plan)
    if not any(finding.kind == MISSING for finding in findings):
        Plan(config, ROOT)  # what only a whole plan shows to be impossible
    print(show(findings))
    return int(any(finding.kind == MISSING for finding in findings))


def _score(options: argparse.Namespace) -> int:
    from xrec_repro.metrics.base import FAILED
    from xrec_repro.metrics.score import format_scores, score_files

    metrics = _checked(options.config)["metrics"]
    result = score_files(options.predictions, options.references, options.metrics, metrics, options.device, options.out)
    failed = {name: cell[FAILED] for name, cell in result.items() if FAILED in cell}
    if len(failed) < len(result):
        print(format_scores(result))
    for name, reason in failed.items():
        print(f"xrec-repro: {name} has no scores: {reason}", file=sys.stderr)
    return int(bool(failed))


def _explain(options: argparse.Namespace) -> None:
    from xrec_repro.device import pick_device
    from xrec_repro.explainer.explain import explain

    run = options.results / options.run
    found = explain(run, options.dataset, options.user, options.item, pick_device(options.device))
    lines = [("item", found.title), ("user profile", found.user_profile), ("item profile", found.item_profile)]
    lines.append(("reference", found.reference))
    lines += [(f"explanation ({name}; {origin})", text) for name, (text, origin) in found.texts.items()]
    if found.reasons is not None:
        lines += [
            ("true reasons", ", ".join(found.reasons)),
            ("of them named by the reference", ", ".join(found.named or [])),
        ]
    for name, text in lines:
        print(f"{name}: {text if text is not None else '-'}")


def _audit(options: argparse.Namespace) -> None:
    from xrec_repro.audit.report import audit_json, audit_markdown, audit_text, run_audit
    from xrec_repro.io import write_json, write_text

    if options.data is not None and not options.data.is_dir():
        raise DataError(f"{options.data}: no such folder; give the one with amazon/ and yelp/ in it, or no --data")
    findings = run_audit(options.resources, options.data or ROOT / _RELEASED)
    if options.json:
        write_json(options.json, audit_json(findings))
    if options.write:
        write_text(options.write, audit_markdown(findings))
    print(audit_text(findings))


if __name__ == "__main__":
    sys.exit(main())
