"""The whole flow on the embedded world, in one process: what `reproduce` runs.

    WORK/world/            documents, prompts and tasks of the synthetic world
    WORK/tokenizer/        a byte-level BPE trained on them
    WORK/data/NAME         shards of base, teacher and imitation
    WORK/NAME              run dirs of base, teacher and imitation
    WORK/collected.jsonl   the served teacher's answers, asked over HTTP
    WORK/answers/NAME      answers to the style prompts
    WORK/results/NAME      what the harness and the style measures say
    WORK/export            the imitation as a Hugging Face dir
    WORK/verdict           report.html and verdict.json

Every stage finds its own finished work, so the same command continues where a killed one stopped. Nothing is known in
advance: each number comes from models that were trained, served and measured here.
"""
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np

from easylm_imitation import console
from easylm_imitation.data import SourceConfig
from easylm_imitation.evaluate import AnswerConfig, answer_prompts, evaluate_tasks, style_task
from easylm_imitation.files import digest, read_json, read_jsonl, write_json
from easylm_imitation.records import Answer, Results, TaskResult
from easylm_imitation.report import Verdict, build_report, show
from easylm_imitation.schema import UserError, build
from easylm_imitation.serve import RunningServer, ServeConfig, open_server
from easylm_imitation.sharding import make_mesh
from easylm_imitation.train import TrainConfig
from easylm_imitation.weights import LoadedModel, describe, export_hf, open_model
from easylm_imitation.world.config import ReproduceConfig
from easylm_imitation.world.stages import (
    build_and_train,
    claim,
    collect_all,
    is_collected,
    programs_kept,
    write_tokenizer,
)
from easylm_imitation.world.synthetic import make_world
from easylm_imitation.world.tasks import WorldTask

BASE, TEACHER, IMITATION = "base", "teacher", "imitation"


@dataclasses.dataclass(frozen=True)
class Reproduced:
    """What a run of the flow leaves: the verdict, where its page is, and what it cost."""
    verdict: Verdict
    page: str
    wall_seconds: float
    cpu_seconds: float
    stages: dict[str, float]        # name -> wall seconds of the stages that ran in this process


def reproduce(config: ReproduceConfig, workdir: str | os.PathLike) -> Reproduced:
    """Runs the flow in `workdir`, or continues it. Raises UserError when the folder holds another config's work."""
    study = _Study(config, pathlib.Path(workdir))
    claim(study.work, config, ReproduceConfig)
    with programs_kept(study.work / "programs"):
        return _run(study)


def _run(study: "_Study") -> Reproduced:
    """Every stage that is not done."""
    config, started = study.config, time.monotonic()
    with study.stage("write the world"):
        tasks = study.write_world()
    for name in (BASE, TEACHER):
        with study.stage(f"pre-train the {name}"):
            study.train(name, {name: None}, init=None)
    with study.stage("serve the teacher, collect its answers, measure it"):
        study.teach(tasks)
    with study.stage("finetune the base on the answers, sharded"):
        mixed = {BASE: config.mix_base_documents} if config.mix_base_documents else {}
        study.train(IMITATION, {IMITATION: None, **mixed}, init=BASE)
    for name in (BASE, IMITATION):
        with study.stage(f"serve and measure the {name}"):
            study.measure(name, tasks)
    with study.stage("export to Hugging Face and read back"):
        study.export()
    with study.stage("report"):
        verdict = build_report(study.work / "results", study.work / "verdict", data=[study.work / "data" / IMITATION])
    page = str(study.work / "verdict" / "report.html")
    return Reproduced(verdict, page, time.monotonic() - started, time.process_time(), study.seconds)


def show_reproduced(made: Reproduced) -> None:
    """The verdict, the three models side by side, and the path of the page, which is the last line."""
    show(made.verdict)
    shown = [s for s in made.verdict.scores if s.task in _SHOWN or s.form != "style"]
    tasks = list(dict.fromkeys((s.task, s.prompt) for s in shown))
    scores = {(s.role, s.task, s.prompt): s.score for s in made.verdict.scores}
    rows = [[f"{task} ({prompt})", *(_cell(scores.get((role, task, prompt))) for role in (BASE, IMITATION, TEACHER))]
            for task, prompt in tasks]
    console.table("Scores", ["measure", BASE, IMITATION, TEACHER], rows)
    console.say(f"{made.wall_seconds:.0f} s, {made.cpu_seconds / 60:.1f} CPU-minutes")
    console.say(f"report: {made.page}")


_SHOWN = ("style_match",)


def _cell(score: float | None) -> str:
    return "—" if score is None else f"{score:.3f}"


class _Study:
    """One working folder and the stages on it."""

    def __init__(self, config: ReproduceConfig, work: pathlib.Path):
        self.config, self.work = config, work
        self.world = make_world(config.world)
        self.seconds: dict[str, float] = {}
        self.trainings = {name: self._training(name) for name in (BASE, TEACHER, IMITATION)}
        make_mesh(self.trainings[IMITATION].mesh)   # one that does not fit is told now, not after two trainings

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Names what is going on and notes how long it took."""
        console.say(f"── {name}")
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)

    def write_world(self) -> Sequence[WorldTask]:
        """Texts, tasks and the tokenizer."""
        tasks = self.world.write(self.work / "world")
        write_tokenizer(self.work, self.world.tokenizer_texts(), self.config.world.vocabulary)
        return tasks

    def train(self, name: str, sources: dict[str, int | None], init: str | None) -> None:
        """Builds shards of `sources` (name -> how many conversations, None for all), trains the run `name` on them."""
        files = {BASE: "world/base.jsonl", TEACHER: "world/teacher.jsonl", IMITATION: "collected.jsonl"}
        read = [SourceConfig(files[source], limit=limit) for source, limit in sources.items()]
        config = self.trainings[name]
        if init is None:
            config = dataclasses.replace(config, model=self.config.model)
        build_and_train(self.work, name, read, config, init)

    def teach(self, tasks: Sequence[WorldTask]) -> None:
        """Serves the teacher once, for its answers to the prompts and for its own measures, unless that is done."""
        prompts, out = self.work / "world/prompts.jsonl", self.work / "collected.jsonl"
        if is_collected(out) and self._is_measured(TEACHER):
            return
        with self._served(TEACHER) as (loaded, server):
            collect_all(server.url, [(self.config.collect, prompts, out)])
            self._measure(TEACHER, loaded, server, tasks)

    def measure(self, name: str, tasks: Sequence[WorldTask]) -> None:
        """Serves `name` and measures it, unless that is done."""
        if not self._is_measured(name):
            with self._served(name) as (loaded, server):
                self._measure(name, loaded, server, tasks)

    def export(self) -> None:
        """Writes the imitation as a Hugging Face dir and checks that every tensor comes back bit for bit."""
        run, folder = open_model(self.work / IMITATION), self.work / "export"
        if not folder.exists():
            export_hf(folder, run.config, run.params, run.tokenizer, run.template, run.lineage)
        back = open_model(folder)
        same = jax.tree.map(np.array_equal, run.params, back.params)
        if back.config != run.config or not all(jax.tree.leaves(same)):
            raise UserError(f"{folder}: does not hold the weights of {self.work / IMITATION}; delete it and run again")

    def _training(self, name: str) -> TrainConfig:
        given = {"name": name, "seed": self.config.world.seed, **getattr(self.config, name)}
        return build(TrainConfig, given, f"config.{name}")

    @contextmanager
    def _served(self, name: str) -> Iterator[tuple[LoadedModel, RunningServer]]:
        loaded = open_model(self.work / name)
        with open_server(loaded, ServeConfig(slots=self.config.slots, api_key_env="")) as server:
            yield loaded, server

    def _is_measured(self, name: str) -> bool:
        path = self.work / "results" / f"{name}.json"
        return path.is_file() and read_json(Results, path).model == describe(self.work / name)[1]

    def _measure(self, name: str, loaded: LoadedModel, server: RunningServer, tasks: Sequence[WorldTask]) -> None:
        """Facts through the harness, style from answers to the same prompts; written as one results file."""
        if self._is_measured(name):
            return
        made = [self._facts(server, prompt, tasks, loaded) for prompt in ("raw", "chat")]
        style = self._style(name, server)
        results = dataclasses.replace(made[0], tasks=(*made[0].tasks, *made[1].tasks, *style), role=name,
                                      meta={"world": digest(self.config.world)})
        write_json(self.work / "results" / f"{name}.json", results)

    def _facts(self, server: RunningServer, prompt: str, tasks: Sequence[WorldTask], loaded: LoadedModel) -> Results:
        chosen = [str(task.path) for task in tasks if prompt in task.prompts]
        return evaluate_tasks(server.url, chosen, prompt=prompt, command="easylm-imitation reproduce",
                              encode=lambda text: loaded.tokenizer.encode(text, parse_special=True))

    def _style(self, name: str, server: RunningServer) -> tuple[TaskResult, ...]:
        """Style against the teacher's greedy answers; the teacher's own is that of a second, sampled answer.

        That one stands under the protocol of the others on purpose: how far the teacher agrees with itself is the
        ceiling that they are measured against, and its greedy answers would only repeat themselves.
        """
        settings = self._asked(temperature=0.0)
        greedy = self._answers(name, server, settings)
        if name == TEACHER:
            again = self._answers("teacher_again", server, self._asked(self.config.collect.temperature))
            return style_task(again, greedy, options=settings.options())
        teacher = read_jsonl(Answer, self.work / "answers" / f"{TEACHER}.jsonl")
        return style_task(greedy, teacher, options=settings.options())

    def _asked(self, temperature: float) -> AnswerConfig:
        return AnswerConfig(max_tokens=self.config.answer_tokens, temperature=temperature,
                            seed=self.config.world.seed, concurrency=self.config.slots)

    def _answers(self, name: str, server: RunningServer, config: AnswerConfig) -> list[Answer]:
        prompts, out = self.work / "world/style_prompts.jsonl", self.work / "answers" / f"{name}.jsonl"
        return answer_prompts(server.url, prompts, out, config=config)
