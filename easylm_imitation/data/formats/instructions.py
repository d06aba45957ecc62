"""Single questions: an instruction, perhaps with an input, and its answer."""
from collections.abc import Iterator
from typing import Any

from easylm_imitation.data.formats.base import Row, inside, listed, numbered, round_of, sound, system, text
from easylm_imitation.data.formats.encodings import Encoding, encode, introduction
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Message


def _task(instruction: str, given: str, answer: str, encoding: Encoding) -> list[Message]:
    """One round, after the system message that its encoding may want."""
    return [*introduction(given, encoding), *round_of(*encode(instruction, given, answer, encoding))]


def alpaca(record: dict[str, Any], *, encoding: Encoding = "blank line") -> Iterator[Row]:
    """instruction, input ("" if none), output (or response, as GPTeacher names it); in LLaMA-Factory's files also a
    system message and earlier rounds: system, history [[question, answer], ...]."""
    history = record.get("history") or []
    if not isinstance(history, list) or not all(
            isinstance(pair, list) and [type(part) for part in pair] == [str, str] for pair in history):
        raise Drop("wrong shape", "'history' is not a list of [question, answer]")
    earlier = [message for pair in history for message in round_of(*pair)]
    *said, question, answer = _task(text(record, "instruction"), text(record, "input", default=""),
                                    text(record, "output", "response"), encoding)
    yield Row([*(system(record, "system") or said), *earlier, question, answer])


def self_instruct(record: dict[str, Any], *, encoding: Encoding = "blank line") -> Iterator[Row]:
    """A task with its instances (seed tasks, user-oriented tasks), or one instance (the 82K that GPT-3 made)."""
    if "instances" not in record:
        yield from alpaca(record, encoding=encoding)
        return
    made = [_task(text(record, "instruction"), text(one, "input", default=""), text(one, "output"), encoding)
            for one in listed(record, "instances", dict)]
    yield from numbered(made)


def unnatural(record: dict[str, Any], *, encoding: Encoding = "blank line",
              reformulations: bool = False) -> Iterator[Row]:
    """One row an instance; constraints on the output follow the instruction where there are any. `reformulations`: the
    full set's other wordings of the same task too."""
    instances = listed(record, "instances", dict)
    tasks = [(_constrained(text(record, "instruction"), one), one) for one in instances]
    if reformulations and "reformulations" in record:
        tasks += [(text(one, "instruction"), one) for one in listed(record, "reformulations", dict)]
    yield from numbered(_task(instruction, text(one, "input", default=""), text(one, "output"), encoding)
                        for instruction, one in tasks)


def _constrained(instruction: str, instance: dict[str, Any]) -> str:
    constraints = text(instance, "constraints", default="").strip()
    return instruction if constraints.lower() in ("", "none", "none.") else f"{instruction}\n{constraints}"


def dolly(record: dict[str, Any], *, encoding: Encoding = "blank line") -> Iterator[Row]:
    """instruction, context ("" if none), response; people wrote them."""
    yield Row(_task(text(record, "instruction"), text(record, "context", default=""), text(record, "response"),
                    encoding), teacher="")


def halueval(record: dict[str, Any]) -> Iterator[Row]:
    """user_query, chatgpt_response."""
    yield Row(round_of(text(record, "user_query"), text(record, "chatgpt_response")))


def hc3(record: dict[str, Any], *, chatgpt: bool = True, human: bool = False) -> Iterator[Row | Drop]:
    """A question with several answers by ChatGPT and by people: one row an answer."""
    question = text(record, "question")
    for wanted, key, name, teacher in ((chatgpt, "chatgpt_answers", "c", None), (human, "human_answers", "h", "")):
        for i, answer in enumerate(listed(record, key, object) if wanted else ()):
            yield sound(_answered, question, {key: answer}, key, f"{name}{i}", teacher)


def _answered(question: str, answers: dict[str, Any], key: str, name: str, teacher: str | None) -> Row:
    return Row(round_of(question, text(answers, key)), name, teacher)


def gpt4all(record: dict[str, Any], *, without: tuple[str, ...] = ()) -> Iterator[Row]:
    """source, prompt, response; a text may hide in {"value": ...} or {"description": ...}. `without`: sources that are
    left out, by the beginning of their name ("bigscience/p3")."""
    if str(record.get("source", "")).startswith(without or ("\0",)):
        raise Drop("unwanted source", str(record["source"]))
    yield Row(round_of(_unwrapped(record, "prompt"), _unwrapped(record, "response")))


def _unwrapped(record: dict[str, Any], key: str) -> str:
    held = inside(record, key) if isinstance(record.get(key), dict) else None
    return text(record, key) if held is None else text(held, "value", "description")


def openorca(record: dict[str, Any]) -> Iterator[Row]:
    """system_prompt ("" if none), question, response."""
    yield Row([*system(record, "system_prompt"), *round_of(text(record, "question"), text(record, "response"))])


def pairs(record: dict[str, Any]) -> Iterator[Row]:
    """A question and its answer under any of the usual names: what bots on Discord were asked and said."""
    yield Row(round_of(text(record, "prompt", "instruction", "input", "question"),
                       text(record, "completion", "output", "response", "answer")))


def prompt_completion(record: dict[str, Any]) -> Iterator[Row]:
    """prompt, completion."""
    yield Row([Message("user", text(record, "prompt")), Message("assistant", text(record, "completion"))])
