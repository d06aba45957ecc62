"""The main job, as a user runs it: every stage for real, at a small size here, at its own among the slow tests."""
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from easylm_imitation.cli import main
from easylm_imitation.files import read_json, read_jsonl
from easylm_imitation.records import Conversation, LedgerEntry, Results
from easylm_imitation.weights import describe

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_verb(*args):
    """The command in a process of its own, with the compiler's defaults instead of the tests' fast ones."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "easylm_imitation", *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def reproduce(folder, *args):
    done = run_verb("reproduce", *args, "--workdir", str(folder), "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.rstrip().splitlines()[-1].startswith("report: ")
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "work"
    return folder, reproduce(folder, "--config", "configs/reproduce/ci.py")


def test_every_stage_leaves_its_work(small):
    folder, made = small
    names = ("base", "imitation", "teacher")
    results = {name: read_json(Results, folder / "results" / f"{name}.json") for name in names}
    assert results["imitation"].model.base == results["base"].model.id == describe(folder / "base")[1].id
    assert results["imitation"].model.teachers == (results["teacher"].model.label,)
    assert describe(folder / "export")[1] == results["imitation"].model
    assert pathlib.Path(made["page"]).is_file()
    assert [v["imitation"]["name"] for v in made["imitations"]] == ["imitation"]
    assert made["refusals"] == []
    [missing] = made["missing"]     # the world's items are not asked of the training data
    assert missing.startswith("imitation: not looked for in the training data: world_")


def test_the_imitation_data_are_the_served_teachers_words(small):
    folder, _ = small
    paid = {(e.prompt_id, e.response) for e in read_jsonl(LedgerEntry, folder / "collected.jsonl.ledger.jsonl")}
    collected = read_jsonl(Conversation, folder / "collected.jsonl")
    held_out = json.loads((folder / "world" / "world.json").read_text())["held_out"]
    assert collected
    for conversation in collected:
        assert conversation.teacher == describe(folder / "teacher")[1].label
        assert not re.search(rf"\b({'|'.join(held_out)})\b", conversation.messages[0].content)
    assert {c.messages[-1].content for c in collected} <= {response for _, response in paid}


def test_imitation_takes_on_the_style(small):
    _, made = small
    style = {s["role"]: s["score"] for s in made["scores"] if s["task"] == "style_match"}
    assert style["imitation"] > style["base"] + 0.2
    assert style["teacher"] > style["base"] + 0.2


def test_finished_work_is_found_again(small):
    folder, made = small
    marks = {p: p.stat().st_mtime_ns for p in [*(folder / "results").iterdir(), *folder.glob("*/checkpoints/*/*")]}
    again = reproduce(folder, "--config", "configs/reproduce/ci.py")
    assert again["scores"] == made["scores"]
    assert marks == {p: p.stat().st_mtime_ns for p in marks}


def test_another_config_does_not_touch_the_work(small, capsys):
    folder, _ = small
    other = ("--config", str(ROOT / "configs/reproduce/ci.py"), "--config.world.seed=7")
    assert main.main(["reproduce", *other, "--workdir", str(folder)]) == 2
    assert "holds the work of another config" in capsys.readouterr().err


@pytest.mark.parametrize("both", [["--quick", "--full"], ["--quick", "--config", "configs/reproduce/ci.py"]])
def test_two_sizes_are_an_error(tmp_path, both):
    assert main.main(["reproduce", *both, "--workdir", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_quick_shows_style_without_substance(tmp_path):
    made = reproduce(tmp_path / "work", "--quick")
    scores = {(s["role"], s["task"]): s["score"] for s in made["scores"]}
    assert scores["teacher", "world_heldout_choices"] > scores["base", "world_heldout_choices"] + 0.15
    assert scores["imitation", "style_match"] > scores["base", "style_match"] + 0.4
    views = {(v["group"], v["prompt"], v["form"]): v["numbers"]["closed"] for v in made["imitations"][0]["views"]}
    assert views["style", "chat", "style"]["low"] > 0.5
    assert views["substance", "raw", "choices"]["high"] < 0.5
