"""`runs`: the runs below a folder, with state, step and loss, told from their files."""
import argparse
from typing import Any

HELP = "list the runs below a folder: state, step, loss and its curve"
EXAMPLE = "easylm-imitation runs runs/"
INTERRUPTED = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folders."""
    parser.add_argument("folders", metavar="DIR", nargs="*", default=["."],
                        help="folders of runs, however deep, or runs (default: the current folder)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Shows the runs; returns them."""
    from easylm_imitation import console
    from easylm_imitation.schema import plain
    from easylm_imitation.train.runs import RunSummary, age, find_runs, sparkline

    def row(run: RunSummary) -> list[object]:
        of = "" if run.total_steps is None else f"/{run.total_steps}"
        at = run.logged if run.state == "training" and run.logged is not None else run.step
        return [run.path, run.state, f"{'-' if at is None else at}{of}", "-" if run.loss is None else f"{run.loss:.4f}",
                sparkline(run.losses), age(run.saved)]

    runs = find_runs(args.folders)
    if runs:
        console.table(f"{len(runs)} runs", ["run", "state", "step", "loss", "curve", "saved"], [row(r) for r in runs])
    else:
        console.say(f"no runs in {', '.join(args.folders)}")
    for found in runs:
        if found.problem:
            console.say(f"{found.path}: {found.problem}")
    told = [{key: value for key, value in plain(found).items() if key != "losses"} for found in runs]
    return {"runs": [{**one, "curve": sparkline(found.losses)} for one, found in zip(told, runs, strict=True)]}
