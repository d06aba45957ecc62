"""`report`: a folder of results becomes a verdict (verdict.json, verdict.md, report.html) and a table on the screen."""
import argparse
import pathlib
from typing import Any

from easylm_imitation.cli.flags import add_out

HELP = "a folder of results into a verdict: gap closed with intervals, style against substance, an HTML page"
EXAMPLE = "easylm-imitation report results/ --out verdict/"
INTERRUPTED = "the same command starts anew"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder of results, and `--out`."""
    parser.add_argument("results", metavar="RESULTS", help="folder of files that `evaluate --out` wrote")
    parser.add_argument("--data", metavar="DIR,DIR", default="",
                        help="datasets that the imitations were trained on (what `build` wrote): contamination")
    parser.add_argument("--inside", metavar="NAME=TASK,TASK", action="append", default=[],
                        help="tasks that ask for what a dataset, run or data card teaches; they do not count as "
                             "substance for it (patterns such as nq_open*; may be repeated)")
    add_out(parser, "folder for verdict.json, verdict.md and report.html; files there of these names are replaced")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the verdict and shows it; returns it with the paths written."""
    from easylm_imitation import console
    from easylm_imitation.report import build_report, show
    from easylm_imitation.schema import plain

    verdict = build_report(args.results, args.out, data=[d for d in args.data.split(",") if d],
                           inside=args.inside)
    show(verdict)
    page = str(pathlib.Path(args.out, "report.html"))
    console.say(f"page: {page}")
    return {"page": page, **plain(verdict)}
