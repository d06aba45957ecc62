"""Choices asked for in words: the generation form of a task of log-likelihoods, for models behind a chat-only API.

    choices      log-likelihood of each option after the prompt         generation   the model writes a letter

Options that are letters already (MMLU's) keep their prompt. Others are listed under the question as A, B, ... in an
order that a hash of the question decides, because a file may hold the right one first.
"""
import ast
import dataclasses
import re
from typing import Any

from easylm_imitation.evaluate.tasks.files import FOLDER
from easylm_imitation.evaluate.tasks.task import Row, Task
from easylm_imitation.files import digest
from easylm_imitation.schema import UserError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CUE = re.compile(r"\n\w+:\s*$")      # a last line such as "A:", which belongs after the options
_METRIC = "exact_match"
_RAW, _CHAT = 16, 128                 # tokens of an answer


def in_words(task: Task) -> Task:
    """The generation form of `task`; a task that generates already is its own. Raises UserError where there is none."""
    if task.form == "generation":
        return task
    if task.config["output_type"] != "multiple_choice" or task.metadata.get("generation") is False:
        raise UserError(f"task '{task.name}' has no generation form: it needs the log-likelihoods of its options")
    lettered = _is_lettered(task.config["doc_to_choice"])
    splits = {name: [_row(task, row, lettered) for row in rows] for name, rows in task.splits.items()}
    return dataclasses.replace(task, splits=splits, config=_config(task, lettered))


def _is_lettered(spec: Any) -> bool:
    return isinstance(spec, list) and "".join(map(str, spec)) == _LETTERS[:len(spec)]


def _config(task: Task, lettered: bool) -> dict[str, Any]:
    from lm_eval.tasks import _yaml_loader
    rule = _yaml_loader.load_yaml(FOLDER / "letters.yaml")
    text = task.config["doc_to_text"]
    if not lettered and not isinstance(text, str):
        raise UserError(f"task '{task.name}' has no generation form: its doc_to_text is code, not a template")
    keys = {k: v for k, v in task.config.items() if k not in ("doc_to_choice", "process_results", "output_type")}
    answers = {"do_sample": False, "temperature": 0.0}
    chat = {k: v for k, v in task.metadata.get("chat", {}).items() if k != "doc_to_choice"}
    chat["generation_kwargs"] = {"until": [], **answers, "max_gen_toks": _CHAT}
    return keys | {
        "output_type": "generate_until", "process_results": rule["process_results"],
        "doc_to_target": "{{answer_letter}}",
        "doc_to_text": text if lettered else _CUE.sub("", text) + "\n{{lettered_options}}\nAnswer:",
        "generation_kwargs": {"until": ["\n"], **answers, "max_gen_toks": _RAW},
        "metric_list": [{"metric": _METRIC, "aggregation": "mean", "higher_is_better": True}],
        "metadata": task.metadata | {"chat": chat}}


def _row(task: Task, row: Row, lettered: bool) -> Row:
    options, gold = _options(task, row), _gold(task, row)
    if len(options) > len(_LETTERS):
        raise UserError(f"task '{task.name}': an item has {len(options)} options; letters end at {len(_LETTERS)}")
    order = list(range(len(options)))
    if not lettered:
        order.sort(key=lambda i: digest([options, i]))
    listed = "\n".join(f"{letter}. {options[i]}" for letter, i in zip(_LETTERS, order))
    return row | {"letters": _LETTERS[:len(options)], "answer_letter": _LETTERS[order.index(gold)],
                  "lettered_options": listed}


def _options(task: Task, row: Row) -> list[str]:
    spec = task.config["doc_to_choice"]
    if isinstance(spec, str) and spec not in row:
        spec = ast.literal_eval(_rendered(spec, row))
    elif callable(spec):
        spec = spec(row)
    return [str(option) for option in (row[spec] if isinstance(spec, str) else spec)]


def _gold(task: Task, row: Row) -> int:
    spec = task.config["doc_to_target"]
    value = spec(row) if callable(spec) else spec if isinstance(spec, int) else row.get(spec, None)
    value = _rendered(spec, row).strip() if value is None else value
    options = _options(task, row)
    if str(value) in options and not isinstance(value, int):
        return options.index(str(value))
    try:
        return range(len(options))[int(value)]
    except (ValueError, TypeError, IndexError):
        raise UserError(f"task '{task.name}': the answer {value!r} is none of its {len(options)} options") from None


def _rendered(template: str, row: Row) -> str:
    from lm_eval.utils import apply_template
    return apply_template(template, row)
