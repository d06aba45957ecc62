"""The console command: finds the verb, reads its flags, prints its result; a UserError is one line, exit code 2.

A verb is a module `cli/VERB.py` with `HELP` (one line), `EXAMPLE` (a command that works), `add_arguments(parser)` and
`run(args) -> dict`: the JSON-able result; `INTERRUPTED` says what is there after Ctrl-C, `OWN_SIGNALS` that the verb
answers SIGTERM itself. Heavy imports belong inside `run`, so that `--help` answers at once.
"""
import argparse
import contextlib
import errno
import importlib
import json
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from easylm_imitation import console
from easylm_imitation.config import PREFIX
from easylm_imitation.records import code_version
from easylm_imitation.schema import Incomplete, UserError, nearest

VERBS = ("collect", "build", "logits", "train", "plan", "runs", "serve", "evaluate", "compare", "convert", "report",
         "study", "reproduce")


# What goes wrong with a place that the user named: no right to it, not there, no folder, read-only, full.
_PLACES = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENOSPC}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0 done, 1 our fault, 2 something the user can mend, 3 done but for a part
    (malformed input, rows that no answer came for), 130 interrupted. `serve`, ended before it serves, exits with 128
    and the signal's number."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(code_version())
        return 0
    if argv[0] not in VERBS:
        console.error(f"unknown verb '{argv[0]}'{nearest(argv[0], VERBS)}")
        return 2
    return _run(argv[0], argv[1:])


def parser_for(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb's flags; overrides (`--config.a.b=c`) are left over for `parse`."""
    module = importlib.import_module(f"easylm_imitation.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"easylm-imitation {verb}", description=module.HELP, epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true",
                        help="the last line of stdout is the result, one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables; errors only")
    return parser


def parse(verb: str, argv: Sequence[str]) -> argparse.Namespace:
    """The verb's arguments, with `overrides` and `command` (as typed). Raises UserError for an unknown flag."""
    parser = parser_for(verb)
    args, extra = parser.parse_known_args(argv)
    args.command = shlex.join(["easylm-imitation", verb, *argv])
    args.overrides = [a for a in extra if a.startswith(PREFIX)]
    unknown = [a for a in extra if not a.startswith(PREFIX)]
    if unknown or (args.overrides and not hasattr(args, "config")):
        flags = [s for action in parser._actions for s in action.option_strings]
        bad = (unknown or args.overrides)[0]
        raise UserError(f"{verb}: unknown argument '{bad}'{nearest(bad.partition('=')[0], flags)}")
    return args


def _run(verb: str, argv: list[str]) -> int:
    module = importlib.import_module(f"easylm_imitation.cli.{verb}")
    try:
        args = parse(verb, argv)
        own_signals = getattr(module, "OWN_SIGNALS", False)
        with console.quiet(args.quiet), contextlib.nullcontext() if own_signals else terminable():
            result, status = module.run(args), 0
    except Incomplete as error:
        console.error(str(error))
        result, status = error.result, 3
    except UserError as error:
        console.error(str(error))
        return 2
    except OSError as error:
        if error.errno not in _PLACES:
            return _our_fault(verb)
        console.error(f"{verb}: {error.filename or 'a file'}: {error.strerror}; choose another place, or mend that one")
        return 2
    except KeyboardInterrupt:
        console.error(f"interrupted; {module.INTERRUPTED}")
        return 130
    except Exception:
        return _our_fault(verb)
    if args.json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    return status


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, which schedulers send, unwinds like Ctrl-C, so that half-done work is cleared away or saved."""
    if threading.current_thread() is not threading.main_thread():
        yield       # Python has no signals here
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _our_fault(verb: str) -> int:
    traceback.print_exc()
    console.error(f"{verb} failed; the lines above say where. This is a fault of easylm_imitation, not of yours.")
    return 1


def _overview() -> str:
    lines = ["usage: easylm-imitation VERB [flags]      (easylm-imitation VERB --help says more)", ""]
    for verb in VERBS:
        lines.append(f"  {verb:10} {importlib.import_module(f'easylm_imitation.cli.{verb}').HELP}")
    return "\n".join(lines)
