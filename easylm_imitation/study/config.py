"""What `study` takes: the axes of a grid, and how each cell is built, trained and measured."""
import dataclasses
import re
import shlex
from typing import Any, Literal

from easylm_imitation.data.config import tokens_of
from easylm_imitation.plan import find_pod

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Imitation data: a config of `build`, with some of its leaves set. Tokenizer and budget are the study's to set."""
    config: str
    set: dict[str, Any] = dataclasses.field(default_factory=dict)     # {"root": "data/public", "sources.0.limit": 500}
    inside: tuple[str, ...] = ()    # tasks that ask for what it teaches, as in `report --inside`
    train: dict[str, Any] = dataclasses.field(default_factory=dict)   # leaves of the config of `train`, for its cells
    budgets: tuple[str | int | None, ...] | None = None     # its own, instead of the study's


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What a cell does otherwise: leaves of the config of `train`, and of `build`."""
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    build: dict[str, Any] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()     # of `train`: ("--mix", "DATA"), ("--teacher", "RUN")


@dataclasses.dataclass(frozen=True)
class Measure:
    """How every model of the study is measured: the flags of `evaluate`."""
    suite: str = ""
    tasks: str = ""                 # names and task files, separated by commas
    task_data: str | None = None
    prompt: Literal["auto", "raw", "chat", "both"] = "auto"     # auto: both of imitations, raw of bases
    limit: int | None = None
    style_prompts: str | None = None    # a prompts file; every model's answers to it are held against the teacher's
    style_reference: str | None = None  # the teacher's recorded answers to them, where no teacher is there to answer
    set: dict[str, Any] = dataclasses.field(default_factory=dict)     # leaves of the config of `evaluate`
    look_for: bool = True           # `build` looks for the items of the tasks in the data: contamination is told


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A grid of imitations: `data` x `budgets` x `bases` x `seeds`, and `ablations` of the first of its cells."""
    name: str
    data: dict[str, Dataset]
    bases: dict[str, str]           # name -> a run dir or Hugging Face dir
    train: str                      # a config of `train`
    measure: Measure
    teacher: str = ""               # an address, run dir or Hugging Face dir; or published:NAME (scores alone)
    set: dict[str, Any] = dataclasses.field(default_factory=dict)     # leaves of the config of `train`
    set_by_base: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)   # more of them, for a base
    budgets: tuple[str | int | None, ...] = (None,)     # tokens of the data, "20M"; nested; None: all there are
    seeds: tuple[int, ...] = (0,)
    ablations: dict[str, Ablation] = dataclasses.field(default_factory=dict)
    vary: Literal["grid", "one"] = "grid"   # "one": the cells that differ from the first in one axis only
    cells: tuple[str, ...] = ()     # patterns of BASE-DATA-BUDGET; of the grid, only cells that one of them fits
    more_seeds: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # pattern -> seeds besides `seeds`
    topology: str = ""              # where it is to train, as in `plan`: hours and dollars before anything is done
    dollars: float | None = None    # an hour of the machine; None: the list price of the topology's chips, if any
    launch: dict[str, str] = dataclasses.field(default_factory=dict)    # verb -> what its command is handed to

    def budgets_of(self, data: str) -> tuple[str | int | None, ...]:
        """The budgets of one dataset: its own, or the study's."""
        return self.data[data].budgets or self.budgets

    @property
    def dollars_an_hour(self) -> float | None:
        """What the machine costs; None when nobody says."""
        if self.dollars is not None or not self.topology:
            return self.dollars
        pod = find_pod(self.topology)
        return pod.chips * pod.chip.dollars

    def __post_init__(self) -> None:
        own = {f"data.{name}.budgets": d.budgets for name, d in self.data.items() if d.budgets is not None}
        axes = {"data": self.data, "bases": self.bases, "budgets": self.budgets, "seeds": self.seeds, **own}
        for axis, values in axes.items():
            if not values:
                raise ValueError(f"{axis} is empty; a grid needs one at least")
            if len(set(map(str, values))) < len(values):
                raise ValueError(f"{axis} names a value twice")
        for name in (*self.data, *self.bases, *self.ablations):
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' becomes part of file names: letters, digits, dots and underscores only")
        for budget in (*self.budgets, *(budget for budgets in own.values() for budget in budgets)):
            if budget is not None:
                tokens_of(budget)
        if unknown := set(self.set_by_base) - set(self.bases):
            raise ValueError(f"set_by_base names {sorted(unknown)}, which is no base")
        if unknown := set(self.launch) - {"build", "train", "evaluate"}:
            raise ValueError(f"launch names {sorted(unknown)}; it is for build, train and evaluate")
        for prefix in self.launch.values():
            shlex.split(prefix)
        if not (self.measure.suite or self.measure.tasks or self.measure.style_prompts):
            raise ValueError("measure says nothing to measure: suite, tasks or style_prompts")
        answers, asked = self.teacher and not self.teacher.startswith("published:"), self.measure
        if asked.style_prompts and not answers and not asked.style_reference:
            raise ValueError("measure.style_prompts needs a teacher that answers, or its recorded answers in "
                             "measure.style_reference")
        if asked.style_reference and (answers or not asked.style_prompts):
            raise ValueError("measure.style_reference is for style_prompts that no teacher answers")
