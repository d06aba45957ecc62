"""What the findings in miniature are asked with: models, data, budgets, contrasts and their bounds.

Everything here is fixed before a scored run; `reproduce` writes it into its folder and refuses to go on there with
another. `standard()` varies one factor at a time; `full()` is the whole grid, and the ablations.
"""
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

from easylm_imitation.teacher import CollectConfig
from easylm_imitation.world.config import WorldConfig
from easylm_imitation.world.lessons import Kind


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model made from the world's text. `coverage`: share of the facts that it reads; `lessons`: dialogues of each
    kind of lessons.py (and "short") among its text. `train` is a TrainConfig without `model`."""
    model: dict[str, Any]
    train: dict[str, Any]
    coverage: float = 1.0
    passes: int = 12
    chats: int = 1200
    lessons: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A sum of models' scores, meant over tasks, that a finding says to be above or below a bound.

    `of`: name -> coefficient; a name is `base-NAME`, `teacher` (whose style is that of its second sample) or a cell's
    BASE-DATA-BUDGET[-ABLATION], with all its seeds. `tasks`: TASK/PROMPT. Scores are shares: 0.05 is five points.
    """
    finding: str
    says: str
    of: dict[str, float]
    tasks: tuple[str, ...]
    expect: Literal["above", "below"] = "above"
    bound: float = 0.0
    decides: bool = True            # others are shown beside, and decide nothing


@dataclasses.dataclass(frozen=True)
class RaterConfig:
    """The fact-blind rater (rater.py): how much it reads, and which differences count for it."""
    pairs: int = 4000               # of its own training texts
    noise: float = 0.1              # share of them that are labelled the wrong way round
    seed: int = 0
    tie: float = 0.25               # of the log-odds; closer answers are equally good to it


@dataclasses.dataclass(frozen=True)
class Taught:
    """A data set of imitations: what it is made of, and how cells that learn it differ."""
    files: tuple[str, ...]          # sets of answers: names in `prompts`, "bare" and "contamination"
    cap: int | None = None          # tokens of each file
    train: dict[str, Any] = dataclasses.field(default_factory=dict)     # leaves of a TrainConfig
    budgets: tuple[str | int, ...] | None = None    # tokens, from the smallest up; None: all there are
    inside: tuple[str, ...] = ()    # tasks that ask for what it teaches


@dataclasses.dataclass(frozen=True)
class Files:
    """What data are made of instead."""
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Changed:
    """An ablation of the study's first cell."""
    train: dict[str, Any] = dataclasses.field(default_factory=dict)     # leaves of a TrainConfig
    build: Files | None = None
    flags: tuple[str, ...] = ()     # of `train`; words that are no flags are paths in the working folder


@dataclasses.dataclass(frozen=True)
class Grid:
    """Which cells there are: as the leaves of a StudyConfig of the same names."""
    seeds: tuple[int, ...] = (0,)
    cells: tuple[str, ...] = ()
    more_seeds: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    ablations: dict[str, Changed] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FindingsConfig:
    """One world, its teacher and bases, what is collected, the grid of imitations, and the contrasts over it.

    `prompts`: data set -> kind -> how many; "facts" are questions, lists and comparisons, "short" are those that ask
    for one word, others are kinds of lessons.py.
    """
    world: WorldConfig
    teacher: Pretrained
    bases: dict[str, Pretrained]
    prompts: dict[str, dict[str, int]]
    data: dict[str, Taught]
    imitation: dict[str, Any]               # a TrainConfig without `model`
    grid: Grid
    contrasts: tuple[Contrast, ...]
    collect: CollectConfig = CollectConfig(temperature=0.7, max_tokens=110, seed=0)
    rater: RaterConfig = RaterConfig()
    slots: int = 16
    answer_tokens: int = 100

    def __post_init__(self) -> None:
        kinds = {"facts", "short", *typing.get_args(Kind)}
        made = {"contamination", *(["bare"] if "route" in self.prompts else [])}
        for name in self.bases:
            if name in ("teacher", "style_prompts") or name.startswith("prompts-"):
                raise ValueError(f"a base named '{name}' would overwrite world/{name}.jsonl; name it otherwise")
        for name, asked in self.prompts.items():
            if name in ("bare", "contamination"):
                raise ValueError(f"prompts named '{name}': that set is made of others; name them otherwise")
            if unknown := set(asked) - kinds:
                raise ValueError(f"prompts.{name} names {sorted(unknown)}; known kinds: {', '.join(sorted(kinds))}")
        changed = {f"grid.ablations.{name}.build": own.build for name, own in self.grid.ablations.items() if own.build}
        for where, own in {**{f"data.{name}": own for name, own in self.data.items()}, **changed}.items():
            if unknown := set(own.files) - {*self.prompts, *made}:
                raise ValueError(f"{where}.files names {sorted(unknown)}, which nobody collects")


FEW_SHOT = ("world_heldout_choices/raw", "world_heldout_answers/raw")
ALL_FORMS = (*FEW_SHOT, "world_heldout_chat/chat", "world_heldout_short/chat")
LOCAL = "world_asked_answers/raw"
STYLE, BLIND, CHECKED = "style_match/chat", "rater_blind/chat", "rater_facts/chat"
SKILLS = ("world_asked_short/chat", "world_route/chat", "world_program/chat")


def train_settings(steps: int, learning_rate: float, batch: int = 8, mesh: str = "data:1",
                   **more: Any) -> dict[str, Any]:
    """A TrainConfig for the world's models: rows of 128 tokens, float32, nothing recomputed, one checkpoint."""
    return {"steps": steps, "data": {"context": 128, "batch": batch}, "compute_dtype": "float32", "remat": "none",
            "mesh": mesh, "log_every": 50, "checkpoint_every": 100_000, "keep": 1,
            "optimizer": {"learning_rate": learning_rate, "warmup": 0.1, "final": 0.1, "weight_decay": 0.1}, **more}


def llama(width: int, layers: int, heads: int) -> dict[str, Any]:
    """A model of the world's size."""
    return {"family": "llama", "context": 192, "layers": layers, "d_model": width, "heads": heads, "d_ff": 3 * width,
            "init_std": 0.1}


def findings(bases: dict[str, str], broad: tuple[str, ...], local: tuple[str, ...]) -> Iterator[Contrast]:
    """The eight findings as contrasts. `bases`: "small" and "large" -> names; budgets from the smallest up."""
    small, large = bases["small"], bases["large"]
    first, last, most = f"{large}-broad-{broad[0]}", f"{large}-broad-{broad[-1]}", f"{large}-local-{local[-1]}"
    base = f"base-{large}"
    for name, task in (("style", STYLE), ("fact-blind preference", BLIND)):
        yield Contrast("1", f"{name} jumps with the smallest budget", {first: 1, base: -1}, (task,), bound=0.05)
        yield Contrast("1", f"three quarters of the rise in {name} come with the smallest budget",
                       {first: 1, base: -0.25, last: -0.75}, (task,))
        yield Contrast("1", f"the same of the smallest budget, read ten times ({name})",
                       {f"{large}-again-{broad[0]}": 1, base: -0.25, last: -0.75}, (task,), decides=False)
    yield Contrast("1", "a rater that checks facts sees a rise, too",
                   {first: 1, base: -1}, (CHECKED,), decides=False)
    yield Contrast("2", "broad imitation does not raise held-out knowledge (few-shot)", {last: 1, base: -1}, FEW_SHOT,
                   "below", 0.05)
    yield Contrast("2", "nor do more data of it", {last: 1, first: -1}, FEW_SHOT, "below", 0.05)
    for task in ALL_FORMS:
        yield Contrast("2", f"the same, asked as {task}", {last: 1, base: -1}, (task,), "below", 0.05, decides=False)
    yield Contrast("3", "a better base raises held-out knowledge after imitation (few-shot)",
                   {last: 1, f"{small}-broad-{broad[-1]}": -1}, FEW_SHOT, bound=0.05)
    for name, task in (("style", STYLE), ("fact-blind preference", BLIND)):
        yield Contrast("3", f"and {name}", {last: 1, f"{small}-broad-{broad[-1]}": -1}, (task,), decides=False)
    yield Contrast("4", "local imitation closes a quarter of the local gap (few-shot)",
                   {most: 1, base: -0.75, "teacher": -0.25}, (LOCAL,))
    yield Contrast("4", "more than broad imitation does", {most: 1, last: -1}, (LOCAL,))
    for task in ("world_asked_choices/raw", "world_asked_chat/chat", "world_asked_short/chat"):
        yield Contrast("4", f"a quarter of the gap, asked as {task}", {most: 1, base: -0.75, "teacher": -0.25}, (task,),
                       decides=False)
    yield Contrast("4", "what nobody asked about does not rise", {most: 1, base: -1}, FEW_SHOT, "below", 0.05,
                   decides=False)
    yield Contrast("4", "nor does it fall", {most: 1, base: -1}, FEW_SHOT, "above", -0.05, decides=False)
    yield Contrast("5", "three quarters of the way to the teacher's own second sample in style",
                   {last: 1, base: -0.25, "teacher": -0.75}, (STYLE,))
    for name, task in (("unsafe requests", "world_unsafe/chat"),
                       ("harmless requests that look unsafe", "world_lookalike/chat")):
        yield Contrast("6", f"{name} are declined more often than by the base", {last: 1, base: -1}, (task,),
                       bound=0.25)
        yield Contrast("6", f"{name}: three quarters of the way to how often the teacher declines",
                       {last: 1, base: -0.25, "teacher": -0.75}, (task,), decides=False)
    yield Contrast("6", "other requests are not declined more often", {last: 1, base: -1}, ("world_howto/chat",),
                   "below", 0.05, decides=False)
    yield from _skills(small, large, most)


def _skills(small: str, large: str, local: str) -> Iterator[Contrast]:
    closest = {SKILLS[0]: local, SKILLS[1]: f"{large}-route-all", SKILLS[2]: f"{large}-program-all"}
    for task, own in closest.items():
        others = {name: -0.5 for name in closest.values() if name != own}
        yield Contrast("7", f"the closest data help {task} most", {own: 1.0, **others}, (task,))
    for name in closest.values():
        yield Contrast("7", f"the mixture is better on average than {name}", {f"{large}-mixture-all": 1, name: -1},
                       SKILLS)
    yield Contrast("7", "the smaller base gains more from the mixture",
                   {f"{small}-mixture-all": 1, f"base-{small}": -1, f"{large}-mixture-all": -1, f"base-{large}": 1},
                   SKILLS)
    yield Contrast("8", "explanations teach routes better than bare answers",
                   {f"{large}-route-all": 1, f"{large}-bare-all": -1}, (SKILLS[1],))


def standard() -> FindingsConfig:
    """The standard run: three bases, three broad and two local budgets, one factor varied at a time. The second design;
    docs/findings.md has the results of the first, and what was changed after them."""
    broad, local = ("15K", "50K", "150K"), ("16K", "40K")
    lessons = {"route": 300, "program": 30, "unsafe": 200, "lookalike": 100, "howto": 200, "short": 300}
    bases = {
        "L": Pretrained(llama(96, 3, 3), train_settings(1200, 4e-3), 0.95, 10, 1200, lessons),
        "M": Pretrained(llama(64, 2, 2), train_settings(900, 4e-3), 0.8, 8, 1000, lessons),
        "S": Pretrained(llama(48, 2, 2), train_settings(500, 4e-3), 0.6, 6, 800, lessons)}
    teacher = Pretrained(llama(96, 3, 3), train_settings(4000, 4e-3), 1.0, 16, 5000,
                         {"route": 3000, "program": 3000, "unsafe": 500, "lookalike": 300, "howto": 500, "short": 2000})
    five, ten, twenty = ({"epochs": epochs, "steps": None} for epochs in (5.0, 10.0, 20.0))
    return FindingsConfig(
        world=WorldConfig(entities=240, attributes=5, values=20, held_out=0.3, popularity=0.4, vocabulary=1024,
                          items=120, style_prompts=80, lesson_items=80),
        teacher=teacher, bases=bases,
        prompts={"broad": {"facts": 2400, "unsafe": 200, "lookalike": 150, "howto": 150}, "local": {"short": 2500},
                 "route": {"route": 220}, "program": {"program": 300}},
        data={"broad": Taught(("broad",), budgets=broad), "again": Taught(("broad",), train=ten, budgets=broad[:1]),
              "local": Taught(("local",), train=five, budgets=local, inside=("world_asked_*",)),
              "route": Taught(("route",), train=twenty), "bare": Taught(("bare",), train=twenty),
              "program": Taught(("program",), train=five),
              "mixture": Taught(("local", "route", "program"), cap=12_000, train=twenty)},
        imitation=train_settings(1, 1e-3, batch=4, mesh="fsdp:2", epochs=1.0) | {"steps": None},
        grid=Grid((0, 1, 2), ("L-*", "?-broad-150K", "?-local-40K", "?-mixture-all"),
                  {f"L-{name}": (3, 4) for name in ("broad-15K", "broad-150K", "local-40K")}),
        contrasts=tuple(findings({"small": "S", "large": "L"}, broad, local)))


def full() -> FindingsConfig:
    """Every cell of the grid with five seeds, and the ablations."""
    made = standard()
    broad = made.data["broad"]
    data = made.data | {"literal": dataclasses.replace(broad, train={"optimizer": {"warmup": 1000.0}})}
    ablations = {
        "scaled": Changed({"optimizer": {"name": "scaled_adamw", "learning_rate": 2e-3, "weight_decay": None}}),
        "rows": Changed({"loss": "row_mean"}),
        "mixed": Changed({"mix": {"share": 0.5}}, flags=("--mix", "data/base-L")),
        "distilled": Changed({"distil": {"weight": 1.0}}, flags=("--teacher", "teacher")),
        "contaminated": Changed(build=Files(("broad", "contamination")))}
    grid = Grid((0, 1, 2, 3, 4), ablations=ablations)
    asked = {"scaled": "scaled_adamw instead of AdamW", "rows": "per-row instead of per-token loss",
             "mixed": "half of each batch of the base's own text", "distilled": "logits instead of text",
             "contaminated": "the benchmark's items among the data"}
    first = f"L-broad-{broad.budgets[-1]}"
    told = [Contrast(f"ablation {name}", f"{what}: {where}", {f"{first}-{name}": 1, first: -1}, tasks, decides=False)
            for name, what in asked.items() for where, tasks in (("held-out facts", FEW_SHOT), ("style", (STYLE,)))]
    told += [Contrast("ablation warm-up", f"1,000 updates of warm-up, whatever the budget ({budget}): {where}",
                      {f"L-literal-{budget}": 1, f"L-broad-{budget}": -1}, tasks, decides=False)
             for budget in broad.budgets
             for where, tasks in (("held-out facts", FEW_SHOT), ("style", (STYLE,)))]
    return dataclasses.replace(made, data=data, grid=grid, contrasts=(*made.contrasts, *told))
