"""`collect`: prompts in, the teacher's answers out as conversations. The library does the work (teacher/answers.py)."""
import argparse
from typing import Any

from easylm_imitation.cli import flags
from easylm_imitation.cli.served import served
from easylm_imitation.config import load
from easylm_imitation.schema import plain

HELP = "ask a stronger model and keep its answers as conversations"
EXAMPLE = ("easylm-imitation collect --config configs/collect/answers.py --teacher http://HOST/v1 "
           "--prompts prompts.jsonl --out answers.jsonl")
INTERRUPTED = "what was answered is kept, the same command continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    flags.add_config(parser)
    parser.add_argument("--teacher", metavar="URL|X", required=True,
                        help="an OpenAI-compatible endpoint; or a run dir or Hugging Face dir, served meanwhile")
    parser.add_argument("--prompts", metavar="FILE", required=True,
                        help='JSONL, a line like {"id": "p0", "prompt": "..."} or {"id": "p0", "messages": [...]}')
    flags.add_out(parser, "the conversations file; its ledger is kept beside it, and the same command continues")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Collects; returns the counts. Raises UserError."""
    from easylm_imitation.teacher import CollectConfig, collect_answers
    config = load(CollectConfig, args.config, args.overrides)
    with served(args.teacher, "--teacher", slots=config.concurrency, chat=True) as teacher:
        return plain(collect_answers(config, teacher.url, args.prompts, args.out))
