"""`report`: a folder of results becomes a verdict (verdict.json, report.html) and a table on the screen."""
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
    add_out(parser, "folder for verdict.json and report.html; files there of these names are replaced")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the verdict and shows it; returns it with the paths written."""
    from easylm_imitation import console
    from easylm_imitation.report import build_report, show
    from easylm_imitation.schema import plain

    verdict = build_report(args.results, args.out)
    show(verdict)
    page = str(pathlib.Path(args.out, "report.html"))
    console.say(f"page: {page}")
    return {"page": page, **plain(verdict)}
