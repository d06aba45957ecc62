"""How an instruction and its input become one question."""
from typing import Literal

from easylm_imitation.data.formats.base import chance
from easylm_imitation.records import Message

Encoding = Literal["blank line", "alpaca", "dolly", "tulu"]

# Between an instruction and its input, in the originals' prompts.
_BETWEEN = {"blank line": "\n\n", "alpaca": "\n\n### Input:\n", "dolly": "\n\nInput:\n"}
# Stanford Alpaca begins another way where there is an input; a system message replaces the template's own words.
_ALPACA_WITH_INPUT = ("Below is an instruction that describes a task, paired with an input that provides further "
                      "context. Write a response that appropriately completes the request.")

# open-instruct's choice of wordings, with their weights; "|" ends the question where the answer gets a beginning.
# Wordings are as published, misspelling included: a reproduction wants the very same.
_WITH_INPUT = (
    (.2, "{i}\n\n{x}\n\n"), (.1, "{i}\n{x}\n\n"), (.1, "{i}\n{x}\n"), (.05, "{i}\n\nInput: {x}\n\nOutput:"),
    (.05, "{i}\nInput: {x}\nOutput:"), (.05, "{i}\n{x}\n\nResponse:"),
    (.05, "{i}\n\nAdditional Context:\n{x}\n\nAnswer:"), (.05, "Task: {i}\nInput: {x}\nOutput:"),
    (.05, "Task: {i}\n\n{x}\n\n"), (.05, "Task: {i}\n\n{x}\n\nAnswer:"),
    (.05, "You need to complete the following task:\n\n{i}\n\n{x}\n\nAnswer:"),
    (.05, "{i}\n\nNow complete the following instance -\nInput: {x}\nOutput:"),
    (.05, "Instruction:{i}\n\nInput: {x}\n\n"),
    (.1, "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
         "response that appropriately completes the request.\n\n### Instruction:\n{i}\n\n### Input:\n{x}\n\n"
         "### Response:"))
_ALONE = (
    (.2, "{i}\n\n"), (.1, "{i}\n"), (.1, "{i}|\n"), (.05, "{i} Output:"), (.05, "{i}\nResponse:"),
    (.05, "{i}\n\nAnswer:"), (.05, "Task: {i}\n\n"), (.05, "Instruction: {i}\n"), (.05, "Instruction: {i}\nOutput:"),
    (.05, "You need to complete the following task:\n\n{i}\n\n"), (.05, "Can you help with this?\n\n{i}\n"),
    (.05, "Plase answer the following request: {i}\nAnswer:"),
    (.05, "Tell me how would you respond to the following request.\n{i}\n"),
    (.1, "Below is an instruction that describes a task. Write a response that appropriately completes the request."
         "\n\n### Instruction:\n{i}\n\n### Response:"))


def encode(instruction: str, given: str, answer: str, encoding: Encoding) -> tuple[str, str]:
    """(question, answer). "blank line" puts the input after the instruction; "alpaca" and "dolly" under the heading of
    their prompts; "tulu" draws one of open-instruct's wordings by weight.

        ("Add.", "1 2", "3"), "blank line"   ->   ("Add.\\n\\n1 2", "3")
    """
    has_input = bool(given.strip())
    if encoding in _BETWEEN:
        return (f"{instruction}{_BETWEEN[encoding]}{given}" if has_input else instruction), answer
    wording = _drawn(_WITH_INPUT if has_input else _ALONE, chance(instruction, given, answer))
    if has_input:
        instruction, given = instruction.strip(), given.strip()
    question, _, opening = wording.partition("|")
    return question.replace("{x}", "\0").replace("{i}", instruction).replace("\0", given), opening + answer


def introduction(given: str, encoding: Encoding) -> list[Message]:
    """The system message that belongs to a question made so; only "alpaca" has one, where there is an input."""
    return [Message("system", _ALPACA_WITH_INPUT)] if encoding == "alpaca" and given.strip() else []


def _drawn(wordings: tuple[tuple[float, str], ...], at: float) -> str:
    for weight, wording in wordings:
        at -= weight
        if at < 0:
            return wording
    return wordings[-1][1]
