"""Runs tasks through lm-evaluation-harness, unmodified, over HTTP or in process, and makes our records of what it says.

    raw  + choices      /v1/completions, echo and logprobs       raw  + generation     /v1/completions
    chat + choices      the same, on the rendered template       chat + generation     /v1/chat/completions

The harness's `evaluate` is called with the tasks loaded by its TaskManager: what `simple_evaluate` does, but for the
listing of the machine's packages at its end (11 s a call where torch is installed). Rows are handed over in memory, so
nothing is cached, pickled or fetched. Every number that a result carries comes from the harness. In process the same
request bodies go to the same routes' functions (`LocalModel.post`).
"""
import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from easylm_imitation import console
from easylm_imitation.client import ClientConfig
from easylm_imitation.evaluate.after import judged_by, score_after, unable
from easylm_imitation.evaluate.cache import Kept, kept_path
from easylm_imitation.evaluate.config import EvaluateConfig
from easylm_imitation.evaluate.endpoint import Endpoint, look, look_inside, text_before_raw
from easylm_imitation.evaluate.generation import in_words
from easylm_imitation.evaluate.outcome import first_filter, made_whole, task_result
from easylm_imitation.evaluate.plan import Prompt, Prompts, planned, suited
from easylm_imitation.evaluate.tasks import Task, find_tasks, protocol
from easylm_imitation.files import digest
from easylm_imitation.records import Lineage, Results, TaskResult, code_version
from easylm_imitation.schema import UserError

if TYPE_CHECKING:
    from easylm_imitation.serve import LocalModel

Form = Literal["auto", "choices", "generation"]
_DEFAULT = EvaluateConfig()
_FEWSHOT_SEED = 1234        # the harness's default
_UNSAID = 2048              # tokens of a context of which nobody says how long it is


def evaluate_tasks(url: "str | LocalModel", tasks: Sequence[str | Task], *, prompt: Prompts = "raw",
                   form: Form = "auto", model: str = "", task_data: str | None = None, limit: int | None = None,
                   config: EvaluateConfig = _DEFAULT, encode: Callable[[str], list[int]] | None = None,
                   role: str = "", command: str = "", cache: str | None = None) -> Results:
    """Measures the model at `url`, or one of this process, on `tasks` (as for find_tasks, or found already) under one
    prompt form or both.

    `prompt` "auto" takes both forms for a finetuned model, raw for a base model, chat for an address without a
    tokenizer. `form` "generation" has choices asked for in words, "auto" where the server gives no log-likelihoods.
    `limit` takes the first items of each task and marks the result as a sample. `cache`: a folder that keeps each
    answer; nothing in it is asked again. `encode` gives ids of a text as the server's own tokenizer would, special
    tokens parsed; it spares the requests for them. Raises UserError for an unknown task or missing data before any
    request, and for a server that is down, refuses or cannot do it all.
    """
    found = [t for given in tasks for t in ([given] if isinstance(given, Task) else find_tasks([given], task_data))]
    planned(found, prompt, limit)
    endpoint = (look(ClientConfig(url, model, config.api_key_env, timeout=30.0, attempts=config.attempts))
                if isinstance(url, str) else look_inside(url))
    found, left_out = _in_forms(endpoint, found, form)
    plan = planned(found, suited(endpoint) if prompt == "auto" else prompt, limit)
    plan = [(put, task.asked(put)) for put, task in plan]
    for put, task in plan:
        _check(endpoint, task, put, config)
    _announce(plan, limit)
    run = _Run(endpoint, limit, config, encode, cache)
    made = [run.measure(task, put) for put, task in plan]
    whole = made_whole([task for _, task in plan], made)
    meta = {"missing": left_out} if left_out else {}
    return results_now(endpoint.lineage, whole, role=role, command=command, meta=meta)


def results_now(model: Lineage, tasks: Sequence[TaskResult], *, role: str = "", command: str = "",
                meta: dict[str, Any] | None = None) -> Results:
    """What was measured of `model`, dated now."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Results(model, tuple(tasks), role, command, date, code_version(), meta or {})


def _in_forms(endpoint: Endpoint, tasks: Sequence[Task], form: Form) -> tuple[list[Task], dict[str, str]]:
    """The tasks, or their generation forms where that is wanted or all that the server can do; and those of several
    that have none, with the reason. Raises UserError when nothing is left."""
    if form == "choices" or form == "auto" and endpoint.tokenizer is not None:
        return list(tasks), {}
    made, left_out = [], {}
    for task in tasks:
        try:
            made.append(in_words(task))
        except UserError as error:
            if len(tasks) == 1:
                raise
            left_out[task.name] = str(error)
            console.say(f"{task.name}: left out; {error}")
    return made, left_out


def _check(endpoint: Endpoint, task: Task, form: Prompt, config: EvaluateConfig) -> None:
    """UserError when the server, or what scores the texts, cannot do what the task needs."""
    if task.form == "choices" and endpoint.tokenizer is None:
        raise UserError(f"task '{task.name}' needs log-likelihoods, and {endpoint.base} offers no /tokenizer_info for "
                        "them; --form generation asks for the choice in words")
    rendered = form == "chat" and (task.form == "choices" or task.config.get("gen_prefix"))
    if rendered and not (endpoint.tokenizer or {}).get("chat_template"):
        why = "" if task.form == "choices" else f" and task '{task.name}' begins the answer itself (gen_prefix)"
        raise UserError(f"{endpoint.base} offers no chat template{why}; use --prompt raw, or serve a model that has "
                        "one")
    context, answer = _context(endpoint, config), _answer_tokens(task, config)
    if task.form == "generation" and answer >= context:
        raise UserError(f"task '{task.name}' asks for answers of {answer} tokens, the server holds {context}; set "
                        "max_gen_toks in the task or --config.max_tokens")
    reason = unable(task, config)
    if reason:
        raise UserError(f"task '{task.name}': {reason}")


def _context(endpoint: Endpoint, config: EvaluateConfig) -> int:
    """Tokens that the server holds, to the best of our knowledge."""
    return endpoint.model.context or config.context or _UNSAID


def _answer_tokens(task: Task, config: EvaluateConfig) -> int:
    given = task.config.get("generation_kwargs") or {}
    return given.get("max_gen_toks", given.get("max_tokens", config.max_tokens))


def _announce(plan: Sequence[tuple[Prompt, Task]], limit: int | None) -> None:
    """A line for each task and form: how many items, in which form, and whether that is all there is."""
    for (name, put), group in itertools.groupby(plan, lambda p: (p[1].whole or p[1].name, p[0])):
        tasks = [task for _, task in group]
        counts = [len(task.rows) for task in tasks]
        data = next((f"SAMPLE: {task.note}" if task.note else "SAMPLE" for task in tasks if not task.complete), "full")
        if limit is not None and any(limit < count for count in counts):
            parts = f" of each of {len(tasks)} parts" if len(tasks) > 1 else ""
            counts, data = [min(limit, n) for n in counts], f"SAMPLE: the first {limit} of {sum(counts)}{parts}"
        first = tasks[0]
        console.say(f"{name}, {put}: {sum(counts)} items, {first.shots}-shot, {first.form}, data {data}")


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the tasks of one call have in common."""
    endpoint: Endpoint
    limit: int | None
    config: EvaluateConfig
    encode: Callable[[str], list[int]] | None
    cache: str | None

    def measure(self, task: Task, form: Prompt) -> TaskResult:
        """Has the harness ask and score one task in one prompt form."""
        context = _context(self.endpoint, self.config)
        written = _answer_tokens(task, self.config) if task.form == "generation" else None
        info = self.endpoint.tokenizer or {}
        around = info.get("chat_template") if form == "chat" else text_before_raw(info)
        kept = kept_path(self.cache, self.endpoint.lineage.id, task.name, form,
                         digest([protocol(task, form, [], written, context), around]))
        with Kept(kept) as said_before:
            said, truncated = self._ask(task, form, said_before)
            if said_before.found:
                console.say(f"{task.name}, {form}: {said_before.found} answers are from an earlier call ({kept})")
        if truncated:
            console.say(f"{task.name}, {form}: some prompts were longer than the context of {context} and lost their "
                        f"beginning ({truncated} warnings of the harness); --config.context=N gives a folder's model "
                        "more, if it holds more")
        scored = None
        if task.scorer:
            samples = first_filter(said, task)
            kept_of = [s["filtered_resps"][0] for s in samples]     # a list; of the filter take_first, a text alone
            texts = [[left] if isinstance(left, str) else left for left in kept_of]
            scored = score_after(task, [s["doc"] for s in samples], texts, self.config, kept.parent if kept else None)
        return task_result(task, form, self.limit, said, scored, written, context if truncated else None,
                           judged_by(task, self.config))

    def _ask(self, task: Task, form: Prompt, kept: Kept) -> tuple[dict[str, Any], int]:
        """What the harness says, and its number of warnings about prompts that were cut."""
        from lm_eval import evaluate
        from lm_eval.tasks import TaskManager
        with _quiet_harness() as log:
            loaded = TaskManager(include_defaults=False).load([_harness_config(task)])
            for made in loaded["tasks"].values():
                made.set_fewshot_seed(_FEWSHOT_SEED)
            model = language_model(self.endpoint, task, form, self.config, self.encode, kept)
            with _one_line_errors(self.endpoint, task, log):
                said = evaluate(model, loaded, limit=self.limit, bootstrap_iters=0, apply_chat_template=form == "chat",
                                fewshot_as_multiturn=True)
        return said, log.truncated


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
                   encode: Callable[[str], list[int]] | None, kept: Kept | None = None) -> Any:
    """The harness's model object that asks `endpoint` what `task` needs under prompt form `form` (see lm.py)."""
    from easylm_imitation.evaluate.lm import Chat, Completions
    header = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {"Accept": "application/json"}
    shared = {"model": endpoint.model.id, "header": header, "max_gen_toks": config.max_tokens,
              "max_length": _context(endpoint, config), "max_retries": 1 if endpoint.local else config.attempts,
              "timeout": round(config.timeout), "kept": kept or Kept(None), "local": endpoint.local}
    if form == "chat" and task.form == "generation" and not task.config.get("gen_prefix"):
        return Chat(base_url=f"{endpoint.base}/chat/completions", num_concurrent=config.concurrency, **shared)
    tokens = endpoint.tokenizer is not None
    remote = tokens and endpoint.local is None
    return Completions(chat=form == "chat", encode=encode if tokens else None, base_url=f"{endpoint.base}/completions",
                       tokenizer_backend="remote" if remote else None, tokenized_requests=remote,
                       auth_token=endpoint.key or None, batch_size=config.batch, **shared)


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
    except UserError as error:
        if endpoint.local is None:
            raise
        raise UserError(f"task '{task.name}': {error}") from None
    except RuntimeError as error:
        if not str(error).startswith("RemoteTokenizer"):
            raise
        raise UserError(f"task '{task.name}': {' '.join(str(error).split())[:300]}") from None
