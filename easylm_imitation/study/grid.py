"""A study as stages: the commands that make each dataset, run and results file, in an order that works.

    WORK/study.json                 the config
    WORK/data/DATA-BUDGET-TOKENIZER what cells share, built once
    WORK/runs/CELL                  a run dir of each cell
    WORK/results/NAME.json          what `evaluate` says of cells, bases and teacher
    WORK/answers/NAME.jsonl         their answers to the style prompts; reference.jsonl: the teacher's first
    WORK/done/STAGE.json            the command of a finished stage, and how long it took
    WORK/verdict/                   the report

A stage is one command of this package, which a person can type. Nothing is run here.
"""
import dataclasses
import fnmatch
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from easylm_imitation.config import load
from easylm_imitation.data import BuildConfig, read_card
from easylm_imitation.data.config import tokens_of
from easylm_imitation.files import digest, file_sha256
from easylm_imitation.models import ModelConfig
from easylm_imitation.plan import find_pod, plan
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, nearest, plain
from easylm_imitation.study.config import Ablation, Dataset, StudyConfig
from easylm_imitation.text import load_tokenizer, tokenizer_folder
from easylm_imitation.train import TrainConfig
from easylm_imitation.weights import describe

_REFERENCE = "answers/reference.jsonl"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command. `makes` is the path, below the study's folder, that is there when it is done."""
    name: str
    command: tuple[str, ...]        # the verb and its flags
    makes: str
    after: tuple[str, ...] = ()     # names of the stages that must be done before
    identity: str = ""              # of the command, and of the configs, models and style files that it names
    work: float = 0.0               # what its time grows with: FLOPs of training, parameters of measuring
    planned: float | None = None    # seconds on the study's topology, by the formula of `plan`; None: not asked

    @property
    def verb(self) -> str:
        """The command's verb."""
        return self.command[0]


@dataclasses.dataclass(frozen=True)
class Base:
    """A model to start from."""
    name: str
    path: str
    model: ModelConfig
    lineage: Lineage
    tokenizer: str                  # what `build` reads it from
    tokenizer_id: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """One imitation of the grid."""
    base: str
    data: str
    budget: str | int | None
    seed: int
    ablation: str = ""

    @property
    def name(self) -> str:
        """As its folders are called: llama7b-sharegpt-20M-s0."""
        return "-".join([self.base, self.data, _said(self.budget), *([self.ablation] * bool(self.ablation)),
                         f"s{self.seed}"])


@dataclasses.dataclass(frozen=True)
class Study:
    """A config, its folder, and everything that is to be made there."""
    config: StudyConfig
    work: pathlib.Path
    bases: Mapping[str, Base]
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


def open_study(config: StudyConfig, workdir: str | os.PathLike) -> Study:
    """Reads every config and model that the study names, writes nothing. Raises UserError for what is wrong there."""
    work, cells = pathlib.Path(workdir), tuple(cells_of(config))
    bases = {name: _base(name, path) for name, path in config.bases.items()}
    stages = tuple(_Stages(config, work, bases).all(cells))
    return Study(config, work, bases, cells, stages)


def cells_of(config: StudyConfig) -> Iterator[Cell]:
    """The cells of the grid, all seeds of one beside each other; the ablations of the first cell come last.

    Raises UserError for a pattern of `cells` or `more_seeds` that no cell fits.
    """
    every = [(base, data, budget) for base in config.bases for data in config.data
             for budget in config.budgets_of(data)]
    grid = [place for place in every if config.vary == "grid" or _axes_apart(config, place, every[0]) <= 1]
    for field, patterns in (("cells", config.cells), ("more_seeds", config.more_seeds)):
        _refuse_idle(field, patterns, grid)
    kept = [place for place in grid if not config.cells or _fits(place, config.cells)]
    for place in kept:
        yield from (Cell(*place, seed) for seed in _seeds(config, place))
    for name in config.ablations:
        yield from (Cell(*kept[0], seed, name) for seed in _seeds(config, kept[0]))


def _axes_apart(config: StudyConfig, place: tuple, first: tuple) -> int:
    """In how many axes two places differ; the first budget of one's own data is no difference."""
    return (place[0] != first[0]) + (place[1] != first[1]) + (place[2] != config.budgets_of(place[1])[0])


def _refuse_idle(field: str, patterns: Iterable[str], places: Iterable[tuple]) -> None:
    names = [_place_name(place) for place in places]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{field}: '{pattern}' fits no BASE-DATA-BUDGET of the study{nearest(pattern, names)}")


def _fits(place: tuple, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(_place_name(place), pattern) for pattern in patterns)


def _place_name(place: tuple) -> str:
    base, data, budget = place
    return f"{base}-{data}-{_said(budget)}"


def _seeds(config: StudyConfig, place: tuple) -> list[int]:
    """The study's seeds, and those that are asked for besides of cells of that name."""
    more = [seed for pattern, seeds in config.more_seeds.items() if _fits(place, [pattern]) for seed in seeds]
    return list(dict.fromkeys((*config.seeds, *more)))


class _Stages:
    """Turns cells into stages; each dataset once, however many cells read it."""

    def __init__(self, config: StudyConfig, work: pathlib.Path, bases: Mapping[str, Base]):
        self.config, self.work, self.bases = config, work, bases
        self.datasets: dict[str, int | None] = {}       # name of a build stage -> tokens, where they are known
        asked = {name: getattr(config.measure, name) for name in ("style_prompts", "style_reference")}
        self.style_files = [_content(f"measure.{name}", path) for name, path in asked.items() if path]

    def all(self, cells: tuple[Cell, ...]) -> Iterator[Stage]:
        measured = []
        if self.config.teacher:
            yield from (made := list(self.measure_teacher()))
            measured += made
        for base in self.bases.values():
            yield from (made := list(self.measure(f"base-{base.name}", base.path, base, (), base.lineage.id)))
            measured += made
        for cell in cells:
            yield from (made := list(self.cell(cell)))
            measured += [stage for stage in made if stage.verb == "evaluate"]
        yield self.report([stage.name for stage in measured])

    def cell(self, cell: Cell) -> Iterator[Stage]:
        base, ablation = self.bases[cell.base], self.config.ablations.get(cell.ablation, Ablation())
        build, tokens = self.build(cell, base, ablation)
        if build.name not in self.datasets:
            self.datasets[build.name] = tokens
            yield build
        run = f"runs/{cell.name}"
        by_base = self.config.set_by_base.get(cell.base, {})
        of_data = self.config.data[cell.data].train
        leaves = {**_leaves(self.config.set), **_leaves(by_base), **_leaves(of_data), **_leaves(ablation.train),
                  "name": cell.name}
        resolved = load(TrainConfig, self.config.train, _overrides(leaves))
        command = ("train", "--config", self.config.train, *_overrides(leaves), "--seed", str(cell.seed), "--data",
                   self.path(build.makes), "--init", base.path, *ablation.flags, "--workdir", self.path(run))
        yield Stage(f"train-{cell.name}", command, f"{run}/lineage.json", (build.name,),
                    digest([command, resolved, base.lineage.id, build.identity]),
                    *self.costs(resolved, base.model, tokens))
        yield from self.measure(cell.name, self.path(run), base, (f"train-{cell.name}",), "")

    def build(self, cell: Cell, base: Base, ablation: Ablation) -> tuple[Stage, int | None]:
        given: Dataset = self.config.data[cell.data]
        budget = {} if cell.budget is None else {"budget": cell.budget}
        leaves = {**_leaves(given.set), **_leaves(ablation.build), "tokenizer": base.tokenizer, **budget}
        resolved = load(BuildConfig, given.config, _overrides(leaves))
        changed = [cell.ablation] if ablation.build else []
        name = "-".join([cell.data, _said(cell.budget), *changed, base.tokenizer_id[:8]])
        command = ("build", "--config", given.config, *_overrides(leaves), *self._looks(), "--out",
                   self.path(f"data/{name}"))
        stage = Stage(f"build-{name}", command, f"data/{name}", identity=digest([command, resolved, base.tokenizer_id]))
        there = (self.work / "data" / name / "card.json").is_file()
        tokens = read_card(self.work / "data" / name).tokens if there else None
        return stage, tokens if tokens or resolved.budget is None else tokens_of(resolved.budget)

    def _looks(self) -> Iterator[str]:
        """Flags of `build` for the items of all tasks that will be asked."""
        asked = self.config.measure
        names = [name for name in (asked.suite, asked.tasks) if name and asked.look_for]
        if names:
            yield from ("--look-for", ",".join(names), *(("--task-data", asked.task_data) if asked.task_data else ()))

    def measure(self, name: str, model: str, base: Base | None, after: tuple[str, ...], identity: str,
                role: tuple[str, ...] = ()) -> Iterator[Stage]:
        """Tasks of a model, then its answers and their style."""
        asked, work = self.config.measure, float(base.model.parameters()) if base else 0.0
        settings = _overrides(asked.set)
        if asked.suite or asked.tasks:
            named = (("--suite", asked.suite), ("--tasks", asked.tasks), ("--task-data", asked.task_data),
                     ("--limit", asked.limit and str(asked.limit)),
                     ("--prompt", "" if asked.prompt == "auto" else asked.prompt))
            out = f"results/{name}.json"
            command = ("evaluate", "--model", model, *(word for pair in named if pair[1] for word in pair),
                       *settings, *role, "--out", self.path(out))
            yield Stage(f"evaluate-{name}", command, out, after, digest([command, identity]), work)
        if asked.style_prompts:
            out, answers = f"results/{name}-style.json", f"answers/{name}.jsonl"
            reference = asked.style_reference or self.path(_REFERENCE)
            command = ("evaluate", "--model", model, "--prompts", asked.style_prompts, "--prompt", "chat",
                       "--answers-out", self.path(answers), "--reference", reference, *settings, *role,
                       "--out", self.path(out))
            after = after if asked.style_reference else (*after, "answers-teacher")
            yield Stage(f"style-{name}", command, out, after, digest([command, identity, self.style_files]), work)

    def measure_teacher(self) -> Iterator[Stage]:
        """The teacher's scores; its answers to the style prompts, and a second sample of them, which is the ceiling."""
        teacher, asked = self.config.teacher, self.config.measure
        role = ("--role", "teacher")
        if teacher.startswith("published:"):
            command = ("evaluate", "--published", teacher.removeprefix("published:"), *role, "--out",
                       self.path("results/teacher.json"))
            yield Stage("evaluate-teacher", command, "results/teacher.json", identity=digest(command))
            return
        if asked.style_prompts:
            seed = ("--config.answers.seed=1",)     # the second sample has the seed of all the others, or none
            command = ("evaluate", "--model", teacher, "--prompts", asked.style_prompts, "--prompt", "chat",
                       *_overrides(asked.set), *seed, "--answers-out", self.path(_REFERENCE))
            yield Stage("answers-teacher", command, _REFERENCE,
                        identity=digest([command, self.style_files]))
        yield from self.measure("teacher", teacher, None, (), teacher, role)

    def costs(self, config: TrainConfig, model: ModelConfig, tokens: int | None) -> tuple[float, float | None]:
        """FLOPs of a training, 0 when nobody knows yet how many tokens there will be; its seconds on the topology."""
        if config.steps is not None:
            seen = float(config.steps * config.data.batch * config.data.context)
        else:
            seen = config.tokens or (config.epochs or 1) * (tokens or 0)
        work = model.flops_per_token(config.data.context) * seen
        if not (self.config.topology and seen):
            return work, None
        made = plan(config, model, find_pod(self.config.topology), compiler=False)
        if not made.fits:
            raise UserError(f"topology {self.config.topology}: {config.name} does not fit there (by formula); "
                            "`plan --search` finds a setting or a machine that does")
        return work, seen / made.tokens_per_second

    def report(self, after: list[str]) -> Stage:
        data = ",".join(self.path(f"data/{name.removeprefix('build-')}") for name in self.datasets)
        inside = [f"{self._card_name(name)}={','.join(given.inside)}" for name, given in self.config.data.items()
                  if given.inside]
        command = ("report", self.path("results"), "--data", data, *(w for rule in inside for w in ("--inside", rule)),
                   "--out", self.path("verdict"))
        return Stage("report", command, "verdict/report.html", tuple(after), digest([command, after]))

    def _card_name(self, data: str) -> str:
        given = self.config.data[data]
        return load(BuildConfig, given.config, _overrides({**given.set, "tokenizer": "any"})).name

    def path(self, below: str) -> str:
        return str(self.work / below)


def _base(name: str, path: str) -> Base:
    try:
        model, lineage = describe(path)
    except UserError as error:
        raise UserError(f"bases.{name}: {error}") from None
    tokenizer = str(tokenizer_folder(path))
    return Base(name, path, model, lineage, tokenizer, load_tokenizer(tokenizer).id)


def _content(field: str, path: str) -> str:
    """A hash of a file. Raises UserError."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"{field}: {path} cannot be read ({error.strerror})") from None


def _leaves(mapping: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    made = {}
    for key, value in mapping.items():
        made |= _leaves(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return made


def _overrides(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """As flags, `--config.a.b=1`, sorted."""
    return tuple(f"--config.{name}={plain(value)}" for name, value in sorted(_leaves(mapping).items()))


def _said(budget: str | int | None) -> str:
    return "all" if budget is None else str(budget)

