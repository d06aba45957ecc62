"""What will be asked, known before anything is: which task in which prompt form, and whether that makes sense."""
from collections.abc import Sequence
from typing import Literal

from easylm_imitation.evaluate.endpoint import Endpoint
from easylm_imitation.evaluate.tasks import Task, refuse_repeated
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError

Prompt = Literal["raw", "chat"]
Prompts = Literal["auto", "raw", "chat", "both"]


def planned(tasks: Sequence[Task], prompt: Prompts = "raw", limit: int | None = None) -> list[tuple[Prompt, Task]]:
    """(prompt form, task) in the order in which they are asked; "auto", known only from the model, counts as "both".

    Raises UserError for a limit below 1, a task that comes twice, and tasks none of which makes sense in that form.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: it must be at least 1")
    refuse_repeated(tasks)
    forms: tuple[Prompt, ...] = ("raw", "chat") if prompt in ("both", "auto") else (prompt,)
    plan = [(form, task) for form in forms for task in tasks if form in task.prompts]
    if not plan:
        names = ", ".join(dict.fromkeys(task.whole or task.name for task in tasks))
        raise UserError(f"none of {names} makes sense with --prompt {prompt}; see `prompts` in their files")
    return plan


def suited(endpoint: Endpoint) -> Literal["raw", "chat", "both"]:
    """The prompt forms that a model is measured in unless it is said: both for one that was finetuned (the form can
    flip a finding), raw for a base model, chat for an address that offers no tokenizer."""
    if endpoint.tokenizer is None:
        return "chat"
    return "both" if is_finetuned(endpoint.lineage) and endpoint.tokenizer.get("chat_template") else "raw"


def is_finetuned(lineage: Lineage) -> bool:
    """Whether the lineage says so: it had teachers, or it is not its own base."""
    return bool(lineage.teachers) or lineage.base not in ("", lineage.id)
