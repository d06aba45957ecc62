"""`compare`: the answers of two or more models, judged by a language model."""
import argparse
import pathlib
from typing import Any

from easylm_imitation.cli.flags import add_config, add_out, check_out_file
from easylm_imitation.schema import UserError, plain

HELP = "judge models' answers in pairs or one by one: published protocols, both orders, biases, cost"
EXAMPLE = ("easylm-imitation compare --by judge --judge https://api.openai.com/v1 --models run.jsonl --reference "
           "teacher.jsonl --out results/judged.json")
INTERRUPTED = "verdicts are kept in the ledger, the same command continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Who is compared with whom, and by which judge."""
    parser.add_argument("--by", choices=("judge",), required=True, help="judge: a language model")
    parser.add_argument("--models", metavar="A,B", required=True, help="files of answers, one a model")
    parser.add_argument("--reference", metavar="ANSWERS", help="the answers that each model is compared with")
    parser.add_argument("--judge", metavar="URL", required=True, help="the judge's OpenAI-compatible endpoint")
    parser.add_argument("--prompts-from", metavar="DIR", help="your copy of the published judge prompts (FastChat's "
                        "llm_judge/data, alpaca_eval's evaluators_configs); without it our own are used")
    add_config(parser)
    add_out(parser, "results file; of several models one file each, its name before the ending")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Judges each model and shows win rates."""
    check_out_file(args.out)
    from easylm_imitation import console
    from easylm_imitation.config import load
    from easylm_imitation.evaluate.judge import JudgeConfig, judge

    config = load(JudgeConfig, args.config, args.overrides)
    files = [name for name in args.models.split(",") if name]
    if not files:
        raise UserError("--models: name at least one file of answers")
    made = {str(place): judge(args.judge, name, args.reference, place, config=config, prompts_from=args.prompts_from,
                              command=args.command) for name, place in zip(files, _places(args.out, files))}
    rows = [[results.model.name, results.tasks[0].task, len(results.tasks[0].items), results.tasks[0].score,
             results.meta.get("length_controlled_win_rate", "—"), results.meta["unreadable"], results.meta["cost"]]
            for results in made.values()]
    console.table("Judged", ["model", "protocol", "items", "score", "length-controlled %", "unreadable", "$"], rows)
    for place in made:
        console.say(f"results: {place}")
    return {"results": list(made), "meta": [plain(results.meta) for results in made.values()]}


def _places(out: str, files: list[str]) -> list[pathlib.Path]:
    if len(files) == 1:
        return [pathlib.Path(out)]
    names = [pathlib.Path(name).name.partition(".")[0] for name in files]
    if len(set(names)) < len(names):
        raise UserError(f"--models: two files are called '{max(names, key=names.count)}'; their results would be one")
    path = pathlib.Path(out)
    return [path.with_name(f"{path.stem}.{name}{path.suffix}") for name in names]
