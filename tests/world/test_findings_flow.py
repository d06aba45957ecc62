"""The standard run, everything as small as it goes, as a user starts it: every stage, contrast and part of the page."""
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from browser import DESKTOP, PHONE, chromium, visit  # noqa: F401

from easylm_imitation.cli import main
from easylm_imitation.files import read_json, read_jsonl
from easylm_imitation.records import Conversation, Results
from easylm_imitation.weights import describe

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ("reproduce", "--config", str(ROOT / "configs/reproduce/tiny.py"))


def run_tiny(folder):
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "easylm_imitation", *TINY, "--workdir", str(folder), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "work"
    return folder, run_tiny(folder)


@pytest.mark.slow
def test_every_contrast_has_a_number(tiny):
    folder, made = tiny
    assert set(made["outcomes"]) == set("12345678")
    assert all(told["estimate"] for told in made["told"])
    kept = json.loads((folder / "findings.json").read_text())
    assert kept["outcomes"] == made["outcomes"]
    assert kept["contrasts"] == made["told"]


@pytest.mark.slow
def test_what_is_imitated_is_the_served_teachers(tiny):
    folder, _ = tiny
    label = describe(folder / "teacher")[1].label
    held_out = json.loads((folder / "world/world.json").read_text())["held_out"]
    for name in ("broad", "local", "route", "program", "bare"):
        talk = read_jsonl(Conversation, folder / "collected" / f"{name}.jsonl")
        assert {c.teacher for c in talk} == {label}
        assert not [c for c in talk if re.search(rf"\b({'|'.join(held_out)})\b", c.messages[0].content)]
    whole, bare = (read_jsonl(Conversation, folder / f"collected/{name}.jsonl") for name in ("route", "bare"))
    for long, short in zip(whole, bare, strict=True):
        assert long.messages[0] == short.messages[0]
        assert long.messages[1].content.strip().endswith(short.messages[1].content)
        assert "\n" not in short.messages[1].content
    results = read_json(Results, folder / "study/results/L-local-200-s0.json")
    assert results.model.teachers == (label,)
    assert results.model.base == describe(folder / "bases/L")[1].id


@pytest.mark.slow
def test_finished_work_is_found_again(tiny):
    folder, made = tiny
    marks = {p: p.stat().st_mtime_ns for p in [*(folder / "study/runs").glob("*/checkpoints/*"),
                                               *(folder / "study/results").glob("*-style.json")]}
    again = run_tiny(folder)
    assert again["told"] == made["told"]
    assert marks == {p: p.stat().st_mtime_ns for p in marks}


@pytest.mark.slow
def test_another_config_does_not_touch_the_work(tiny, capsys):
    folder, _ = tiny
    assert main.main([*TINY, "--workdir", str(folder), "--config.world.seed=7"]) == 2
    assert "holds the work of another config" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_in_a_browser(tiny, chromium, viewport, scheme):  # noqa: F811
    with visit(chromium, pathlib.Path(tiny[1]["page"]).as_uri(), viewport=viewport, color_scheme=scheme) as page:
        text = page.locator("body").inner_text()
        assert "Findings" in text
        for figure in ("Figure 1", "Figure 3", "Figure 4", "Figure 5", "Table 1", "Table 2"):
            assert f"As the paper's {figure}" in text
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not wide
