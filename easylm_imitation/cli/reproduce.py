"""`reproduce`: the whole flow on an embedded synthetic world, from pre-training a base and a teacher to the verdict."""
import argparse
import os
from typing import Any

from easylm_imitation.cli.flags import add_config
from easylm_imitation.schema import UserError, plain

HELP = "the whole flow in miniature: pre-train, serve a teacher, imitate it, measure, report; needs no data"
EXAMPLE = "easylm-imitation reproduce --quick"
INTERRUPTED = "finished stages are kept, the same command continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--quick` or `--config`, and where to work."""
    parser.add_argument("--quick", action="store_true", help="the built-in sizes: minutes on two cores")
    add_config(parser)
    parser.add_argument("--workdir", metavar="DIR", default="runs/reproduce",
                        help="where everything is written (default runs/reproduce); the same command continues there")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs or continues the study; the last lines are its table and the path of its page."""
    if args.quick == bool(args.config):
        raise UserError("reproduce: give --quick for the built-in sizes, or --config FILE for others, and not both")
    _eight_devices()
    from easylm_imitation.config import load
    from easylm_imitation.world import ReproduceConfig
    from easylm_imitation.world.reproduce import reproduce, show_reproduced

    made = reproduce(load(ReproduceConfig, args.config, args.overrides), args.workdir)
    show_reproduced(made)
    cost = {"wall_seconds": made.wall_seconds, "cpu_seconds": made.cpu_seconds, "stages": made.stages}
    return {"page": made.page, **cost, **plain(made.verdict)}


def _eight_devices() -> None:
    """On a CPU the finetuning is sharded over eight virtual devices; accelerators are used as they are.

    Must come before jax is imported, which reads the flag once.
    """
    flag = "--xla_force_host_platform_device_count"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=8".strip()
