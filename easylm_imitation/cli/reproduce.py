"""`reproduce`: the paper's findings on an embedded synthetic world, from pre-training to the page."""
import argparse
import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

from easylm_imitation.cli.flags import add_config
from easylm_imitation.schema import Incomplete, UserError, plain

HELP = "the paper's findings in miniature: pre-train, serve a teacher, imitate it, measure, report; needs no data"
EXAMPLE = "easylm-imitation reproduce --quick"
INTERRUPTED = "finished stages are kept, the same command continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of the runs, and where to work."""
    parser.add_argument("--quick", action="store_true", help="one base, one imitation: minutes on two cores")
    parser.add_argument("--full", action="store_true", help="the whole grid with five seeds, and the ablations: hours")
    add_config(parser)
    parser.add_argument("--workdir", metavar="DIR", default="runs/reproduce",
                        help="where everything is written (default runs/reproduce); the same command continues there")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs or continues; the last lines are the table and the path of the page. Without a flag: the standard run."""
    if args.quick + args.full + bool(args.config) > 1:
        raise UserError("reproduce: give one of --quick, --full and --config FILE, or none for the standard run")
    _eight_devices()
    from easylm_imitation.config import load_either
    from easylm_imitation.world import FindingsConfig, ReproduceConfig, full, standard

    start = None if args.quick or args.config else plain(full() if args.full else standard())
    kinds = {"grid": FindingsConfig, "": ReproduceConfig}
    config = load_either(kinds, args.config, args.overrides, start)
    return _findings(config, args.workdir) if isinstance(config, FindingsConfig) else _quick(config, args.workdir)


def _quick(config: Any, workdir: str) -> dict[str, Any]:
    from easylm_imitation.world.reproduce import reproduce, show_reproduced
    made = reproduce(config, workdir)
    show_reproduced(made)
    cost = {"wall_seconds": made.wall_seconds, "cpu_seconds": made.cpu_seconds, "stages": made.stages}
    return {"page": made.page, **cost, **plain(made.verdict)}


def _findings(config: Any, workdir: str) -> dict[str, Any]:
    from easylm_imitation.world.findings import find, show_found
    found = find(config, workdir, runner=_in_process)
    show_found(found)
    result = plain(found)
    if found.failed:
        raise Incomplete(f"{len(found.failed)} stages failed: {', '.join(found.failed)}; the same command tries them "
                         "again", result)
    return result


def _in_process(command: Sequence[str]) -> tuple[int, str]:
    """A stage of the study in this process, which keeps what is compiled; its exit status and its last line."""
    from easylm_imitation.cli.main import main
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main([*command[3:], "--quiet"])      # after python -m easylm_imitation
    if status == 130:
        raise KeyboardInterrupt
    return status, (said.getvalue().rstrip().splitlines() or [""])[-1]


def _eight_devices() -> None:
    """On a CPU the finetuning is sharded over eight virtual devices; accelerators are used as they are.

    Must come before jax is imported, which reads the flag once.
    """
    flag = "--xla_force_host_platform_device_count"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=8".strip()
