"""`make_world(config)`: the synthetic world and every text made from it. Pure Python, the same for the same config.

    world = make_world(WorldConfig(seed=0))
    world.write("WORLD")    # base, teacher, prompts, style_prompts (.jsonl), tasks/*.yaml and tasks/*.jsonl, world.json
"""
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from easylm_imitation.files import write_json, write_jsonl
from easylm_imitation.records import Conversation, Prompt
from easylm_imitation.world.config import WorldConfig
from easylm_imitation.world.documents import write_documents
from easylm_imitation.world.facts import Facts, make_facts
from easylm_imitation.world.prompts import write_prompts
from easylm_imitation.world.tasks import WorldTask, write_tasks


@dataclasses.dataclass(frozen=True)
class World:
    """Facts, and the texts, prompts and tasks that follow from them. Make it with `make_world`."""
    config: WorldConfig
    facts: Facts

    def base_documents(self) -> list[Conversation]:
        """Pre-training text of the base: the facts that it has read, dialogues in the plain style."""
        return write_documents(self.config, self.facts, self.facts.base_table(), "base", strong=False)

    def teacher_documents(self) -> list[Conversation]:
        """Pre-training text of the teacher: all facts, dialogues in its own style."""
        return write_documents(self.config, self.facts, self.facts.table, "teacher", strong=True)

    def collection_prompts(self) -> list[Prompt]:
        """What the teacher is asked for imitation data; no held-out entity is named."""
        return write_prompts(self.config, self.facts, self.facts.asked, self.config.prompts, "collect")

    def style_prompts(self) -> list[Prompt]:
        """Prompts about held-out entities, on which the models' styles are compared."""
        return write_prompts(self.config, self.facts, self.facts.untouched, self.config.style_prompts, "style")

    def write_tasks(self, folder: str | os.PathLike) -> tuple[WorldTask, ...]:
        """Writes the evaluation tasks (see world/tasks.py) under `folder`."""
        return write_tasks(self.config, self.facts, pathlib.Path(folder))

    def tokenizer_texts(self) -> Iterator[str]:
        """Texts to train the tokenizer on: both corpora, so that every name and value is met, each about as often."""
        for conversation in [*self.base_documents(), *self.teacher_documents()]:
            yield "\n".join(message.content for message in conversation.messages)

    def write(self, folder: str | os.PathLike) -> tuple[WorldTask, ...]:
        """Writes everything that a pipeline reads from files (names in the module's docstring); returns the tasks."""
        folder = pathlib.Path(folder)
        write_jsonl(folder / "base.jsonl", self.base_documents())
        write_jsonl(folder / "teacher.jsonl", self.teacher_documents())
        write_jsonl(folder / "prompts.jsonl", self.collection_prompts())
        self.write_truth(folder, {"known": sorted(self.facts.known)})
        return self.write_tasks(folder / "tasks")

    def write_truth(self, folder: pathlib.Path, more: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Writes the style prompts, and a file of the config, all facts, who is held out, and `more`."""
        write_jsonl(folder / "style_prompts.jsonl", self.style_prompts())
        write_json(folder / "world.json", {
            "config": self.config, "facts": [fact for row in self.facts.table.values() for fact in row],
            "held_out": sorted(self.facts.held_out), **more})


def make_world(config: WorldConfig) -> World:
    """The world of `config`."""
    return World(config, make_facts(config))
