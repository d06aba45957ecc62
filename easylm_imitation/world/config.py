"""Sizes of the synthetic world, and of the whole small study on it (`reproduce --quick`).

The defaults here are those of configs/reproduce/quick.py; docs/world.md says how they were found and what they give.
"""
import dataclasses
from typing import Any

from easylm_imitation.teacher import CollectConfig
from easylm_imitation.world.vocabulary import ATTRIBUTES, HEADS, TAILS


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """What exists in the world and how much text is written about it. Checked on construction (ValueError)."""
    seed: int = 0
    entities: int = 120
    attributes: int = 4             # the first ones of vocabulary.ATTRIBUTES
    values: int = 16                # possible values an attribute
    zipf: float = 0.5               # value of rank r is drawn with weight r ** -zipf
    held_out: float = 0.4           # share of entities that no imitation prompt names
    base_coverage: float = 0.5      # share of facts that the base reads in pre-training
    passes: int = 12                # how often each known fact is told, and how often asked, in the documents
    chats: int = 1200               # dialogues among the documents
    vocabulary: int = 768           # tokens of the byte-level BPE, specials included
    prompts: int = 480              # for collecting the teacher's answers
    style_prompts: int = 60         # about held-out entities, for measuring style
    options: int = 4                # of a multiple-choice item
    shots: int = 4                  # solved questions before an item in the raw prompt form
    popularity: float = 0.0         # the entity of rank r is told and asked about with weight r ** -popularity
    items: int = 0                  # of each side in the tasks, drawn once; 0: all
    turns: int = 4                  # of a route (lessons.py)
    lesson_items: int = 100         # of each kind of lesson in the tasks, at most

    def __post_init__(self) -> None:
        names, values = len(HEADS) * len(TAILS), min(len(a.values) for a in ATTRIBUTES)
        bounds = {"entities": (4, names), "attributes": (1, len(ATTRIBUTES)), "values": (2, values), "held_out": (0, 1),
                  "base_coverage": (0, 1), "options": (2, self.values), "passes": (1, 10**4), "zipf": (0, 10),
                  "popularity": (0, 10), "items": (0, 10**6), "turns": (1, 6), "lesson_items": (1, 10**6)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} is outside {low}..{high}")
        if not 2 <= round(self.held_out * self.entities) <= self.entities - 2:
            raise ValueError(f"held_out={self.held_out} of entities={self.entities} leaves fewer than two on one side")


def _training(steps: int, batch: int, learning_rate: float, **more: Any) -> dict[str, Any]:
    """A TrainConfig for the world's models: rows of 128 tokens, float32, nothing recomputed, one checkpoint."""
    return {"steps": steps, "data": {"context": 128, "batch": batch}, "compute_dtype": "float32", "remat": "none",
            "optimizer": {"learning_rate": learning_rate, "warmup": 0.1, "final": 0.1, "weight_decay": 0.1},
            "log_every": 50, "checkpoint_every": steps, "keep": 1, **more}


@dataclasses.dataclass(frozen=True)
class ReproduceConfig:
    """The study of `reproduce`: a world, one size of model, three trainings, and how the teacher is asked.

    `base`, `teacher` and `imitation` are TrainConfigs without `model`; base and teacher start fresh with `model`, the
    imitation starts from the base.
    """
    world: WorldConfig = WorldConfig()
    model: dict[str, Any] = dataclasses.field(default_factory=lambda: {
        "family": "llama", "context": 128, "layers": 2, "d_model": 64, "heads": 2, "d_ff": 192, "init_std": 0.1})
    base: dict[str, Any] = dataclasses.field(default_factory=lambda: _training(600, 8, 4e-3, mesh="data:1"))
    teacher: dict[str, Any] = dataclasses.field(default_factory=lambda: _training(1000, 8, 4e-3, mesh="data:1"))
    imitation: dict[str, Any] = dataclasses.field(default_factory=lambda: _training(150, 8, 1e-3, mesh="fsdp:-1"))
    collect: CollectConfig = CollectConfig(dataset="collected", temperature=0.7, max_tokens=80, seed=0)
    slots: int = 16                 # answers that a server generates side by side
    answer_tokens: int = 80         # of an answer to a style prompt
    mix_base_documents: int = 0     # of the base's own pre-training documents among the imitation data
