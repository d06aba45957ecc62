"""`study`: a grid of imitations, each cell built, trained and measured once, then the report."""
import argparse
from typing import Any

from easylm_imitation.cli import flags
from easylm_imitation.schema import Incomplete

HELP = "a grid of data, budgets, bases and seeds: every cell built, trained, measured once, then the report"
EXAMPLE = """easylm-imitation study --config configs/study/figure4.py --workdir STUDY --dry-run
  easylm-imitation study --config configs/study/figure4.py --workdir STUDY"""
INTERRUPTED = "finished stages are kept, and the same command continues the one under way"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    flags.add_config(parser, required=True)
    parser.add_argument("--workdir", metavar="DIR", required=True,
                        help="where everything is written; the same command continues there")
    parser.add_argument("--dry-run", action="store_true", help="show the stages and their commands, what is done and "
                        "what it will cost; nothing is run or written")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="run stages of these names alone: 'train-*-s0'")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs or shows the study; returns where it stands. Raises Incomplete when stages failed."""
    import shlex

    from easylm_imitation import console
    from easylm_imitation.config import load
    from easylm_imitation.study import StudyConfig, open_study, run_study, shown
    from easylm_imitation.study.run import finished, outcome, summary

    study = open_study(load(StudyConfig, args.config, args.overrides), args.workdir)
    if args.dry_run:
        found = outcome(study, finished(study), {})
        for stage in study.stages:
            console.say(f"{stage.name}: easylm-imitation {shlex.join(stage.command)}")
    else:
        found = run_study(study, only=args.only)
    shown(study, found, study.config.dollars_an_hour)
    result = summary(study, found)
    if found.failed:
        raise Incomplete(f"{len(found.failed)} stages failed: {', '.join(found.failed)}; what does not need them is "
                         "done. The same command tries them again", result)
    if found.states["report"] == "done":
        console.say(f"page: {result['verdict']}")
    return result
