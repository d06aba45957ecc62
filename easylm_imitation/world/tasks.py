"""Evaluation tasks about the world's facts, as files of the stock harness: a JSONL and three YAML tasks for each side.

    choices    solved questions, then the item; log-likelihood of options that are values of the same attribute
    answers    the same prompt; the text generated up to the end of the line must equal the value
    chat       the bare question as a user turn; the first value named in the answer must be the right one
    short      a user turn that asks for one word; the answer's first line must be the value

Sides: `heldout` are facts of entities that no imitation prompt names; `asked` those of the other entities, which show
what imitation does teach. An item's id is its fact's id, so that items pair across models, forms and runs of one seed.
"""
import dataclasses
import pathlib
import random
import re
from collections.abc import Sequence
from typing import Any, Literal

import yaml

from easylm_imitation.files import write_jsonl
from easylm_imitation.world.config import WorldConfig
from easylm_imitation.world.documents import question_text, short_question
from easylm_imitation.world.facts import Fact, Facts, stream
from easylm_imitation.world.lessons import divided

ANSWER_TOKENS = 12      # longer than any value
CHAT_TOKENS = 96        # longer than any answer that the teacher is taught


@dataclasses.dataclass(frozen=True)
class WorldTask:
    """One task: its name in the harness, its file, the prompt forms it is meant for, and its side of the verdict."""
    name: str
    path: pathlib.Path
    prompts: tuple[Literal["raw", "chat"], ...]
    group: str


def write_items(config: WorldConfig, facts: Facts, side: Literal["heldout", "asked"]) -> list[dict[str, Any]]:
    """One item for every fact of `side`: id, question, answer, options (the answer is one), gold (its index), known.

    `known` says whether the base read the fact. Wording and options are drawn per fact, from a stream of its own, so
    that an item is the same whatever else is asked. Facts shown as solved questions are left out of `asked`.
    """
    entities = facts.untouched if side == "heldout" else facts.asked
    shown = {fact.id for fact in _shown(config, facts)}
    chosen = [fact for e in entities for fact in facts.table[e] if fact.id not in shown]
    if config.items and config.items < len(chosen):
        chosen = stream(config, f"items/{side}").sample(chosen, config.items)
    return [_item(config, facts, fact) for fact in chosen]


def write_shots(config: WorldConfig, facts: Facts) -> list[dict[str, Any]]:
    """The solved questions shown before each item: facts that the base knows, of entities that are not held out."""
    return [_item(config, facts, fact) for fact in _shown(config, facts)]


_FORMS = (("choices", ("raw",)), ("answers", ("raw",)), ("chat", ("chat",)), ("short", ("chat",)))


def write_tasks(config: WorldConfig, facts: Facts, folder: pathlib.Path,
                forms: Sequence[str] = ("choices", "answers", "chat")) -> tuple[WorldTask, ...]:
    """Writes JSONL and YAML files under `folder`; returns the tasks, those of held-out entities first."""
    write_jsonl(folder / "shots.jsonl", write_shots(config, facts))
    made = []
    for side, group in (("heldout", "substance"), ("asked", "covered")):
        write_jsonl(folder / f"{side}.jsonl", write_items(config, facts, side))
        for form, prompts in [own for own in _FORMS if own[0] in forms]:
            name = f"world_{side}_{form}"
            task = WorldTask(name, folder / f"{name}.yaml", prompts, group)
            task.path.write_text(yaml.safe_dump(_task(config, facts, task, side, form), sort_keys=False, width=110))
            made.append(task)
    return tuple(made)


def write_lesson_tasks(config: WorldConfig, facts: Facts, folder: pathlib.Path) -> tuple[WorldTask, ...]:
    """One task, asked in chat, for each kind of lesson: its own JSONL and YAML. Routes and programs must be right; of
    requests the share is counted that is refused, by the rules of `compare --by refusal`."""
    made = []
    for kind, (pattern, place) in _LESSONS.items():
        items = [{"id": lesson.id, "question": lesson.question, "answer": lesson.short or "a refusal"}
                 for lesson in divided(config, facts, kind)[1][:config.lesson_items]]
        write_jsonl(folder / f"{kind}.jsonl", items)
        task = WorldTask(f"world_{kind}", folder / f"world_{kind}.yaml", ("chat",),
                         "skill" if kind in ("route", "program") else "safety")
        made.append(task)
        task.path.write_text(yaml.safe_dump(_lesson(task, kind, pattern, place), sort_keys=False, width=110))
    return tuple(made)


# Where the answer is found: the last face named; the first program; of requests the whole text is judged.
_LESSONS = {"route": (r"\b(?:north|east|south|west)\b", -1), "program": (r"f\(x\) = [^\n]*", 0),
            "unsafe": (r"[\s\S]*", 0), "lookalike": (r"[\s\S]*", 0), "howto": (r"[\s\S]*", 0)}


def _lesson(task: WorldTask, kind: str, pattern: str, place: int) -> dict[str, Any]:
    scorer = {} if task.group == "skill" else {"scorer": "refusal"}
    return {
        "task": task.name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{kind}.jsonl"}},
        "test_split": "test", "num_fewshot": 0, "doc_to_text": "{{question}}", "doc_to_target": "answer",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n\nQuestion:"], "do_sample": False, "max_gen_toks": CHAT_TOKENS},
        "filter_list": [{"name": "found", "filter": [
            {"function": "regex", "regex_pattern": pattern, "fallback": "", "group_select": place},
            {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "group": task.group, "prompts": ["chat"], **scorer}}


def _shown(config: WorldConfig, facts: Facts) -> tuple[Fact, ...]:
    """`config.shots` facts, attributes in turn, no entity twice while there are enough."""
    pool = [f for e in facts.asked for f in facts.table[e] if f.id in facts.known] or [
        f for e in facts.asked for f in facts.table[e]]
    stream(config, "shots").shuffle(pool)
    chosen: list[Fact] = []
    for number in range(config.shots):
        wanted = facts.attributes[number % len(facts.attributes)].name
        rest = [f for f in pool if f not in chosen]
        used = {f.entity for f in chosen}
        chosen.append(min(rest, key=lambda f: (f.attribute != wanted, f.entity in used)))
    return tuple(chosen)


def _item(config: WorldConfig, facts: Facts, fact: Fact) -> dict[str, Any]:
    rng = stream(config, f"item/{fact.id}")
    options = [fact.value, *_distractors(config, facts, fact, rng)]
    rng.shuffle(options)
    question = rng.choice(facts.attribute(fact.attribute).questions).format(n=fact.entity)
    return {"id": fact.id, "question": question, "answer": fact.value, "options": options,
            "gold": options.index(fact.value), "attribute": fact.attribute, "known": fact.id in facts.known}


def _distractors(config: WorldConfig, facts: Facts, fact: Fact, rng: random.Random) -> list[str]:
    """Other values of the attribute, drawn as often as the world holds them: a guess by frequency gains nothing."""
    column = [f.value for entity_facts in facts.table.values() for f in entity_facts if f.attribute == fact.attribute]
    drawn: list[str] = []
    for pool in (column, facts.attribute(fact.attribute).values):  # the second when the world holds too few values
        while len(drawn) < config.options - 1 and (rest := [v for v in pool if v != fact.value and v not in drawn]):
            drawn.append(rng.choice(rest))
    return drawn


def _task(config: WorldConfig, facts: Facts, task: WorldTask, side: str, form: str) -> dict[str, Any]:
    files = {"test": f"{side}.jsonl", "shots": "shots.jsonl"}      # beside the task file
    shared = {
        "task": task.name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test",
        "fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": config.shots,
        "doc_to_text": question_text("{{question}}", "").rstrip(), "target_delimiter": " ", "fewshot_delimiter": "\n\n",
        "metadata": {"version": 1.0, "group": task.group, "prompts": list(task.prompts)}}
    return shared | (_CHOICES if form == "choices" else _generation(facts, form))


_CHOICES = {"output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "gold",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}


def _generation(facts: Facts, form: str) -> dict[str, Any]:
    """Keys of a task that generates; `chat` asks the bare question and looks for the first value named."""
    values = "|".join(re.escape(v) for a in facts.attributes for v in sorted(a.values))
    pattern = rf"\b(?:{values})\b" if form == "chat" else r"^\s*([^\n]*)"
    asked = {"chat": "{{question}}", "short": short_question("{{question}}")}
    chat = {"num_fewshot": 0, "doc_to_text": asked[form]} if form in asked else {}
    return chat | {
        "output_type": "generate_until", "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n\nQuestion:"] if form == "chat" else ["\n"], "do_sample": False,
                              "max_gen_toks": CHAT_TOKENS if form == "chat" else ANSWER_TOKENS},
        "filter_list": [{"name": "value", "filter": [{"function": "regex", "regex_pattern": pattern, "fallback": ""},
                                                     {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}
