"""The pipeline from Python: what the verbs do, as functions.

    from easylm_imitation import api

    api.collect("http://HOST/v1", "prompts.jsonl", "answers.jsonl")
    api.build(api.BuildConfig("answers", (api.SourceConfig("answers.jsonl"),), tokenizer="BASE"), "DATA")
    api.train(api.TrainConfig(epochs=2.0), data_dir="DATA", workdir="RUN", init="BASE")
    api.measure("RUN", "results/run.json", tasks=["mine.yaml"])
    print(api.report("results", "verdict").headline)

A *model* is an address with OpenAI's routes, or a folder: a run dir or a Hugging Face dir, which is served on loopback
while it is asked. All functions raise `UserError`, one sentence that says what to mend, and continue their own
unfinished work when they are called again.
"""
import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, ParamSpec, TypeVar

from easylm_imitation.client import Loops
from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig
from easylm_imitation.data import build_dataset as build
from easylm_imitation.evaluate import (
    AnswerConfig,
    EvaluateConfig,
    answer_prompts,
    evaluate_tasks,
    find_tasks,
    planned,
    read_answers,
    style_results,
)
from easylm_imitation.files import write_json
from easylm_imitation.records import Answer, Results, read_prompts
from easylm_imitation.report import Verdict
from easylm_imitation.report import build_report as report
from easylm_imitation.schema import UserError
from easylm_imitation.serve import ServeConfig, own_server, served
from easylm_imitation.teacher import CollectConfig, CollectResult, collect_answers
from easylm_imitation.train import OptimizerConfig, TrainConfig, TrainResult, train
from easylm_imitation.weights import export_hf, open_model

__all__ = ["AnswerConfig", "BuildConfig", "CollectConfig", "CollectResult", "EvaluateConfig", "LoaderConfig",
           "OptimizerConfig", "Results", "ServeConfig", "SourceConfig", "TrainConfig", "TrainResult", "UserError",
           "Verdict", "answer", "build", "collect", "export", "measure", "report", "serve", "train"]

Path = str | os.PathLike[str]
P, T = ParamSpec("P"), TypeVar("T")
_SERVE, _ASK, _EVALUATE = own_server(), CollectConfig(), EvaluateConfig()
_COMMAND = "easylm_imitation.measure"


def _in_notebooks_too(function: Callable[P, T]) -> Callable[P, T]:
    """A notebook's thread runs an event loop, in which no other may: there the work is done in a thread of its own. An
    interrupt ends that work as Ctrl-C ends a script's: what was asked is waited for and kept, unless a second comes."""
    @functools.wraps(function)
    def done(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return function(*args, **kwargs)
        return _elsewhere(functools.partial(function, *args, **kwargs))
    return done


def _elsewhere(call: Callable[[], T]) -> T:
    """What `call` returns in a thread of its own. Raises KeyboardInterrupt when that came, once the thread is done."""
    loops, interrupted = Loops(), False
    with concurrent.futures.ThreadPoolExecutor(1) as one:
        work = one.submit(loops.holding, call)
        while not work.done():
            try:
                concurrent.futures.wait([work], timeout=0.2)   # an interrupt just before a wait does not end it
            except KeyboardInterrupt:
                interrupted = True
                loops.stop()
    if interrupted:
        raise KeyboardInterrupt
    return work.result()


@contextlib.contextmanager
def serve(model: Path, config: ServeConfig = _SERVE) -> Iterator[str]:
    """The address at which `model` answers while the block runs; one that is an address already is given back."""
    with served(model, config) as found:
        yield found.url


@_in_notebooks_too
def collect(teacher: Path, prompts: Path, out: Path, config: CollectConfig = _ASK) -> CollectResult:
    """Has `teacher` answer each line of the file `prompts`; conversations go to `out`, with a ledger beside it."""
    with served(teacher, own_server(slots=config.concurrency), chat=config.api == "chat") as found:
        return collect_answers(config, found.url, prompts, out)


@_in_notebooks_too
def answer(model: Path, prompts: Path, out: Path, config: AnswerConfig = _EVALUATE.answers) -> Path:
    """A model's answers to the file `prompts`, in `out`, which is given back: a `reference` for `measure`."""
    read_prompts(prompts)       # a bad file is named before a model is served
    with served(model, own_server(slots=config.concurrency), chat=config.prompt == "chat") as found:
        answer_prompts(found.url, prompts, out, config=config.patient(found.request_seconds))
    return out


@_in_notebooks_too
def measure(model: Path, out: Path, *, tasks: Sequence[str] = (), task_data: str | None = None,
            prompt: Literal["auto", "raw", "chat", "both"] = "auto", limit: int | None = None,
            prompts: Path | None = None, reference: Path | None = None,
            role: Literal["", "base", "imitation", "teacher"] = "", config: EvaluateConfig = _EVALUATE) -> Results:
    """Asks `model` the harness's `tasks` (names or YAML files), and writes its scores, item by item, to `out`.

    `prompt`, `limit` and `task_data` are of tasks: "auto" puts them both ways to a finetuned model, as raw text to a
    base. With `prompts` and `reference` (a teacher's answers to them) it answers those too, in `answers/` beside `out`,
    and its style is measured against the teacher's; `config.answers.prompt` alone says how these are put: "chat", which
    needs a model with a chat template, or "raw".
    """
    _check(tasks, task_data, prompt, limit, prompts, reference)
    found, out, results = find_tasks(tasks, task_data), pathlib.Path(out), None
    if found:
        planned(found, prompt, limit)
    theirs = _read(prompts, reference)
    chat = prompt in ("chat", "both") or (theirs is not None and config.answers.prompt == "chat")
    size = own_server(slots=max(config.concurrency, config.answers.concurrency), context=config.context)
    with served(model, size, chat=chat) as asked:
        config = config.patient(asked.request_seconds)
        if found:
            results = evaluate_tasks(asked.url, found, prompt=prompt, limit=limit, config=config, encode=asked.encode,
                                     role=role, command=_COMMAND, cache=str(out.parent / "cache"))
        if theirs:
            own = out.parent / "answers" / f"{out.stem}.jsonl"      # `report` reads what lies beside results
            answer_prompts(asked.url, prompts, own, config=config.answers)
            style = style_results(own, theirs, role=role, command=_COMMAND)
            results = dataclasses.replace(results, tasks=results.tasks + style.tasks) if results else style
    write_json(out, results)
    return results


def export(run: Path, out: Path) -> Path:
    """A run's weights, tokenizer and chat template as a Hugging Face dir, which is given back."""
    made = open_model(run)
    export_hf(out, made.config, made.params, made.tokenizer, made.template, made.lineage)
    return out


def _check(tasks: Sequence[str], task_data: str | None, prompt: str, limit: int | None, prompts: Path | None,
           reference: Path | None) -> None:
    """UserError when what `measure` was given does not add up, before anything slow."""
    of_tasks = {"task_data": task_data is not None, "prompt": prompt != "auto", "limit": limit is not None}
    ignored = [] if tasks else [name for name, given in of_tasks.items() if given]
    needs = [
        (bool(prompts) == bool(reference),
         "prompts and reference go together; style is measured against a teacher's answers"),
        (tasks or prompts, "nothing to do; name tasks, or prompts and a reference"),
        (not ignored, f"{' and '.join(ignored)}: only for tasks, and none are named; how prompts are put is said by "
                      "config.answers.prompt, and a shorter file of them asks less"),
    ]
    for fine, message in needs:
        if not fine:
            raise UserError(f"measure: {message}")


def _read(prompts: Path | None, reference: Path | None) -> list[Answer] | None:
    """The teacher's answers. UserError for a bad file of these or of prompts, before a model is served."""
    if not prompts or not reference:
        return None
    read_prompts(prompts)
    return read_answers(reference)
