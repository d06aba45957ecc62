"""`study`: the grid as commands, each run once; what fails, what is killed, what changed; and once for real."""
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest
from tiny_models import made
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.cli import main
from easylm_imitation.config import load
from easylm_imitation.data import BuildConfig
from easylm_imitation.files import read_json
from easylm_imitation.records import Lineage, Results
from easylm_imitation.schema import UserError
from easylm_imitation.study import StudyConfig, grid, open_study, run_study, shown
from easylm_imitation.study.run import finished, outcome
from easylm_imitation.text import get_template
from easylm_imitation.weights import describe, save_run_model

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path):
    """A folder with two bases, a teacher, conversations, style prompts, and a study of them."""
    for name, seed, width in (("small", 1, 16), ("large", 2, 32), ("teacher", 3, 16)):
        model, params = made("llama", seed=seed, vocab_size=264, d_model=width, context=128)
        lineage = Lineage(f"id-{name}", name, f"id-{name}", name)
        save_run_model(tmp_path / name, model.config, params, byte_tokenizer(), get_template("plain"), lineage)
    talk = [{"dataset": "talk", "id": str(i), "teacher": "teacher@id-teacher",
             "messages": [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": "A number."}]}
            for i in range(12)]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in talk))
    prompts = [{"id": f"p{i}", "prompt": f"Say {i}"} for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    (tmp_path / "study.py").write_text(f"""
def get_config():
    return {{
        "name": "tiny", "bases": {{"large": "{tmp_path}/large", "small": "{tmp_path}/small"}},
        "data": {{"talk": {{"config": "{ROOT}/configs/data/conversations.py", "inside": ["style_*"],
                          "set": {{"root": "{tmp_path}", "seed": 0, "sources": [{{"path": "talk.jsonl"}}]}}}}}},
        "budgets": [None, 150], "seeds": [0, 1], "vary": "one", "teacher": "{tmp_path}/teacher",
        "train": "{ROOT}/configs/train/finetune.py",
        "set": {{"epochs": None, "steps": 2, "data": {{"context": 128, "batch": 8}}, "compute_dtype": "float32"}},
        "set_by_base": {{"small": {{"data": {{"context": 64, "too_long": "drop"}}}}}},
        "ablations": {{"rows": {{"train": {{"loss": "row_mean"}}}}}},
        "measure": {{"style_prompts": "{tmp_path}/prompts.jsonl", "set": {{"answers": {{"max_tokens": 4}}}}}},
    }}
""")
    return tmp_path


def opened(files, *overrides, work="work"):
    return open_study(load(StudyConfig, str(files / "study.py"), overrides), files / work)


class Recorder:
    """Runs no command: makes what each would make, or fails those that hold a word."""

    def __init__(self, study, failing=None):
        self.study, self.failing, self.ran = study, failing, []

    def __call__(self, command):
        words = command[3:-1]      # python -m easylm_imitation ... --json
        stage = next(s for s in self.study.stages if list(s.command) == words)
        self.ran.append(stage.name)
        if self.failing and self.failing in stage.name:
            return 1, ""
        (self.study.work / stage.makes).parent.mkdir(parents=True, exist_ok=True)
        (self.study.work / stage.makes).touch()
        return 0, "{}"


def test_the_grid_is_cells_and_shares_datasets(files):
    study = opened(files)
    names = ["large-talk-all-s0", "large-talk-all-s1", "large-talk-150-s0", "large-talk-150-s1",
             "small-talk-all-s0", "small-talk-all-s1", "large-talk-all-rows-s0", "large-talk-all-rows-s1"]
    assert [cell.name for cell in study.cells] == names
    assert len([s for s in study.stages if s.verb == "build"]) == 2     # one tokenizer, two budgets
    assert study.stages[-1].name == "report"
    places = {stage.name: i for i, stage in enumerate(study.stages)}
    assert all(places[name] < places[stage.name] for stage in study.stages for name in stage.after)
    whole = opened(files, "--config.vary=grid")
    assert len(whole.cells) == 2 * 2 * 2 + 2


def test_builds_look_for_the_items_of_all_that_is_asked(files):
    asked = ("--config.measure.tasks=own.yaml,mmlu", "--config.measure.task_data=tasks")
    for command in (stage.command for stage in opened(files, *asked).stages if stage.verb == "build"):
        assert command[command.index("--look-for"):][:4] == ("--look-for", "own.yaml,mmlu", "--task-data", "tasks")
    without = opened(files, *asked, "--config.measure.look_for=False")
    assert not any("--look-for" in stage.command for stage in without.stages)


def test_data_have_budgets_and_settings_of_their_own_and_cells_more_seeds(files):
    study = opened(files, "--config.vary=grid", "--config.ablations={}", "--config.seeds=[0]",
                   "--config.data.talk.budgets=[200, 150]", "--config.data.talk.train={'z_loss': 0.5}",
                   "--config.cells=['large-*', 'small-talk-200']", "--config.more_seeds={'*-150': [4]}")
    assert [cell.name for cell in study.cells] == [
        "large-talk-200-s0", "large-talk-150-s0", "large-talk-150-s4", "small-talk-200-s0"]
    command = study.stage("train-large-talk-150-s4").command
    assert {"--config.z_loss=0.5", "--config.steps=2"} <= set(command)
    with pytest.raises(UserError, match=r"data.talk.budgets names a value twice"):
        opened(files, "--config.data.talk.budgets=[150, 150]")


def test_ablations_are_of_a_cell_that_is_there(files):
    study = opened(files, "--config.vary=grid", "--config.seeds=[0]", "--config.cells=['small-*']")
    assert [cell.name for cell in study.cells] == ["small-talk-all-s0", "small-talk-150-s0", "small-talk-all-rows-s0"]


def test_the_real_study_limits_its_source_and_keeps_the_sources_terms(monkeypatch):
    monkeypatch.chdir(ROOT)
    given = load(StudyConfig, "configs/study/real_small.py").data["halueval"]
    source, = load(BuildConfig, given.config, grid._overrides(given.set)).sources
    assert source == dataclasses.replace(load(BuildConfig, given.config).sources[0], limit=4000)
    assert source.terms


def test_every_command_is_one_that_the_verbs_take(files):
    study = opened(files)
    for stage in study.stages:
        args = main.parse(stage.verb, stage.command[1:])
        assert args.command == "easylm-imitation " + shlex.join(stage.command)
    written = [word for stage in study.stages for flag, word in zip(stage.command, stage.command[1:])
               if flag in ("--out", "--answers-out", "--workdir")]
    assert len(set(written)) == len(written)
    train = study.stage("train-small-talk-all-s1").command
    assert {"--config.data.context=64", "--config.data.batch=8", "--config.steps=2"} <= set(train)
    assert train[train.index("--seed") + 1] == "1"
    assert "--config.loss=row_mean" in study.stage("train-large-talk-all-rows-s0").command


def test_recorded_answers_of_a_teacher_take_the_place_of_one_that_answers(files):
    (files / "said.jsonl").touch()
    asks = (f"--config.measure.style_reference={files}/said.jsonl", "--config.teacher=published:chatgpt")
    study = opened(files, *asks)
    style = [stage for stage in study.stages if stage.name.startswith("style-")]
    assert len(style) == 2 + 8
    for stage in style:
        assert stage.command[stage.command.index("--reference") + 1] == f"{files}/said.jsonl"
        assert all(name.startswith("train-") for name in stage.after)
    assert [s.name for s in study.stages if "teacher" in s.name] == ["evaluate-teacher"]
    assert outcome(study, {}, {}).seconds["evaluate-teacher"] == 0      # scores that somebody printed cost nothing
    with pytest.raises(UserError, match="style_reference is for style_prompts that no teacher answers"):
        opened(files, asks[0])
    with pytest.raises(UserError, match="needs a teacher that answers, or its recorded answers in measure.style_ref"):
        opened(files, asks[1])


def test_each_stage_runs_once_and_a_study_may_grow(files):
    study = opened(files)
    first = Recorder(study)
    found = run_study(study, runner=first)
    assert first.ran == [stage.name for stage in study.stages]
    assert set(found.states.values()) == {"done"}
    again = Recorder(study)
    run_study(opened(files), runner=again)
    assert again.ran == []
    larger = opened(files, "--config.seeds=[0,1,2]")
    more = Recorder(larger)
    run_study(larger, runner=more)
    assert more.ran
    assert all("-s2" in name or name == "report" for name in more.ran)


def test_what_fails_stops_only_what_needs_it(files):
    study = opened(files)
    some = Recorder(study, failing="train-small-talk-all-s1")
    found = run_study(study, runner=some)
    assert found.failed == {"train-small-talk-all-s1": 1}
    assert found.states["style-small-talk-all-s1"] == found.states["report"] == "waits"
    assert found.states["style-large-talk-all-rows-s1"] == "done"
    shown(study, found)
    rest = Recorder(study)
    run_study(study, runner=rest)
    assert rest.ran == ["train-small-talk-all-s1", "style-small-talk-all-s1", "report"]


def test_only_some(files):
    study = opened(files)
    some = Recorder(study)
    run_study(study, only="*-talk-150*", runner=some)
    assert some.ran == ["build-talk-150-" + study.bases["large"].tokenizer_id[:8], "train-large-talk-150-s0",
                        "train-large-talk-150-s1"]


def test_some_left_out_and_some_again(files):
    study = opened(files)
    some = Recorder(study)
    found = run_study(study, without=["report"], runner=some)
    assert some.ran == [stage.name for stage in study.stages[:-1]]
    assert found.states["report"] == "to do"
    run_study(study, runner=Recorder(study))
    again = Recorder(study)
    run_study(study, only="report", again=["report"], runner=again)
    assert again.ran == ["report"]
    broken = Recorder(study, failing="report")
    assert run_study(study, only="report", again=["report"], runner=broken).states["report"] == "failed"
    assert "report" not in finished(study)


@pytest.mark.parametrize(("change", "message"), [
    (["--config.set.optimizer.learning_rate=0.5"], "would now be made by"),
    (["--config.name=other"], "holds the study 'tiny'")])
def test_other_work_is_not_touched(files, change, message):
    study = opened(files)
    run_study(study, runner=Recorder(study))
    with pytest.raises(UserError, match=message):
        run_study(opened(files, *change), runner=Recorder(study))


def test_another_model_at_the_same_place_is_noticed(files):
    study = opened(files)
    run_study(study, runner=Recorder(study))
    lineage = json.loads((files / "small/lineage.json").read_text())
    (files / "small/lineage.json").write_text(json.dumps(lineage | {"id": "another"}))
    with pytest.raises(UserError, match="model or file of prompts or answers that it names has changed"):
        run_study(opened(files), runner=Recorder(study))


@pytest.mark.parametrize("name", ["prompts.jsonl", "said.jsonl"])
def test_other_style_prompts_or_reference_answers_at_the_same_place_are_noticed(files, name):
    (files / "said.jsonl").touch()
    asks = (f"--config.measure.style_reference={files}/said.jsonl", "--config.teacher=published:chatgpt")
    run_study(study := opened(files, *asks), runner=Recorder(study))
    (files / name).write_text('{"id": "q", "prompt": "Say it"}\n')
    with pytest.raises(UserError, match="-style.json: was made by .* that it names has changed"):
        run_study(opened(files, *asks), runner=Recorder(study))


@pytest.mark.parametrize(("change", "message"), [
    ("--config.bases.small=nowhere", "bases.small: nowhere"),
    ("--config.budgets=['20X']", "budget '20X'"),
    ("--config.seeds=[1,1]", "seeds names a value twice"),
    ("--config.set.stepz=3", "unknown key 'stepz'; did you mean 'steps'"),
    ("--config.measure.style_prompts=none", "nothing to measure"),
    ("--config.measure.style_prompts=no.jsonl", "measure.style_prompts: no.jsonl cannot be read"),
    ("--config.teacher=published:chatgpt", "needs a teacher that answers"),
    ("--config.data.talk.config=no.py", "no such file"),
    ("--config.launch={'serve': 'x'}", "launch names"),
    ("--config.cells=['large-*', 'smal-talk-all']",
     r"cells: 'smal-talk-all' fits no BASE-DATA-BUDGET of the study; did you mean 'small-talk-all'"),
    ("--config.cells=['small-talk-150']", "cells: 'small-talk-150' fits no"),     # `vary` leaves it out
    ("--config.more_seeds={'large-talk-15': [7]}",
     r"more_seeds: 'large-talk-15' fits no BASE-DATA-BUDGET of the study; did you mean 'large-talk-150'"),
    ("--config.topology=v9-8", "v9")])
def test_mistakes_are_told_before_anything_is_done(files, change, message):
    with pytest.raises(UserError, match=message):
        opened(files, change)
    assert not (files / "work").exists()


def test_time_and_cost(files):
    study = opened(files, "--config.topology=v5e-1")
    stage = study.stage("train-large-talk-all-s0")
    assert stage.work == describe(files / "large")[0].flops_per_token(128) * 2 * 8 * 128
    assert stage.planned > 0
    assert study.config.dollars_an_hour == pytest.approx(1.20)
    some = Recorder(study)
    found = run_study(study, only="*all-s0", runner=some)
    assert found.seconds["train-large-talk-all-s1"] is None or found.seconds["train-large-talk-all-s1"] > 0


def test_a_launcher_gets_the_whole_command(files):
    study = opened(files, "--config.launch={'train': \"bash launch/tpu_pod.sh run 'my pod' --\"}")
    seen = []

    def runner(command):
        seen.append(command)
        return 1, ""
    run_study(study, only="build-*", runner=Recorder(study))
    run_study(study, only="train-large-talk-all-s0", runner=runner)
    assert seen[0][:7] == ["bash", "launch/tpu_pod.sh", "run", "my pod", "--", "easylm-imitation", "train"]
    assert seen[0][-1] == "--json"


def verb(files, *args, **more):
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "easylm_imitation", "study", "--config", str(files / "study.py"), "--workdir",
               str(files / "work"), *args]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **more)


def test_a_dry_run_writes_nothing(files, capsys):
    assert main.main(["study", "--config", str(files / "study.py"), "--workdir", str(files / "work"), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "train-large-talk-all-s0: easylm-imitation train --config" in said
    assert "stages to do" in said
    assert not (files / "work").exists()


@pytest.mark.slow
def test_a_study_for_real_killed_once(files):
    less = ("--config.seeds=[0]", "--config.ablations={}")
    process = verb(files, *less)
    deadline = time.monotonic() + 600
    while not list((files / "work").glob("runs/*/checkpoints")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=600)[1]
    assert process.returncode in (0, 130), said
    process = verb(files, *less, "--json")
    out, said = process.communicate(timeout=1800)
    assert process.returncode == 0, said[-3000:]
    result = json.loads(out.splitlines()[-1])
    assert set(result["states"].values()) == {"done"}
    assert pathlib.Path(result["verdict"]).is_file()
    results = read_json(Results, files / "work/results/small-talk-all-s0-style.json")
    assert results.model.base == "id-small"
    assert results.model.teachers == ("teacher@id-teacher",)
    verdict = json.loads((files / "work/verdict/verdict.json").read_text())
    assert {made["imitation"]["name"] for made in verdict["imitations"]} == set(result["cells"])
