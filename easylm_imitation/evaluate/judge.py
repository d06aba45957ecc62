"""`compare --by judge`: a language model judges the answers of some models, in pairs or one by one.

    answers of A, B, ... and of the reference ─► prompts of the protocol, both orders ─► judge ─► OUT.ledger.jsonl
        ─► OUT (Results: one preference an item, paired by prompt id, for `report`)

Every reply stands in the ledger as it came and is read anew by each run, so the same command continues, and a verdict
that could not be read is told and counted, not guessed. The ledger also holds tokens and cost.
"""
import dataclasses
import datetime
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from easylm_imitation.data.sources import iter_records
from easylm_imitation.evaluate import judge_scores
from easylm_imitation.evaluate.answers import answers_meta, read_answers
from easylm_imitation.evaluate.judge_prompts import MATH, JudgePrompt, find_file, judge_prompts, read_references
from easylm_imitation.evaluate.judging import JudgeConfig, Judged, Question, ask_judge
from easylm_imitation.files import digest, iter_jsonl, write_json
from easylm_imitation.records import Item, Lineage, Results, TaskResult, code_version
from easylm_imitation.schema import UserError

_PAIR = ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn")
_SINGLE = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """Which protocol, and how the judge is asked."""
    protocol: Literal["mt-bench", "mt-bench-single", "vicuna", "alpaca_eval", "alpaca_eval_2"] = "mt-bench"
    both_orders: bool | None = None     # None: as published (MT-bench both, others one that the prompt's hash draws)
    judge: JudgeConfig = JudgeConfig()

    @property
    def single(self) -> bool:
        """Whether answers are graded one by one."""
        return self.protocol == "mt-bench-single"

    @property
    def orders(self) -> bool:
        """Whether each pair is judged in both orders."""
        return not self.single and (self.protocol == "mt-bench" if self.both_orders is None else self.both_orders)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of the prompts that the protocol needs."""
        return {"mt-bench": _PAIR, "mt-bench-single": _SINGLE}.get(self.protocol, (self.protocol,))


_DEFAULT = PreferenceConfig()


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """The questions of one prompt, turn by turn, and a model's answers."""
    id: str
    category: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Answered:
    """A model and its dialogues by prompt id."""
    lineage: Lineage
    dialogues: dict[str, Dialogue]


@dataclasses.dataclass(frozen=True)
class _Ask:
    """One request to the judge. `swapped`: the model's answer is shown first, and the reference's second."""
    id: str
    turn: int
    swapped: bool
    prompt: JudgePrompt
    values: dict[str, str]

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        return f"{self.id}/{self.turn + 1}{'/swapped' if self.swapped else ''}"


def judge(url: str, model: str | os.PathLike, reference: str | os.PathLike | None, out: str | os.PathLike, *,
          config: PreferenceConfig = _DEFAULT, prompts_from: str | None = None, command: str = "") -> Results:
    """Judges the answers of the file `model` against those of `reference` (None: one by one); writes and returns them.

    Raises UserError for files without common prompts, a protocol that needs a reference, an endpoint that is gone, a
    ledger of other requests, and when more than a tenth of the verdicts cannot be read.
    """
    templates = judge_prompts(config.prompts, prompts_from)
    mine = read_dialogues(model, prompts_from)
    if (reference is None) != config.single:
        raise UserError(f"protocol '{config.protocol}' " + (
            "grades single answers; leave --reference out" if config.single else
            "compares pairs; name --reference ANSWERS"))
    other = None if reference is None else read_dialogues(reference, prompts_from)
    asks = _asks(mine, other, config, templates, read_references(prompts_from) if _with_references(config) else {})
    questions = {ask.key: Question(ask.prompt.fill(ask.values), ask.prompt.max_tokens, ask.prompt.temperature,
                                   ask.prompt.logprobs) for ask in asks}
    ledger = f"{str(out).removesuffix('.json')}.ledger.jsonl"
    judged = ask_judge(dataclasses.replace(config.judge, url=url), questions, ledger)
    results = _results(mine, other, asks, judged, config, command)
    write_json(out, results)
    return results


def read_dialogues(path: str | os.PathLike, prompts_from: str | None) -> Answered:
    """Answers of any form that evaluate reads, or FastChat's model answers (`question_id`, `choices[0].turns`), whose
    questions come from the user's copy of FastChat. Raises UserError."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of answers")
    first = next(iter_records(path)).parse()
    if "question_id" in first:
        return _fastchat(path, prompts_from)
    answers = read_answers(path)
    made = {a.prompt_id: Dialogue(a.prompt_id, str(a.dataset), (a.prompt,), (a.answer,)) for a in answers}
    return Answered(answers_meta(path, answers, answers[0].model).lineage, made)


def _fastchat(path: pathlib.Path, prompts_from: str | None) -> Answered:
    if prompts_from is None:
        raise UserError(f"{path}: FastChat's answers do not hold the questions; name your copy with --prompts-from")
    place = pathlib.Path(prompts_from)
    questions = {str(row["question_id"]): row for bench in ("vicuna_bench", "mt_bench")
                 for _, row in iter_jsonl(find_file(place, f"{bench}/question.jsonl"))}
    made, name = {}, path.stem
    for number, row in iter_jsonl(path):
        asked = questions.get(str(row["question_id"]))
        if asked is None:
            raise UserError(f"{path}:{number}: question {row['question_id']} is in no question.jsonl below {place}")
        turns, name = tuple(row["choices"][0]["turns"]), row.get("model_id", name)
        made[str(row["question_id"])] = Dialogue(str(row["question_id"]), asked["category"],
                                                 tuple(asked["turns"][:len(turns)]), turns)
    own = digest(["recorded", name])
    return Answered(Lineage(own, name, own, name), made)


def _with_references(config: PreferenceConfig) -> bool:
    return config.protocol.startswith("mt-bench")


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _asks(mine: Answered, other: Answered | None, config: PreferenceConfig, templates: dict[str, JudgePrompt],
          references: dict[str, list[str]]) -> list[_Ask]:
    ids = [i for i in mine.dialogues if other is None or i in other.dialogues]
    if not ids:
        raise UserError("the files of answers share no prompt id; both must answer the same prompts file")
    made = []
    for i in ids:
        ours, theirs = mine.dialogues[i], other.dialogues[i] if other else None
        reference = references.get(i, []) if ours.category in MATH else []
        turns = len(ours.answers) if theirs is None else min(len(ours.answers), len(theirs.answers))
        for turn in range(min(turns, 2)):
            template = templates[_template(config, turn, len(reference) > turn)]
            orders = (False, True) if config.orders else (not config.single and int(digest(i), 16) % 2 == 1,)
            made += [_Ask(i, turn, swapped, template, _values(ours, theirs, reference, turn, swapped))
                     for swapped in orders]
    return made


def _template(config: PreferenceConfig, turn: int, math: bool) -> str:
    if not config.protocol.startswith("mt-bench"):
        return config.protocol
    return config.prompts[2 * turn + math]


def _values(ours: Dialogue, theirs: Dialogue | None, reference: Sequence[str], turn: int,
            swapped: bool) -> dict[str, str]:
    """Everything that the templates of all protocols may name."""
    first, second = (ours, theirs or ours) if swapped else (theirs or ours, ours)
    made = {"question": ours.questions[turn], "instruction": ours.questions[turn], "answer": ours.answers[turn],
            "answer_a": first.answers[turn], "answer_b": second.answers[turn], "output_1": first.answers[turn],
            "output_2": second.answers[turn]}
    for n in range(turn + 1):
        made |= {f"question_{n + 1}": ours.questions[n], f"answer_{n + 1}": ours.answers[n],
                 f"answer_a_{n + 1}": first.answers[n], f"answer_b_{n + 1}": second.answers[n]}
    return made | {f"ref_answer_{n + 1}": text for n, text in enumerate(reference)}


# ── what was said ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _results(mine: Answered, other: Answered | None, asks: Sequence[_Ask], judged: Judged, config: PreferenceConfig,
             command: str) -> Results:
    name = judged.judge
    found: dict[tuple[str, int], list[float | None]] = {}
    said = [judged.replies[ask.key] for ask in asks]
    seconds = [ask.prompt.read(reply.text, reply.first_token) for ask, reply in zip(asks, said)]
    for ask, second in zip(asks, seconds):
        ours = second if second is None or config.single or not ask.swapped else 1 - second
        found.setdefault((ask.id, ask.turn), []).append(ours)
    unread = [key for key, values in found.items() if None in values]
    if len(unread) > len(found) / 10:
        raise UserError(f"{len(unread)} of {len(found)} verdicts of '{name}' cannot be read, such as the one of prompt "
                        f"'{unread[0][0]}'; its replies are in the ledger. Another judge, or other prompts, may do.")
    scores = {key: _together(values, config) for key, values in found.items() if None not in values}
    items = tuple(Item(i if turn == 0 else f"{i}.{turn + 1}", score) for (i, turn), score in scores.items())
    task = TaskResult(f"judge_{config.protocol}", "chat", "preference", "rating" if config.single else "win_rate",
                      sum(item.score for item in items) / len(items), items, data="sample" if unread else "full",
                      protocol=_protocol(asks, other, config, name), group="rating" if config.single else "preference")
    date = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    meta = {"judge": name, "reference": other.lineage.name if other else "", "unreadable": len(unread),
            "cost": judged.cost, "requests": judged.requests}
    if other:
        meta |= _figures(mine, other, scores, [s for s in seconds if s is not None],
                         [tuple(v) for v in found.values() if len(v) == 2 and None not in v])
    return Results(mine.lineage, (task,), command=command, date=date, code=code_version(), meta=meta)


def _together(values: Sequence[float], config: PreferenceConfig) -> float:
    """One item's score. In both orders a verdict counts when it is the same (MT-bench's rule), else it is a tie."""
    if config.single:
        return values[0] / 10
    if len(values) == 1 or config.protocol == "alpaca_eval_2":
        return sum(values) / len(values)
    return values[0] if values[0] == values[1] else 0.5


def _figures(mine: Answered, other: Answered, scores: dict[tuple[str, int], float], seconds: Sequence[float],
             pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Win rates and biases."""
    lengths = [[len(who.dialogues[i].answers[turn]) for i, turn in scores] for who in (mine, other)]
    away = [a - b for a, b in zip(*lengths)]
    made = judge_scores.head_to_head([1 + score for score in scores.values()])
    return {"head_to_head": dataclasses.asdict(made),
            "length_controlled_win_rate": judge_scores.length_controlled(list(scores.values()), *lengths),
            "bias": dataclasses.asdict(judge_scores.bias(seconds, pairs, list(scores.values()), away))}


def _protocol(asks: Sequence[_Ask], other: Answered | None, config: PreferenceConfig, name: str) -> str:
    """Hash of the judge, its prompts, the questions and the reference's answers: not of the model's own."""
    templates = sorted({(ask.prompt.name, digest(ask.prompt.messages)) for ask in asks})
    asked = [(ask.id, ask.turn, ask.swapped, ask.values["question"],
              other.dialogues[ask.id].answers[ask.turn] if other else "") for ask in asks]
    return digest([name, config.protocol, templates, asked])
