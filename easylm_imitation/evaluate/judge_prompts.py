"""What a judge is asked, and how its answer is read.

The published prompts are not part of this package: `--prompts-from DIR` reads them from the user's copy of FastChat
(`judge_prompts.jsonl`, `mt_bench/`, `vicuna_bench/`) and alpaca_eval (`evaluators_configs/`). Without it the prompts
are ours, which ask for the same verdict in the same form, so that the same parsers read it.
"""
import ast
import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from easylm_imitation.files import iter_jsonl
from easylm_imitation.records import Message
from easylm_imitation.schema import UserError, nearest

Parser = Callable[[str, Mapping[str, float] | None], float | None]
MATH = ("math", "reasoning", "coding", "arena-hard-200")     # MT-bench's categories that are judged with a reference


@dataclasses.dataclass(frozen=True)
class JudgePrompt:
    """A template. `read` gives the preference for the second answer (0, 0.5 or 1, or between), a rating 1 to 10 for a
    single answer, and None for an answer that is no verdict."""
    name: str
    messages: tuple[Message, ...]
    read: Parser
    max_tokens: int
    temperature: float = 0.0
    logprobs: bool = False

    def fill(self, values: Mapping[str, str]) -> list[Message]:
        """The messages with every {name} of the template replaced; other braces, as in JSON, stay."""
        def put(match: re.Match) -> str:
            return values.get(match[1], match[0])
        return [Message(m.role, re.sub(r"\{(\w+)\}", put, m.content)) for m in self.messages]


# ── reading verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────


def verdict_letter(text: str, _: Mapping[str, float] | None = None) -> float | None:
    """[[A]], [[B]] or [[C]] (a tie); the last one that stands in the text, as judges quote the form first."""
    found = re.findall(r"\[\[([ABC])\]\]", text)
    return {"A": 0.0, "B": 1.0, "C": 0.5}[found[-1]] if found else None


def rating(text: str, _: Mapping[str, float] | None = None) -> float | None:
    """[[7]] or [[7.5]], else [7]; None for a number outside 1 to 10."""
    found = re.search(r"\[\[(\d+\.?\d*)\]\]", text) or re.search(r"\[(\d+\.?\d*)\]", text)
    value = float(found[1]) if found else -1.0
    return value if 1 <= value <= 10 else None


def two_scores(text: str, _: Mapping[str, float] | None = None) -> float | None:
    """Two numbers on the first line that has any, or a pair in brackets: the preference is which is higher."""
    for line in text.splitlines():
        numbers = re.findall(r"-?\d+(?:\.\d+)?", line)
        if len(numbers) == 2:
            first, second = map(float, numbers)
            return 0.5 if first == second else float(second > first)
        if numbers:
            return None     # a sentence with some number: no verdict line
    return None


def ranking(text: str, _: Mapping[str, float] | None = None) -> float | None:
    """A list of {'model': 'model_1', 'rank': 1} in any order, with words around it or not; equal ranks are a tie."""
    found = re.search(r"\[[^\[\]]*\]", text, re.DOTALL)
    try:
        rows = ast.literal_eval(found[0]) if found else []
        ranks = {row["model"]: float(row["rank"]) for row in rows}
        first, second = ranks["model_1"], ranks["model_2"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return None
    return 0.5 if first == second else float(second < first)


def one_letter(text: str, first_token: Mapping[str, float] | None = None) -> float | None:
    """P(M) / (P(m) + P(M)) of the first token, M being the second answer; without log-probabilities, the letter."""
    if first_token is None:
        return {"m": 0.0, "M": 1.0}.get(text.strip().strip("\"'*."))
    m, other = (math.exp(first_token[t]) if t in first_token else 0.0 for t in ("M", "m"))
    return m / (m + other) if m + other > 0 else None


# ── our own prompts ───────────────────────────────────────────────────────────────────────────────────────────────────

_FAIR = ("Judge only what the answers say: not their order, not their length, not how sure they sound. Check facts, "
         "reasoning and code before style.")
_ANSWERS = "Question:\n{question}\n\nAnswer A:\n{answer_a}\n\nAnswer B:\n{answer_b}"
_REFERENCE = "\n\nA correct answer, to check both against:\n{ref_answer_1}"
_TURNS = ("First question:\n{question_1}\n\nSecond question:\n{question_2}\n\nAssistant A said first:\n{answer_a_1}\n\n"
          "and then:\n{answer_a_2}\n\nAssistant B said first:\n{answer_b_1}\n\nand then:\n{answer_b_2}")
_TURNS_REFERENCE = "\n\nCorrect answers:\n1. {ref_answer_1}\n2. {ref_answer_2}"
_SINGLE = "Question:\n{question}\n\nAnswer:\n{answer}"
_SINGLE_TURNS = ("First question:\n{question_1}\n\nAnswer:\n{answer_1}\n\nSecond question:\n{question_2}\n\nAnswer:\n"
                 "{answer_2}")
_PAIR_SYSTEM = (f"You compare two answers to a question. {_FAIR} Explain briefly, then end with exactly one of [[A]], "
                "[[B]] or, for a tie, [[C]].")
_SINGLE_SYSTEM = f"You grade an answer from 1 to 10. {_FAIR} Explain briefly, then end with the grade as [[7]]."
_LETTER = ("You choose the better of two answers to an instruction. Reply with one character and nothing else: m if "
           "the first is better, M if the second is.")
_RANKS = ("You rank two answers to an instruction. Reply with nothing but a Python list: [{'model': 'model_1', 'rank': "
          "RANK}, {'model': 'model_2', 'rank': RANK}], rank 1 being the better.")
_PLAIN = "Instruction:\n{instruction}\n\nmodel_1 (m):\n{output_1}\n\nmodel_2 (M):\n{output_2}"


def _own(name: str, system: str, user: str, read: Parser, max_tokens: int = 1024, **how: object) -> JudgePrompt:
    return JudgePrompt(name, (Message("system", system), Message("user", user)), read, max_tokens, **how)


OWN: dict[str, JudgePrompt] = {p.name: p for p in (
    _own("pair-v2", _PAIR_SYSTEM, _ANSWERS, verdict_letter),
    _own("pair-math-v1", _PAIR_SYSTEM, _ANSWERS + _REFERENCE, verdict_letter),
    _own("pair-v2-multi-turn", _PAIR_SYSTEM + " The second question counts.", _TURNS, verdict_letter),
    _own("pair-math-v1-multi-turn", _PAIR_SYSTEM + " The second question counts.", _TURNS + _TURNS_REFERENCE,
         verdict_letter),
    _own("single-v1", _SINGLE_SYSTEM, _SINGLE, rating),
    _own("single-math-v1", _SINGLE_SYSTEM, _SINGLE + _REFERENCE, rating),
    _own("single-v1-multi-turn", _SINGLE_SYSTEM + " The second answer counts.", _SINGLE_TURNS, rating),
    _own("single-math-v1-multi-turn", _SINGLE_SYSTEM + " The second answer counts.", _SINGLE_TURNS + _TURNS_REFERENCE,
         rating),
    _own("vicuna", f"You score two answers. {_FAIR} On the first line write two numbers from 1 to 10, the scores of A "
         "and B, separated by a space, and nothing else; then explain.", _ANSWERS, two_scores, temperature=0.2),
    _own("alpaca_eval", _RANKS, _PLAIN, ranking, 100),
    _own("alpaca_eval_2", _LETTER, _PLAIN, one_letter, 1, temperature=1.0, logprobs=True))}


# ── the published ones ────────────────────────────────────────────────────────────────────────────────────────────────


def judge_prompts(names: Sequence[str], folder: str | None) -> dict[str, JudgePrompt]:
    """The prompts of these names: those of the user's copy in `folder`, else our own. Raises UserError for an unknown
    name, and for a folder that does not hold one."""
    for name in names:
        if name not in OWN:
            raise UserError(f"unknown judge prompt '{name}'{nearest(name, OWN)}")
    if folder is None:
        return {name: OWN[name] for name in names}
    place = pathlib.Path(folder)
    if not place.is_dir():
        raise UserError(f"--prompts-from {folder}: no such folder; name your copy of FastChat's llm_judge/data, or of "
                        "alpaca_eval's evaluators_configs")
    return {name: _published(place, name) for name in names}


def _published(place: pathlib.Path, name: str) -> JudgePrompt:
    own = OWN[name]
    files = {"vicuna": "lmsys_gpt4/lmsys_prompt.txt", "alpaca_eval": "alpaca_eval_gpt4/alpaca_eval.txt",
             "alpaca_eval_2": "alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"}
    if name in files:
        path = find_file(place, files[name])
        return dataclasses.replace(own, messages=chatml(path.read_text(encoding="utf-8"), path))
    path = find_file(place, "judge_prompts.jsonl")
    found = {row.get("name"): row for _, row in iter_jsonl(path)}
    row = found.get(name)
    if row is None:
        raise UserError(f"{path}: holds no prompt '{name}'; leave --prompts-from out for ours")
    return dataclasses.replace(own, messages=(Message("system", row["system_prompt"]),
                                              Message("user", row["prompt_template"])))


def find_file(place: pathlib.Path, tail: str) -> pathlib.Path:
    """The file `tail` somewhere below `place`. Raises UserError when it is not there."""
    name = pathlib.PurePath(tail).name
    found = sorted(path for path in place.rglob(name) if str(path).endswith(tail))
    if not found:
        raise UserError(f"--prompts-from {place}: no {tail} below it; leave the flag out for our own prompts")
    return found[0]


def chatml(text: str, where: object) -> tuple[Message, ...]:
    """The messages of a template of <|im_start|>role ... <|im_end|> blocks. Raises UserError for another form."""
    blocks = re.findall(r"<\|im_start\|>(system|user|assistant)\n(.*?)\n?<\|im_end\|>", text, re.DOTALL)
    if not blocks:
        raise UserError(f"{where}: no <|im_start|> blocks; this is no template of alpaca_eval")
    return tuple(Message(role, content) for role, content in blocks)


def read_references(place: str | None) -> dict[str, list[str]]:
    """Question id -> reference answers by turn, from FastChat's `reference_answer/gpt-4.jsonl` of MT-bench."""
    if place is None:
        return {}
    path = find_file(pathlib.Path(place), "mt_bench/reference_answer/gpt-4.jsonl")
    return {str(row["question_id"]): list(row["choices"][0]["turns"]) for _, row in iter_jsonl(path)}

