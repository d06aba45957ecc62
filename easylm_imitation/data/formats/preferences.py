"""Pairs of a better and a worse answer. Koala learns from both: a marker in the question tells which kind follows.

`answers` says what is made of a pair: "good" or "bad" alone, "both" as two conversations, or both in one conversation
of two rounds, "bad-good" or "good-bad". Koala's marker of a good answer is its template's own "GPT:", and its marker of
a bad one takes that one's place; a marker here stands at the end of the question, for any template.
"""
import re
from collections.abc import Iterator
from typing import Any, Literal

from easylm_imitation.data.formats.base import Row, inside, listed, round_of, text
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Message

Answers = Literal["good", "bad", "both", "good-bad", "bad-good"]
GOOD, BAD = "", "An Unhelpful Answer:"


def hh(record: dict[str, Any], *, answers: Answers = "both", good: str = GOOD, bad: str = BAD) -> Iterator[Row]:
    """Anthropic's: chosen and rejected, whole dialogues with "Human:" and "Assistant:" opening paragraphs."""
    yield from _rows(_turns(text(record, "chosen")), _turns(text(record, "rejected")), answers, good, bad)


def webgpt(record: dict[str, Any], *, answers: Answers = "both", good: str = GOOD, bad: str = BAD,
           quotes: bool = True) -> Iterator[Row]:
    """question.full_text, answer_0, answer_1, score_0, score_1; the answers' sources follow the question (`quotes`).
    Equal scores tell nothing and are left out."""
    scores = [record.get("score_0"), record.get("score_1")]
    if not all(isinstance(score, int | float) for score in scores):
        raise Drop("wrong shape", "'score_0' and 'score_1' are not numbers")
    if scores[0] == scores[1]:
        raise Drop("a tie", "both answers have one score")
    question = text(inside(record, "question"), "full_text")
    made = [round_of(question + (_quotes(record, f"quotes_{i}") if quotes else ""), text(record, f"answer_{i}"))
            for i in (0, 1)]
    better = int(scores[1] > scores[0])
    yield from _rows(made[better], made[1 - better], answers, good, bad)


def summaries(record: dict[str, Any], *, answers: Answers = "both", good: str = GOOD, bad: str = BAD,
              task: str = "Summarize this post:") -> Iterator[Row]:
    """OpenAI's comparisons: info.post (or info.article), two summaries, and `choice`, the better one's number."""
    both, choice = listed(record, "summaries", dict), record.get("choice")
    if len(both) != 2 or choice not in (0, 1):
        raise Drop("wrong shape", "not two summaries with a choice of 0 or 1")
    question = f"{task}\n\n{text(inside(record, 'info'), 'post', 'article')}"
    made = [round_of(question, text(one, "text").strip()) for one in both]
    yield from _rows(made[choice], made[1 - choice], answers, good, bad)


def koala(record: dict[str, Any], *, bad: str = BAD) -> Iterator[Row]:
    """What Koala's pipeline writes: human_0, gpt_1, human_2, ...; gpt_bad_1 is an answer of the worse kind."""
    numbered = sorted((int(number), kind) for kind, _, number in (key.rpartition("_") for key in record)
                      if kind in ("human", "gpt", "gpt_bad") and number.isdecimal())
    messages = [Message("user" if kind == "human" else "assistant", text(record, f"{kind}_{number}"))
                for number, kind in numbered]
    yield Row(_marked(messages, bad if any(kind == "gpt_bad" for _, kind in numbered) else ""))


def _rows(better: list[Message], worse: list[Message], answers: Answers, good: str, bad: str) -> Iterator[Row]:
    better, worse = _marked(better, good), _marked(worse, bad)
    if answers in ("good", "both"):
        yield Row(better, "good")
    if answers in ("bad", "both"):
        yield Row(worse, "bad")
    if answers in ("good-bad", "bad-good"):
        first, second, marker = (better, worse, bad) if answers == "good-bad" else (worse, better, good or "GPT:")
        yield Row([*first, Message("user", marker), second[-1]], answers)


def _marked(messages: list[Message], marker: str) -> list[Message]:
    """With the marker at the end of every question."""
    return [Message(m.role, f"{m.content}\n\n{marker}") if marker and m.role == "user" else m for m in messages]


def _turns(dialogue: str) -> list[Message]:
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", dialogue)[1:]
    return [Message("user" if speaker == "Human" else "assistant", content.strip())
            for speaker, content in zip(parts[::2], parts[1::2], strict=True)]


def _quotes(record: dict[str, Any], key: str) -> str:
    """The sources that an answer cites, numbered; {"title": [...], "extract": [...]} or a list of objects."""
    held = record.get(key) or []
    if isinstance(held, dict):
        held = [dict(zip(("title", "extract"), pair))
                for pair in zip(listed(held, "title", str), listed(held, "extract", str))]
    lines = [f"[{i}] {text(quote, 'title', default='')}: {text(quote, 'extract', default='')}"
             for i, quote in enumerate(held, 1)]
    return "\n\nSources:\n" + "\n".join(lines) if lines else ""
