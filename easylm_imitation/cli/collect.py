"""`collect`: a recipe and a teacher in, conversations out. The library does the work (teacher/)."""
import argparse
import contextlib
from typing import Any

from easylm_imitation.cli import flags
from easylm_imitation.config import load_one_of
from easylm_imitation.schema import Incomplete, plain

HELP = "ask a stronger model and keep its answers as conversations"
EXAMPLE = ("easylm-imitation collect --config configs/collect/answers.py --teacher http://HOST/v1 "
           "--prompts prompts.jsonl --out answers.jsonl")
INTERRUPTED = "what was answered is kept, the same command continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    flags.add_config(parser)
    parser.add_argument("--teacher", metavar="URL|X", required=True,
                        help="an OpenAI-compatible endpoint; or a run dir or Hugging Face dir, served meanwhile; A,B "
                             "for a recipe with two teachers, the cheaper one first")
    parser.add_argument("--prompts", metavar="FILE",
                        help='what the recipe starts from; for answers JSONL, a line like {"id": "p0", '
                             '"prompt": "..."} or {"id": "p0", "messages": [...]}')
    flags.add_out(parser, "the conversations file; its ledger is kept beside it, and the same command continues")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Collects; returns the counts. Raises UserError, and Incomplete when rows are missing at the end."""
    from easylm_imitation.serve import own_server, served
    from easylm_imitation.teacher.recipes import RECIPES, collect_from, make_recipe
    from easylm_imitation.teacher.runner import what_is_missing
    config = load_one_of(RECIPES, "recipe", args.config, args.overrides)
    make_recipe(config, args.prompts)       # a bad file is named before a model is served
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(served(teacher, own_server(slots=config.concurrency), chat=config.api == "chat",
                                           flag="--teacher")).url for teacher in args.teacher.split(",")]
        result = collect_from(config, urls, args.prompts, args.out)
    if result.missing:
        raise Incomplete(f"{args.out}: {what_is_missing(result)}", plain(result))
    return plain(result)
