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

from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig
from easylm_imitation.data import build_dataset as build
from easylm_imitation.evaluate import (
    AnswerConfig,
    EvaluateConfig,
    answer_prompts,
    answers_meta,
    evaluate_tasks,
    read_answers,
    results_now,
    style_task,
)
from easylm_imitation.records import Results, write_json
from easylm_imitation.report import Verdict
from easylm_imitation.report import build_report as report
from easylm_imitation.schema import UserError
from easylm_imitation.serve import ServeConfig, open_server
from easylm_imitation.teacher import CollectConfig, CollectResult, collect_answers
from easylm_imitation.train import OptimizerConfig, TrainConfig, TrainResult, train
from easylm_imitation.weights import export_hf, is_model_path, open_model

__all__ = ["AnswerConfig", "BuildConfig", "CollectConfig", "CollectResult", "EvaluateConfig", "LoaderConfig",
           "OptimizerConfig", "Results", "ServeConfig", "SourceConfig", "TrainConfig", "TrainResult", "UserError",
           "Verdict", "answer", "build", "collect", "export", "measure", "report", "serve", "train"]

Path = str | os.PathLike[str]
P, T = ParamSpec("P"), TypeVar("T")
_SERVE, _ASK, _EVALUATE = ServeConfig(slots=8, api_key_env=""), CollectConfig(), EvaluateConfig()


def _in_notebooks_too(function: Callable[P, T]) -> Callable[P, T]:
    """A notebook's thread runs an event loop, in which no other may: there the work is done in a thread of its own."""
    @functools.wraps(function)
    def done(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return function(*args, **kwargs)
        with concurrent.futures.ThreadPoolExecutor(1) as one:
            return one.submit(function, *args, **kwargs).result()
    return done


@contextlib.contextmanager
def serve(model: Path, config: ServeConfig = _SERVE) -> Iterator[str]:
    """The address at which `model` answers while the block runs; one that is an address already is given back."""
    if "://" in str(model):
        yield str(model)
        return
    if not is_model_path(model):
        raise UserError(f"{model}: neither an address (http://HOST:PORT) nor a folder that holds a model")
    with open_server(open_model(model), config) as server:
        yield server.url


@_in_notebooks_too
def collect(teacher: Path, prompts: Path, out: Path, config: CollectConfig = _ASK) -> CollectResult:
    """Has `teacher` answer each line of the file `prompts`; conversations go to `out`, with a ledger beside it."""
    with serve(teacher, dataclasses.replace(_SERVE, slots=config.concurrency)) as url:
        return collect_answers(config, url, prompts, out)


@_in_notebooks_too
def answer(model: Path, prompts: Path, out: Path, config: AnswerConfig = _EVALUATE.answers) -> Path:
    """A model's answers to the file `prompts`, in `out`, which is given back: a `reference` for `measure`."""
    with serve(model, dataclasses.replace(_SERVE, slots=config.concurrency)) as url:
        answer_prompts(url, prompts, out, config=config)
    return out


@_in_notebooks_too
def measure(model: Path, out: Path, *, tasks: Sequence[str] = (), task_data: str | None = None,
            prompt: Literal["auto", "raw", "chat", "both"] = "auto", limit: int | None = None,
            prompts: Path | None = None, reference: Path | None = None,
            role: Literal["", "base", "imitation", "teacher"] = "", config: EvaluateConfig = _EVALUATE) -> Results:
    """Asks `model` the harness's `tasks` (names or YAML files), and writes its scores, item by item, to `out`.

    With `prompts` and `reference` (a teacher's answers to them) it answers those too, in `answers/` beside `out`, and
    its style is measured against the teacher's. `prompt` "auto": both forms of a finetuned model, raw text for a base.
    """
    if bool(prompts) != bool(reference):
        raise UserError("measure: prompts and reference go together; style is measured against a teacher's answers")
    if not tasks and not prompts:
        raise UserError("measure: nothing to do; name tasks, or prompts and a reference")
    out, results = pathlib.Path(out), None
    with serve(model, dataclasses.replace(_SERVE, slots=max(config.concurrency, config.answers.concurrency))) as url:
        if tasks:
            results = evaluate_tasks(url, tasks, prompt=prompt, task_data=task_data, limit=limit, config=config,
                                     role=role, command="easylm_imitation.measure", cache=str(out.parent / "cache"))
        if prompts and reference:
            own = out.parent / "answers" / f"{out.stem}.jsonl"      # `report` reads what lies beside results
            answer_prompts(url, prompts, own, config=config.answers)
            results = _with_style(results, own, reference, role)
    write_json(out, results)
    return results


def export(run: Path, out: Path) -> Path:
    """A run's weights, tokenizer and chat template as a Hugging Face dir, which is given back."""
    made = open_model(run)
    export_hf(out, made.config, made.params, made.tokenizer, made.template, made.lineage)
    return out


def _with_style(results: Results | None, own: Path, reference: Path, role: str) -> Results:
    answers, theirs = read_answers(own), read_answers(reference)
    meta = answers_meta(own, answers, theirs[0].model)
    tasks = style_task(answers, theirs, meta.prompt, meta.options)
    if results is None:
        return results_now(meta.lineage, tasks, role=role, command="easylm_imitation.measure")
    return dataclasses.replace(results, tasks=results.tasks + tasks)
