"""Runs tasks through lm-evaluation-harness, unmodified, over HTTP, and turns what it says into our records.

    raw  + choices      /v1/completions, echo and logprobs       raw  + generation     /v1/completions
    chat + choices      the same, on the rendered template       chat + generation     /v1/chat/completions

The harness's `evaluate` is called with the tasks loaded by its TaskManager: what `simple_evaluate` does, but for the
listing of the machine's packages at its end (11 s a call where torch is installed). Rows are handed over in memory, so
nothing is cached, pickled or fetched. Every number that a result carries comes from the harness.
"""
import contextlib
import datetime
import functools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from easylm_imitation import console
from easylm_imitation.client import ClientConfig
from easylm_imitation.evaluate.config import EvaluateConfig
from easylm_imitation.evaluate.endpoint import Endpoint, look
from easylm_imitation.evaluate.tasks import Task, find_tasks, protocol, refuse_repeated
from easylm_imitation.records import Item, Lineage, Results, TaskResult, code_version
from easylm_imitation.schema import UserError

Prompt = Literal["raw", "chat"]
_DEFAULT = EvaluateConfig()
_FEWSHOT_SEED = 1234        # the harness's default


def evaluate_tasks(url: str, tasks: Sequence[str | Task], *, prompt: Literal["raw", "chat", "both"] = "raw",
                   model: str = "", task_data: str | None = None, limit: int | None = None,
                   config: EvaluateConfig = _DEFAULT, encode: Callable[[str], list[int]] | None = None,
                   role: str = "", command: str = "") -> Results:
    """Measures the model at `url` on `tasks` (as for find_tasks, or found already) under one prompt form or both.

    `limit` takes the first items of each task and marks the result as a sample. `encode` gives ids of a text as the
    server's own tokenizer would, special tokens parsed; it spares the requests for them. Raises UserError for an
    unknown task or missing data before any request, and for a server that is down, refuses or cannot do it all.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: it must be at least 1")
    found = [t for given in tasks for t in ([given] if isinstance(given, Task) else find_tasks([given], task_data))]
    refuse_repeated(found)
    plan = [(form, task) for form in (("raw", "chat") if prompt == "both" else (prompt,))
            for task in found if form in task.prompts]
    if not plan:
        names = ", ".join(t.name for t in found)
        raise UserError(f"none of {names} makes sense with --prompt {prompt}; see `prompts` in their files")
    endpoint = look(ClientConfig(url, model, config.api_key_env, timeout=30.0, attempts=config.attempts))
    for form, task in plan:
        _check(endpoint, task, form, config)
        _announce(task, form, limit)
    made = [_run(endpoint, task, form, limit, config, encode) for form, task in plan]
    return results_now(endpoint.lineage, made, role=role, command=command)


def results_now(model: Lineage, tasks: Sequence[TaskResult], *, role: str = "", command: str = "") -> Results:
    """What was measured of `model`, dated now."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Results(model, tuple(tasks), role, command, date, code_version())


def _check(endpoint: Endpoint, task: Task, form: Prompt, config: EvaluateConfig) -> None:
    """UserError when the server cannot do what the task needs."""
    if task.form == "choices" and endpoint.tokenizer is None:
        raise UserError(f"task '{task.name}' needs log-likelihoods, and {endpoint.base} offers no /tokenizer_info for "
                        "them; such a server can only do tasks that generate")
    if task.form == "choices" and form == "chat" and not endpoint.tokenizer.get("chat_template"):
        raise UserError(f"{endpoint.base} offers no chat template; use --prompt raw, or serve a model that has one")
    if task.form == "generation" and form == "chat" and task.config.get("gen_prefix"):
        raise UserError(f"task '{task.name}' begins the answer itself (gen_prefix), which a chat endpoint cannot "
                        "continue; use --prompt raw")
    context, answer = _context(endpoint, config), _answer_tokens(task, config)
    if task.form == "generation" and answer >= context:
        raise UserError(f"task '{task.name}' asks for answers of {answer} tokens, the server holds {context}; set "
                        "max_gen_toks in the task or --config.max_tokens")


def _context(endpoint: Endpoint, config: EvaluateConfig) -> int:
    """Tokens that the server holds, to the best of our knowledge."""
    return endpoint.model.context or config.context


def _answer_tokens(task: Task, config: EvaluateConfig) -> int:
    given = task.config.get("generation_kwargs") or {}
    return given.get("max_gen_toks", given.get("max_tokens", config.max_tokens))


def _announce(task: Task, form: Prompt, limit: int | None) -> None:
    count = len(task.rows)
    data = "full" if task.complete else f"SAMPLE: {task.note}" if task.note else "SAMPLE"
    if limit is not None and limit < count:
        count, data = limit, f"SAMPLE: the first {limit} of {count}"
    console.say(f"{task.name}, {form}: {count} items, {task.shots}-shot, {task.form}, data {data}")


def _run(endpoint: Endpoint, task: Task, form: Prompt, limit: int | None, config: EvaluateConfig,
         encode: Callable[[str], list[int]] | None) -> TaskResult:
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager
    with _quiet_harness() as log:
        loaded = TaskManager(include_defaults=False).load([_harness_config(task)])
        for made in loaded["tasks"].values():
            made.set_fewshot_seed(_FEWSHOT_SEED)
        with _one_line_errors(endpoint, task, log):
            said = evaluate(language_model(endpoint, task, form, config, encode), loaded, limit=limit,
                            bootstrap_iters=0, apply_chat_template=form == "chat", fewshot_as_multiturn=True)
    if log.truncated:
        console.say(f"{task.name}, {form}: some prompts were longer than the context and lost their beginning "
                    f"({log.truncated} warnings of the harness)")
    return _task_result(task, form, limit, said, config, _context(endpoint, config) if log.truncated else None)


def _harness_config(task: Task) -> dict[str, Any]:
    """The task for the TaskManager, its rows in memory."""
    import datasets

    def rows(**_: Any) -> dict[str, datasets.Dataset]:
        try:
            return {split: datasets.Dataset.from_list(rows) for split, rows in task.splits.items()}
        except Exception as error:      # pyarrow's own types of error, where a column changes its type
            raise UserError(f"task '{task.name}': its rows form no table ({error}); give each key one type") from None
    return {"num_fewshot": 0} | task.config | {"custom_dataset": rows}


def language_model(endpoint: Endpoint, task: Task, form: Prompt, config: EvaluateConfig,
                   encode: Callable[[str], list[int]] | None) -> Any:
    """The harness's model object that asks `endpoint` what `task` needs under prompt form `form` (see lm.py)."""
    from easylm_imitation.evaluate.lm import Chat, Completions
    header = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {"Accept": "application/json"}
    shared = {"model": endpoint.model.id, "header": header, "max_gen_toks": config.max_tokens,
              "max_length": _context(endpoint, config), "max_retries": config.attempts,
              "timeout": round(config.timeout)}
    if form == "chat" and task.form == "generation":
        return Chat(base_url=f"{endpoint.base}/chat/completions", num_concurrent=config.concurrency, **shared)
    remote = endpoint.tokenizer is not None
    return Completions(chat=form == "chat", encode=encode if remote else None, base_url=f"{endpoint.base}/completions",
                       tokenizer_backend="remote" if remote else None, tokenized_requests=remote,
                       auth_token=endpoint.key or None, batch_size=config.batch, **shared)


# ── what the harness says ─────────────────────────────────────────────────────────────────────────────────────────────


def _task_result(task: Task, form: Prompt, limit: int | None, said: dict[str, Any], config: EvaluateConfig,
                 cut_to: int | None) -> TaskResult:
    samples = said["samples"][task.name]
    samples = [s for s in samples if s["filter"] == samples[0]["filter"]]       # the first of the task's filters
    written = _answer_tokens(task, config) if task.form == "generation" else None
    whole = task.complete and (limit is None or limit >= len(task.rows))
    return TaskResult(
        task=task.name, prompt=form, form=task.form, metric=task.metric, shots=task.shots, group=task.group,
        score=float(said["results"][task.name][f"{task.metric},{samples[0]['filter']}"]),
        items=tuple(_item(task, sample) for sample in samples), data="full" if whole else "sample",
        protocol=protocol(task, form, [sample["doc"] for sample in samples], written, cut_to))


def _item(task: Task, sample: dict[str, Any]) -> Item:
    score = sample[task.metric]
    if not isinstance(score, (int, float)):
        raise UserError(f"task '{task.name}': metric '{task.metric}' scores no single item; put one first that does")
    name = str(sample["doc"]["id"] if task.has_ids else sample["doc_id"])
    prediction, target = sample["filtered_resps"][0], sample["target"]
    if task.form == "choices":
        options = [continuation for _, continuation in sample["arguments"]]
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        prediction = options[likelihoods.index(max(likelihoods))].strip() if len(options) > 1 else prediction[1]
        target = options[target].strip() if isinstance(target, int) and len(options) > 1 else target
    targets = target if isinstance(target, (list, tuple)) else [target]
    return Item(name, float(score), str(prediction), " | ".join(map(str, targets)))


class _Log(logging.Handler):
    """What the harness logs: kept instead of shown."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.truncated, self.refusal = 0, ""

    def emit(self, record: logging.LogRecord) -> None:
        """Counts truncated prompts, remembers the server's last refusal."""
        message = record.getMessage()
        self.truncated += "runcat" in message
        if message.startswith("API request failed"):
            self.refusal = _what_the_server_says(message.removesuffix(". Retrying..."))


def _what_the_server_says(logged: str) -> str:
    """The message inside an error body that the harness logged, or the logged line."""
    try:
        return json.loads(logged[logged.index("{"):])["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return logged


@contextlib.contextmanager
def _quiet_harness() -> Iterator[_Log]:
    """The harness's log and its bars are held back; our own progress shows instead."""
    import tqdm
    logger, log, start = logging.getLogger("lm_eval"), _Log(), tqdm.tqdm.__init__
    before = logger.propagate
    logger.addHandler(log)
    logger.propagate = False
    tqdm.tqdm.__init__ = functools.partialmethod(start, disable=True)
    try:
        yield log
    finally:
        tqdm.tqdm.__init__ = start
        logger.propagate = before
        logger.removeHandler(log)


@contextlib.contextmanager
def _one_line_errors(endpoint: Endpoint, task: Task, log: _Log) -> Iterator[None]:
    """A server that fails in the middle of a task is the user's to mend, not a fault of ours."""
    import aiohttp
    import requests
    try:
        yield
    except (requests.RequestException, aiohttp.ClientError, TimeoutError) as error:
        said = " ".join((log.refusal or str(error) or type(error).__name__).split())[:300]
        raise UserError(f"task '{task.name}': {endpoint.base} failed: {said}") from None
    except RuntimeError as error:
        if not str(error).startswith("RemoteTokenizer"):
            raise
        raise UserError(f"task '{task.name}': {' '.join(str(error).split())[:300]}") from None
