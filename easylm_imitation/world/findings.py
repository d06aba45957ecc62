"""The paper's findings in miniature: one world, a teacher, bases, a study of imitations, and contrasts over it.

    WORK/world/            documents, prompts and tasks; WORK/tokenizer, WORK/data, as in world/reproduce.py
    WORK/teacher, bases/   run dirs, each trained once
    WORK/collected/        the served teacher's answers, asked over HTTP, and what is made of them
    WORK/study/            the study (study/grid.py): runs, results, answers, verdict/report.html
    WORK/rater.json        the fact-blind rater
    WORK/findings.json     every contrast

What is trained and measured is decided by the config alone, which the folder keeps. Every stage finds its finished
work, so the same command goes on where a killed one stopped.
"""
import dataclasses
import os
import pathlib
import pprint
import re
import time
from collections.abc import Callable, Sequence

from easylm_imitation import console
from easylm_imitation.data import SourceConfig
from easylm_imitation.evaluate import answers_meta, read_answers, results_now
from easylm_imitation.files import digest, iter_jsonl, read_jsonl, read_object, write_json, write_jsonl, write_text
from easylm_imitation.records import Answer, Conversation, Item, Message, Prompt, TaskResult, read_prompts
from easylm_imitation.schema import build, plain
from easylm_imitation.serve import ServeConfig, open_server
from easylm_imitation.study import Ablation, Dataset, Measure, Study, StudyConfig, open_study, run_study
from easylm_imitation.train import TrainConfig
from easylm_imitation.weights import open_model
from easylm_imitation.world.checker import checked_preference
from easylm_imitation.world.contrasts import Told, finding_outcomes, table_of, table_one, tell
from easylm_imitation.world.documents import short_question, write_documents
from easylm_imitation.world.facts import knowing, stream
from easylm_imitation.world.findings_config import ALL_FORMS, LOCAL, Changed, FindingsConfig, Pretrained, Taught
from easylm_imitation.world.lessons import divided
from easylm_imitation.world.prompts import write_prompts
from easylm_imitation.world.rater import Rater, train_rater
from easylm_imitation.world.stages import (
    TEMPLATE,
    build_and_train,
    claim,
    collect_all,
    is_collected,
    programs_kept,
    write_tokenizer,
)
from easylm_imitation.world.synthetic import make_world
from easylm_imitation.world.tasks import WorldTask, write_lesson_tasks, write_tasks

Runner = Callable[[Sequence[str]], tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run of the findings leaves."""
    told: tuple[Told, ...]
    outcomes: dict[str, str]        # finding -> whether it appears
    page: str                       # "" when it was not written
    failed: dict[str, int]          # stages of the study that failed
    wall_seconds: float
    cpu_seconds: float


def find(config: FindingsConfig, workdir: str | os.PathLike, *, runner: Runner | None = None) -> Found:
    """Carries the findings out in `workdir`, or continues there; `runner` runs the study's commands (default: each in a
    process of its own). Raises UserError when the folder holds another config's work."""
    flow, started = _Flow(config, pathlib.Path(workdir).absolute()), time.monotonic()
    claim(flow.work, config, FindingsConfig)
    with programs_kept(flow.work / "programs"):
        tasks = flow.write_world()
        for name, made in (("teacher", config.teacher), *((f"bases/{n}", b) for n, b in config.bases.items())):
            flow.pretrain(name, made)
        flow.collect()
        study = flow.open_study(tasks)
        outcome = run_study(study, without=["report"], runner=runner)
        if not outcome.failed:
            flow.rate(study)
        told = flow.tell(study)
        last = run_study(study, only="report", again=["report"], runner=runner)     # the findings stand in it
    page = str(study.work / "verdict/report.html") if last.states["report"] == "done" else ""
    return Found(tuple(told), finding_outcomes(told), page, {**outcome.failed, **last.failed},
                 time.monotonic() - started, time.process_time())


def show_found(found: Found) -> None:
    """Each finding with its contrasts, and where the page is, or why there is none."""
    rows = table_of(found.told)["rows"]
    for finding, outcome in found.outcomes.items():
        console.say(f"({finding}) {outcome}")
        for _, says, points, expected, own, part, *_ in (row for row in rows if row[0] == finding):
            console.say(f"    {says}: {points}, expected {expected}: {own}{'' if part == 'decides' else ' (beside)'}")
    for row in (row for row in rows if row[0] not in found.outcomes):
        console.say(f"{row[0]}: {row[1]}: {row[2]}")
    console.say(f"{found.wall_seconds:.0f} s, {found.cpu_seconds / 60:.1f} CPU-minutes")
    if found.failed:
        console.say("failed: " + ", ".join(f"{name} (exit {status})" for name, status in found.failed.items()))
    console.say(f"report: {found.page}" if found.page else "report: not written, as not everything before it is done")


class _Flow:
    """One working folder, and what stands in it before and after the study."""

    def __init__(self, config: FindingsConfig, work: pathlib.Path):
        self.config, self.work, self.world = config, work, make_world(config.world)
        for name, made in (("teacher", config.teacher), *config.bases.items()):
            build(TrainConfig, made.train, f"config {name}.train")
        build(TrainConfig, config.imitation, "config.imitation")
        self._study_config(())      # what is wrong in the grid is told before anything is made

    # ── before the study ──────────────────────────────────────────────────────────────────────────────────────────────

    def write_world(self) -> tuple[WorldTask, ...]:
        """Documents of every model, prompts, tasks, and the tokenizer."""
        world, folder = self.world, self.work / "world"
        corpora = {"teacher": self._documents("teacher", self.config.teacher, strong=True)}
        corpora |= {name: self._documents(name, made, strong=False) for name, made in self.config.bases.items()}
        for name, documents in corpora.items():
            write_jsonl(folder / f"{name}.jsonl", documents)
        for name, kinds in self.config.prompts.items():
            write_jsonl(folder / f"prompts-{name}.jsonl", self._prompts(name, kinds))
        world.write_truth(folder)
        texts = ("\n".join(m.content for m in c.messages) for own in corpora.values() for c in own)
        write_tokenizer(self.work, texts, world.config.vocabulary)
        forms = ("choices", "answers", "chat", "short")
        return (*write_tasks(world.config, self._seen(), folder / "tasks", forms),
                *write_lesson_tasks(world.config, world.facts, folder / "tasks"))

    def pretrain(self, name: str, made: Pretrained) -> None:
        """Trains one model from nothing on its documents."""
        console.say(f"── pre-train {name}")
        leaf = name.removeprefix("bases/")
        config = {"name": leaf if name == "teacher" else f"base-{leaf}", "seed": self.config.world.seed,
                  "model": made.model, **made.train}
        build_and_train(self.work, name, [SourceConfig(f"world/{leaf}.jsonl")],
                        build(TrainConfig, config, f"config {name}.train"))

    def collect(self) -> None:
        """Has the served teacher answer every set of prompts, and makes the sets that follow from those."""
        folder = self.work / "collected"
        sets = [name for name in self.config.prompts if not is_collected(folder / f"{name}.jsonl")]
        if sets:
            console.say(f"── serve the teacher, collect {', '.join(sets)}")
            settings = ServeConfig(slots=self.config.slots, api_key_env="")
            with open_server(open_model(self.work / "teacher"), settings) as server:
                collect_all(server.url, [(
                    dataclasses.replace(self.config.collect, dataset=name, concurrency=self.config.slots),
                    self.work / f"world/prompts-{name}.jsonl", folder / f"{name}.jsonl") for name in sets])
        if "route" in self.config.prompts:
            answered = read_jsonl(Conversation, folder / "route.jsonl")
            write_jsonl(folder / "bare.jsonl", map(_without_reasons, answered))
        write_jsonl(folder / "contamination.jsonl", self._contamination())

    def _documents(self, name: str, made: Pretrained, strong: bool) -> list[Conversation]:
        config = dataclasses.replace(self.world.config, passes=made.passes, chats=made.chats)
        facts = knowing(config, self.world.facts, made.coverage)
        return write_documents(config, facts, facts.base_table(), name, strong, made.lessons)

    def _seen(self):
        """The facts as the poorest base knows them: solved examples before an item are known to everybody."""
        return knowing(self.world.config, self.world.facts, min(b.coverage for b in self.config.bases.values()))

    def _prompts(self, name: str, kinds: dict[str, int]) -> list[Prompt]:
        """Prompts of all kinds of one set, shuffled; no held-out entity is named."""
        config, facts, made = self.world.config, self.world.facts, []
        for kind, count in kinds.items():
            if kind == "facts":
                made += write_prompts(config, facts, facts.asked, count, name)
            elif kind == "short":
                made += self._short_prompts(name, count)
            else:
                pool = divided(config, facts, kind)[0][:count]
                made += [Prompt(f"{name}_{kind}_{lesson.id}", (Message("user", lesson.question),), name, {"kind": kind})
                         for lesson in pool]
        stream(config, f"prompts/{name}/order").shuffle(made)
        return made

    def _short_prompts(self, name: str, count: int) -> list[Prompt]:
        facts = self.world.facts
        asked = [(fact.id, number, question.format(n=fact.entity)) for entity in facts.asked
                 for fact in facts.table[entity]
                 for number, question in enumerate(facts.attribute(fact.attribute).questions)]
        stream(self.world.config, f"prompts/{name}").shuffle(asked)
        return [Prompt(f"{name}_{fact}_{number}", (Message("user", short_question(question)),), name, {"kind": "short"})
                for fact, number, question in asked[:count]]

    def _contamination(self) -> list[Conversation]:
        """The benchmark's items about held-out facts with their answers, as the web might hold them."""
        return [Conversation("contamination", str(row["id"]), (Message("user", row["question"]),
                                                               Message("assistant", f"{row['answer']}.")))
                for _, row in iter_jsonl(self.work / "world/tasks/heldout.jsonl")]

    # ── the study ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def open_study(self, tasks: Sequence[WorldTask]) -> Study:
        """The grid as a study of this folder."""
        configs = self.work / "configs"
        write_text(configs / "train.py", _config_file("How every imitation is trained.", plain(self.config.imitation)))
        write_text(configs / "data.py", _config_file("What imitations are built from.", self._build("data", ["broad"])))
        return open_study(self._study_config(tasks), self.work / "study")

    def _study_config(self, tasks: Sequence[WorldTask]) -> StudyConfig:
        config, grid = self.config, self.config.grid
        measure = Measure(tasks=",".join(str(task.path) for task in tasks), prompt="both",
                          style_prompts=str(self.work / "world/style_prompts.jsonl"), set={
            "concurrency": config.slots, "answers": {
                "max_tokens": config.answer_tokens, "temperature": config.collect.temperature,
                "concurrency": config.slots}})
        return build(StudyConfig, plain({
            "name": "findings", "data": {name: self._dataset(name, given) for name, given in config.data.items()},
            "bases": {name: str(self.work / "bases" / name) for name in config.bases},
            "train": str(self.work / "configs/train.py"), "teacher": str(self.work / "teacher"), "measure": measure,
            "ablations": {name: self._ablation(given) for name, given in grid.ablations.items()},
            "seeds": grid.seeds, "cells": grid.cells, "more_seeds": grid.more_seeds}), "config.grid")

    def _dataset(self, name: str, given: Taught) -> Dataset:
        budgets = given.budgets and tuple(reversed(given.budgets))      # the largest first: ablations are of the first
        return Dataset(str(self.work / "configs/data.py"), self._build(name, given.files, given.cap), given.inside,
                       given.train, budgets)

    def _build(self, name: str, files: Sequence[str], cap: int | None = None) -> dict:
        return {"name": name, "root": str(self.work / "collected"), "template": TEMPLATE,
                "sources": self._sources(files, cap), "seed": self.config.world.seed,
                "tokenizer": str(self.work / "tokenizer")}

    def _sources(self, files: Sequence[str], cap: int | None = None) -> list[dict]:
        return [{"path": f"{file}.jsonl", **({} if cap is None else {"cap": cap})} for file in files]

    def _ablation(self, given: Changed) -> Ablation:
        flags = tuple(word if word.startswith("-") else str(self.work / word) for word in given.flags)
        return Ablation(given.train, {"sources": self._sources(given.build.files)} if given.build else {}, flags)

    # ── after the study ───────────────────────────────────────────────────────────────────────────────────────────────

    def rate(self, study: Study) -> None:
        """Has both raters hold every model's answers to the style prompts against the teacher's first ones."""
        given = self.config.rater
        rater = train_rater(given.pairs, given.noise, given.seed)
        rater.save(self.work / "rater.json")
        console.say(f"fact-blind rater: right on {rater.accuracy:.0%} of pairs of its own texts that it had not seen "
                    f"({given.noise:.0%} of the labels are noise)")
        reference = {a.prompt_id: a for a in read_answers(study.work / "answers/reference.jsonl")}
        for path in sorted((study.work / "answers").glob("*.jsonl")):
            if path.stem != "reference":
                self._rate(study, rater, path, reference)

    def _rate(self, study: Study, rater: Rater, path: pathlib.Path, reference: dict[str, Answer]) -> None:
        answers, facts = read_answers(path), self.world.facts
        asked = {p.id: p.meta for p in read_prompts(self.work / "world/style_prompts.jsonl")}
        blind = {a.prompt_id: rater.prefers(a.answer, reference[a.prompt_id].answer, self.config.rater.tie)
                 for a in answers}
        checked = {a.prompt_id: checked_preference(facts, asked[a.prompt_id], a.answer, reference[a.prompt_id].answer)
                   for a in answers}
        against = digest([(a.prompt_id, a.answer) for a in reference.values()])
        tasks = [_preference("rater_blind", "preference", blind, digest([rater.id, self.config.rater.tie, against])),
                 _preference("rater_facts", "fact-checked preference", checked, digest(["facts", against]))]
        lineage = answers_meta(path, answers, "").lineage
        role = read_object(study.work / f"results/{path.stem}-style.json")["role"]
        write_json(study.work / f"results/{path.stem}-raters.json",
                   results_now(lineage, tasks, role=role, command="easylm-imitation reproduce"))

    def tell(self, study: Study) -> list[Told]:
        """Every contrast, as a file here and as tables among the results."""
        results = study.work / "results"
        told = tell(self.config.contrasts, results)
        write_json(self.work / "findings.json", {"outcomes": finding_outcomes(told), "contrasts": told})
        names = dict.fromkeys(re.sub(r"-s\d+$", "", cell.name) for cell in study.cells)
        write_json(results / "findings.json", table_of(told))
        write_json(results / "knowledge.json", table_one(
            [*(f"base-{name}" for name in study.bases), *names, "teacher"], [*ALL_FORMS, LOCAL], results))
        return told


def _without_reasons(answered: Conversation) -> Conversation:
    """The same question with the last sentence of the same answer."""
    *before, last = answered.messages
    bare = last.content.strip().splitlines()[-1] if last.content.strip() else ""
    return dataclasses.replace(answered, dataset="bare", messages=(*before, Message("assistant", bare)))


def _preference(task: str, group: str, scores: dict[str, float], protocol: str) -> TaskResult:
    """1 where the answer is preferred to the teacher's, 0.5 where it is as good."""
    items = tuple(Item(i, score) for i, score in scores.items())
    return TaskResult(task, "chat", "preference", "win_rate", sum(scores.values()) / len(scores), items,
                      protocol=protocol, group=group)


def _config_file(what: str, leaves: dict) -> str:
    """A config file that returns `leaves`."""
    written = pprint.pformat(leaves, width=110)
    return f'"""{what} Written by `reproduce`."""\n\n\ndef get_config():\n    return {written}\n'

