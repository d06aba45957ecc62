"""`evaluate`: tasks and suites through the harness, answers to prompts, style against a teacher's; all of one model."""
import argparse
import dataclasses
import pathlib
from typing import Any

from easylm_imitation import console
from easylm_imitation.cli import flags
from easylm_imitation.config import load
from easylm_imitation.files import write_json, write_jsonl
from easylm_imitation.records import Results, read_prompts
from easylm_imitation.schema import UserError

HELP = "measure a model: tasks and suites, answers to prompts, style against a teacher's answers"
EXAMPLE = """easylm-imitation evaluate --suite paper --task-data DATA --list
  easylm-imitation evaluate --model RUN --suite paper --task-data DATA --out results/run.json
  easylm-imitation evaluate --model RUN --tasks nq_open,gsm8k_cot --task-data DATA --prompt both --out results/run.json
  easylm-imitation evaluate --model RUN --prompts prompts.jsonl --answers-out answers.jsonl
  easylm-imitation evaluate --model http://HOST/v1 --prompts prompts.jsonl --answers-out teacher.jsonl
  easylm-imitation evaluate --answers answers.jsonl --reference teacher.jsonl --out results/style.json
  easylm-imitation evaluate --published chatgpt --out results/chatgpt.json"""
INTERRUPTED = "answers to tasks and --prompts are kept, and the same command continues them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    flags.add_model(parser, "an address, a run dir or a Hugging Face dir; not needed for --answers", required=False)
    parser.add_argument("--suite", metavar="NAME", default="",
                        help="a published set of tasks: paper, tulu, orca; or of prompts: koala, vicuna, self-instruct")
    parser.add_argument("--tasks", metavar="A,B", default="",
                        help="names as --list shows them, NAME_PART, NAME@published, or paths of .yaml task files")
    parser.add_argument("--task-data", metavar="DIR", help="folder of the published files of the named tasks")
    parser.add_argument("--list", action="store_true", help="show the tasks and what is there of their data")
    parser.add_argument("--prompt", choices=("raw", "chat", "both"),
                        help="how tasks and --prompts are put: as plain text or in the model's chat template (default "
                        "for tasks: both for a finetuned model, raw for a base model, chat for an API that is chat "
                        "only; for --prompts: chat)")
    parser.add_argument("--form", choices=("auto", "choices", "generation"), default="auto",
                        help="multiple choice by log-likelihoods, or asked for in words (auto: in words where the "
                        "server has no log-likelihoods)")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N items of each task: a sample")
    parser.add_argument("--cache", metavar="DIR", help="keeps what the model said to tasks; nothing in it is asked "
                        "again (default: 'cache' beside --out; none keeps nothing)")
    parser.add_argument("--quantize", choices=("none", "int8", "int4"), default="none",
                        help="weights of a folder in fewer bits, as in `serve`")
    parser.add_argument("--in-process", action="store_true", help="tasks are asked of a folder's model by calls in "
                        "this process, without HTTP; the results are the same")
    parser.add_argument("--prompts", metavar="FILE", help="prompts to answer (JSONL)")
    parser.add_argument("--answers-out", metavar="PATH", help="where the answers go; the same command continues")
    parser.add_argument("--answers", metavar="FILE", help="recorded answers, instead of --model and --prompts")
    parser.add_argument("--reference", metavar="FILE", help="the teacher's answers to the same prompts: measures style")
    parser.add_argument("--published", metavar="FILE", help="scores that others published, as results: a YAML file, or "
                        "one of chatgpt, gpt4")
    parser.add_argument("--role", choices=("base", "imitation", "teacher"), default="",
                        help="the model's part in the report; else it follows from the lineage")
    parser.add_argument("--out", metavar="PATH", help="the results file (JSON), for --tasks and --reference")
    flags.add_config(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures what the flags ask for; returns the scores. Raises UserError."""
    if args.list:
        return _list(args)
    _check(args)
    flags.check_out_file(args.out)
    from easylm_imitation.evaluate import EvaluateConfig, published_results
    config = load(EvaluateConfig, args.config, args.overrides)
    if args.published:
        return _written(args, published_results(args.published, args.command), None)
    tasks, missing = _read_inputs(args, config)
    if args.model:
        from easylm_imitation.serve import own_server, served
        size = own_server(max(config.concurrency, config.answers.concurrency), args.quantize, config.context)
        chat = args.prompt in ("chat", "both") or (args.prompts and (args.prompt or config.answers.prompt) == "chat")
        with served(args.model, size, chat=bool(chat), http=not args.in_process,
                    flag="--model") as model:
            results, answered = _measure(args, config.patient(model.request_seconds), model, tasks)
        if results is not None and model.weight_bytes:
            results = dataclasses.replace(results, meta=results.meta | {"weight_bytes": model.weight_bytes})
    else:
        results, answered = _style(args, args.answers), None
    if results is None:
        return {"answers": answered, "answers_out": args.answers_out}
    if missing:
        results = dataclasses.replace(results, meta=results.meta | {
            "missing": missing | results.meta.get("missing", {})})
    return _written(args, results, args.answers_out)


def _list(args: argparse.Namespace) -> dict[str, Any]:
    """A table of the bundled tasks, or of a suite's, and of what is there of their data."""
    from easylm_imitation.evaluate import SUITES, listed
    from easylm_imitation.schema import nearest
    if args.suite and args.suite not in SUITES:
        raise UserError(f"--suite {args.suite}: no such suite{nearest(args.suite, SUITES)}")
    rows = listed(args.task_data, args.suite)
    console.table(args.suite or "tasks", ["task", "what", "items", "data"], [row[:4] for row in rows])
    for task, _, _, data, cure in rows:
        if cure:
            console.say(f"{task}: {data}; {cure}")
    for name, suite in SUITES.items():
        if not args.suite or name == args.suite:
            console.say(f"--suite {name}: {suite.what}: {', '.join((*suite.tasks, *suite.prompts))}")
    return {"tasks": [dict(zip(("task", "what", "items", "data", "cure"), row)) for row in rows]}


def _written(args: argparse.Namespace, results: Results, answers_out: str | None) -> dict[str, Any]:
    write_json(args.out, results)
    columns = ["task", "prompt", "form", "shots", "metric", "score", "items", "data"]
    rows = [[t.task, t.prompt, t.form, t.shots, t.metric, t.score, len(t.items), t.data] for t in results.tasks]
    size = results.meta.get("weight_bytes")
    named = results.model.name + (f", {size / 1e6:,.0f} MB of weights" if size else "")
    console.table(f"{named} → {args.out}", columns, rows)
    for task, why in results.meta.get("missing", {}).items():
        console.say(f"{task}: not measured; {why}")
    scores = [{"task": t.task, "prompt": t.prompt, "metric": t.metric, "score": t.score, "items": len(t.items),
               "data": t.data} for t in results.tasks]
    return {"out": args.out, "model": results.model.name, "answers_out": answers_out, "tasks": scores}


def _check(args: argparse.Namespace) -> None:
    """UserError when the flags do not add up, before anything slow."""
    asked, given = args.tasks or args.suite, args.answers or args.published
    kind = "answers" if args.answers else "published"
    needs = [
        (asked or args.prompts or given, "nothing to do: give --suite, --tasks, --prompts, --answers or --published"),
        (not given or not (args.model or asked or args.prompts),
         f"--{kind} are recorded already: leave out --model, --suite, --tasks "
         "and --prompts"),
        (not (args.answers and args.published), "--answers and --published are two things; name one"),
        (given or args.model,
         "--suite, --tasks and --prompts need --model, an address, run dir or Hugging Face dir"),
        (bool(args.prompts) == bool(args.answers_out) or args.suite, "--prompts and --answers-out go together"),
        (not (args.suite and args.prompts), "--suite has prompts of its own; leave out --prompts"),
        (not args.answers or args.reference, "--answers need --reference, the teacher's answers to the same prompts"),
        (not args.reference or args.answers or args.answers_out, "--reference needs answers: --answers, or --prompts"),
        (args.out or not (args.tasks or args.reference or args.published),
         "--tasks, --reference and --published need --out, the results file"),
        (not args.answers_out or args.prompt != "both",
         "--prompts are put one way: --prompt raw or chat; measure --tasks both ways in a command of their own"),
        (args.quantize == "none" or (args.model and "://" not in args.model),
         "--quantize is for a model in a folder; a server is told so itself (serve --quantize)"),
        (not args.in_process or (asked and args.model and "://" not in args.model and not args.answers_out),
         "--in-process is for the tasks of a model in a folder; a server and --prompts are asked over HTTP"),
        (asked or args.limit is None, "--limit is for --tasks; a shorter --prompts file asks less"),
        (asked or args.task_data is None, "--task-data is for --tasks and --suite, the named ones"),
        (asked or (args.cache is None and args.form == "auto"), "--cache and --form are for --tasks"),
        (not given or args.prompt is None, f"--{kind} were asked for already: leave out --prompt"),
        (not given or not (args.config or args.overrides), f"--{kind} are recorded already: leave out --config"),
    ]
    for fine, message in needs:
        if not fine:
            raise UserError(message)


def _read_inputs(args: argparse.Namespace, config: Any) -> tuple[list[Any], dict[str, str]]:
    """The tasks, and those of a suite that cannot be run. UserError for an unknown task or a bad input file, before a
    model is loaded or asked. The prompts of a suite are written beside --answers-out."""
    from easylm_imitation.evaluate import able, find_suite, find_tasks, planned, read_answers
    if args.prompts:
        read_prompts(args.prompts)
    if args.reference:
        read_answers(args.reference)
    tasks, missing = [], {}
    if args.suite:
        suite = able(find_suite(args.suite, args.task_data), config)
        tasks, missing = suite.tasks, suite.missing
        _take_prompts(args, suite)
    tasks = tasks + (find_tasks(args.tasks.split(","), args.task_data) if args.tasks else [])
    for name, why in missing.items():
        console.say(f"{name}: MISSING, left out; {why}")
    if tasks and not args.out:
        raise UserError(f"--suite {args.suite} holds tasks: --out, the results file, is needed")
    if tasks:
        planned(tasks, args.prompt or "auto", args.limit)
    return tasks, missing


def _take_prompts(args: argparse.Namespace, suite: Any) -> None:
    """Has the prompts of a suite answered where --answers-out says."""
    from easylm_imitation.evaluate import prompt_set
    for name in suite.prompts:
        if not args.answers_out:
            if not suite.tasks:
                raise UserError(f"--suite {suite.name} is a set of prompts: --answers-out says where the answers go")
            console.say(f"{name}: prompts to be answered; --answers-out says where, and they were not asked")
            continue
        prompts, data = prompt_set(name, args.task_data)
        console.say(f"{name}: {len(prompts)} prompts, data {data}")
        args.prompts = f"{args.answers_out}.prompts.jsonl"
        write_jsonl(args.prompts, prompts[:args.limit])


def _measure(args: argparse.Namespace, config: Any, model: Any,
             tasks: list[Any]) -> tuple[Results | None, int | None]:
    """Tasks, answers and style of a model that answers; None for what was not asked."""
    from easylm_imitation.evaluate import answer_prompts, evaluate_tasks
    results, answers = None, None
    if tasks:
        beside = str(pathlib.Path(args.out).parent / "cache")
        results = evaluate_tasks(model.local or model.url, tasks, prompt=args.prompt or "auto", form=args.form,
                                 limit=args.limit, config=config, encode=model.encode, role=args.role,
                                 command=args.command,
                                 cache=None if args.cache == "none" else args.cache or beside)
    if args.prompts:
        asked = dataclasses.replace(config.answers, prompt=args.prompt or config.answers.prompt)
        answers = answer_prompts(model.url, args.prompts, args.answers_out, config=asked)
    if args.reference:
        style = _style(args, args.answers_out)
        results = dataclasses.replace(results, tasks=results.tasks + style.tasks) if results else style
    return results, answers and len(answers)


def _style(args: argparse.Namespace, path: str) -> Results:
    """The style of the answers in the file `path` against those in --reference."""
    from easylm_imitation.evaluate import read_answers, style_results
    return style_results(path, read_answers(args.reference), role=args.role, command=args.command)
