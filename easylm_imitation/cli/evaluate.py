"""`evaluate`: tasks through the harness, answers to prompts, style against a teacher's answers; all of one model."""
import argparse
import dataclasses
from typing import Any

from easylm_imitation import console
from easylm_imitation.cli import flags
from easylm_imitation.cli.served import Served, served
from easylm_imitation.config import load
from easylm_imitation.records import Results, read_prompts, write_json
from easylm_imitation.schema import UserError

HELP = "measure a model: tasks over HTTP, answers to prompts, style against a teacher's answers"
EXAMPLE = """easylm-imitation evaluate --model RUN --tasks nq_open --task-data DATA --prompt both --out results/run.json
  easylm-imitation evaluate --model RUN --prompts prompts.jsonl --answers-out answers.jsonl
  easylm-imitation evaluate --model http://HOST/v1 --prompts prompts.jsonl --answers-out teacher.jsonl
  easylm-imitation evaluate --answers answers.jsonl --reference teacher.jsonl --out results/style.json"""
INTERRUPTED = "answers to --prompts are kept, and the same command continues them; tasks start anew"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    flags.add_model(parser, "an address, a run dir or a Hugging Face dir; not needed for --answers", required=False)
    parser.add_argument("--tasks", metavar="A,B", default="",
                        help="mmlu, mmlu_SUBJECT, nq_open, nq_open_0shot, or paths of .yaml task files")
    parser.add_argument("--task-data", metavar="DIR", help="folder of the published files of the named tasks")
    parser.add_argument("--prompt", choices=("raw", "chat", "both"),
                        help="how tasks and --prompts are put: as plain text (default) or in the model's chat template")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N items of each task: a sample")
    parser.add_argument("--prompts", metavar="FILE", help="prompts to answer (JSONL)")
    parser.add_argument("--answers-out", metavar="PATH", help="where the answers go; the same command continues")
    parser.add_argument("--answers", metavar="FILE", help="recorded answers, instead of --model and --prompts")
    parser.add_argument("--reference", metavar="FILE", help="the teacher's answers to the same prompts: measures style")
    parser.add_argument("--role", choices=("base", "imitation", "teacher"), default="",
                        help="the model's part in the report; else it follows from the lineage")
    parser.add_argument("--out", metavar="PATH", help="the results file (JSON), for --tasks and --reference")
    flags.add_config(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures what the flags ask for; returns the scores. Raises UserError."""
    _check(args)
    args.prompt = args.prompt or "raw"
    flags.check_out_file(args.out)
    from easylm_imitation.evaluate import EvaluateConfig
    config = load(EvaluateConfig, args.config, args.overrides)
    tasks = _read_inputs(args)
    if args.model:
        slots = max(config.concurrency, config.answers.concurrency)
        with served(args.model, "--model", slots=slots, chat=args.prompt != "raw") as model:
            results, answered = _measure(args, config, model, tasks)
    else:
        results, answered = _style(args, args.answers), None
    if results is None:
        return {"answers": answered, "answers_out": args.answers_out}
    write_json(args.out, results)
    _show(results, args.out)
    scores = [{"task": t.task, "prompt": t.prompt, "metric": t.metric, "score": t.score, "items": len(t.items),
               "data": t.data} for t in results.tasks]
    return {"out": args.out, "model": results.model.name, "answers_out": args.answers_out, "tasks": scores}


def _check(args: argparse.Namespace) -> None:
    """UserError when the flags do not add up, before anything slow."""
    needs = [
        (args.tasks or args.prompts or args.answers, "nothing to do: give --tasks, --prompts or --answers"),
        (not args.answers or not (args.model or args.tasks or args.prompts),
         "--answers are recorded already: leave out --model, --tasks and --prompts"),
        (args.answers or args.model, "--tasks and --prompts need --model, an address, run dir or Hugging Face dir"),
        (bool(args.prompts) == bool(args.answers_out), "--prompts and --answers-out go together"),
        (not args.answers or args.reference, "--answers need --reference, the teacher's answers to the same prompts"),
        (not args.reference or args.answers or args.prompts, "--reference needs answers: --answers, or --prompts"),
        (args.out or not (args.tasks or args.reference), "--tasks and --reference need --out, the results file"),
        (not args.prompts or args.prompt != "both",
         "--prompts are put one way: --prompt raw or chat; measure --tasks both ways in a command of their own"),
        (args.tasks or args.limit is None, "--limit is for --tasks; a shorter --prompts file asks less"),
        (args.tasks or args.task_data is None, "--task-data is for --tasks, the named ones"),
        (not args.answers or args.prompt is None, "--answers were asked for already: leave out --prompt"),
        (not args.answers or not (args.config or args.overrides), "--answers are recorded already: leave out --config"),
    ]
    for fine, message in needs:
        if not fine:
            raise UserError(message)


def _read_inputs(args: argparse.Namespace) -> list[Any]:
    """The tasks. UserError for an unknown one or a bad input file, before a model is loaded or asked."""
    from easylm_imitation.evaluate import find_tasks, read_answers
    if args.prompts:
        read_prompts(args.prompts)
    if args.reference:
        read_answers(args.reference)
    return find_tasks(args.tasks.split(","), args.task_data) if args.tasks else []


def _measure(args: argparse.Namespace, config: Any, model: Served,
             tasks: list[Any]) -> tuple[Results | None, int | None]:
    """Tasks, answers and style of a model that answers; None for what was not asked."""
    from easylm_imitation.evaluate import answer_prompts, evaluate_tasks
    results, answers = None, None
    if tasks:
        encode = model.tokenizer and (lambda text: model.tokenizer.encode(text, parse_special=True))
        results = evaluate_tasks(model.url, tasks, prompt=args.prompt, limit=args.limit, config=config, encode=encode,
                                 role=args.role, command=args.command)
    if args.prompts:
        answers = answer_prompts(model.url, args.prompts, args.answers_out,
                                 config=dataclasses.replace(config.answers, prompt=args.prompt))
    if args.reference:
        style = _style(args, args.answers_out)
        results = dataclasses.replace(results, tasks=results.tasks + style.tasks) if results else style
    return results, answers and len(answers)


def _style(args: argparse.Namespace, path: str) -> Results:
    """The style of the answers in the file `path` against those in --reference."""
    from easylm_imitation.evaluate import answers_meta, read_answers, results_now, style_task
    answers, reference = read_answers(path), read_answers(args.reference)
    meta = answers_meta(path, answers, reference[0].model)
    tasks = style_task(answers, reference, meta.prompt, meta.options)
    return results_now(meta.lineage, tasks, role=args.role, command=args.command)


def _show(results: Results, out: str) -> None:
    columns = ["task", "prompt", "shots", "metric", "score", "items", "data"]
    rows = [[t.task, t.prompt, t.shots, t.metric, t.score, len(t.items), t.data] for t in results.tasks]
    console.table(f"{results.model.name} → {out}", columns, rows)
