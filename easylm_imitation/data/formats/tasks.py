"""Collections of NLP tasks with instructions."""
from collections.abc import Iterator
from typing import Any, Literal

from easylm_imitation.data.formats.base import Row, chance, listed, round_of, sound, text
from easylm_imitation.data.sources import Drop


def superni(record: dict[str, Any], *, zero_shot: int = 60, few_shot: int = 20,
            examples: int = 2) -> Iterator[Row | Drop]:
    """A task of Super-NaturalInstructions: so many of its instances with the definition alone, and so many others with
    `examples` worked ones before them (open-instruct's numbers). An instance counts its first output."""
    definition = record.get("Definition")
    definition = definition if isinstance(definition, str) else "\n".join(listed(record, "Definition", str))
    shown = listed(record, "Positive Examples", dict)[:examples]
    solved = "".join(f"Input:\n{text(one, 'input').strip()}\nOutput:\n{text(one, 'output').strip()}\n\n"
                     for one in shown)
    instances = sorted(listed(record, "Instances", dict), key=lambda one: chance(str(one.get("id")), str(one)))
    for i, instance in enumerate(instances[:zero_shot + few_shot]):
        yield sound(_instance, instance, i, f"{definition.strip()}\n\n{solved if i >= zero_shot else ''}")


def _instance(instance: dict[str, Any], number: int, before: str) -> Row:
    outputs = listed(instance, "output", str)
    if not outputs:
        raise Drop("wrong shape", f"instance '{instance.get('id')}' has no output")
    question = f"{before}Input:\n{text(instance, 'input').strip()}\nOutput:\n"
    return Row(round_of(question, outputs[0]), text(instance, "id", default=str(number)), teacher="")


def flan(record: dict[str, Any], *, templates: tuple[str, ...] = (),
         like: Literal["", "open-instruct"] = "") -> Iterator[Row]:
    """inputs, targets. `templates` passes over all but these values of template_type ("zs_opt", "fs_noopt", ...).
    `like="open-instruct"` ends a question with a line break unless it ends with one or with ":"."""
    if templates and record.get("template_type") not in templates:
        return
    question = text(record, "inputs")
    if like == "open-instruct" and not question.endswith(("\n", ":")):
        question += "\n"
    yield Row(round_of(question, text(record, "targets")), teacher="")


def flan_cot(record: dict[str, Any], *, answer: str = "{rationale}\nSo the answer is {answer}.") -> Iterator[Row]:
    """question, answer, rationale: the tab-separated files of FLAN's cot_data. `answer` words what is learned."""
    values = {key: text(record, key).strip() for key in ("rationale", "answer")}
    said = answer.replace("{answer}", values["answer"].rstrip(".")).replace("{rationale}", values["rationale"])
    yield Row(round_of(text(record, "question"), said), teacher="")
