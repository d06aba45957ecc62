"""Contrasts: the right sum with seeds and items, the words that follow, and what is refused."""
import dataclasses

import numpy as np
import pytest

from easylm_imitation.config import load_either
from easylm_imitation.files import write_json
from easylm_imitation.records import Item, Lineage, Results, TaskResult
from easylm_imitation.schema import UserError, build, plain
from easylm_imitation.world import FindingsConfig, ReproduceConfig, full, standard
from easylm_imitation.world.contrasts import finding_outcomes, read_scores, table_of, tell
from easylm_imitation.world.findings import find
from easylm_imitation.world.findings_config import Contrast


def put(folder, name, scores, task="t", protocol="p"):
    items = tuple(Item(str(i), float(s)) for i, s in enumerate(scores))
    result = TaskResult(task, "raw", "generation", "m", float(np.mean(scores)), items, protocol=protocol)
    write_json(folder / f"{name}.json", Results(Lineage(name, name, name, name), (result,)))


@pytest.fixture
def results(tmp_path):
    rng = np.random.default_rng(0)
    put(tmp_path, "base-L", rng.random(300) < 0.3)
    put(tmp_path, "base-L-style", rng.random(50), task="s")
    for seed in range(3):
        put(tmp_path, f"L-broad-9K-s{seed}", rng.random(300) < 0.6)
        put(tmp_path, f"L-broad-9K-rows-s{seed}", rng.random(300) < 0.5)
    put(tmp_path, "teacher", rng.random(300) < 0.95)
    return tmp_path


def test_a_name_takes_its_seeds_and_no_others(results):
    assert {task: len(runs) for task, runs in read_scores("L-broad-9K", results).items()} == {"t/raw": 3}
    assert set(read_scores("base-L", results)) == {"t/raw", "s/raw"}
    assert read_scores("L-broad", results) == {}


def test_the_number_is_the_sum_of_means(results):
    contrast = Contrast("1", "x", {"L-broad-9K": 1, "base-L": -0.75, "teacher": -0.25}, ("t/raw",))
    told, = tell([contrast], results)
    means = {name: np.mean([run.score for run in read_scores(name, results)["t/raw"]]) for name in contrast.of}
    assert told.estimate.value == pytest.approx(sum(sign * means[name] for name, sign in contrast.of.items()))
    assert told.estimate.low < told.estimate.value < told.estimate.high
    assert told.seeds == (3, 1, 1)


@pytest.mark.parametrize(("expect", "bound", "outcome"), [
    ("above", 0.0, "appears"), ("above", 0.3, "not settled"), ("above", 0.6, "does not appear"),
    ("below", 0.05, "does not appear"), ("below", 0.6, "appears")])
def test_the_words_follow_from_the_interval(results, expect, bound, outcome):
    told, = tell([Contrast("1", "x", {"L-broad-9K": 1, "base-L": -1}, ("t/raw",), expect, bound)], results)
    assert told.outcome == outcome


def test_a_finding_is_as_good_as_the_worst_of_what_decides(results):
    fine = Contrast("2", "x", {"teacher": 1, "base-L": -1}, ("t/raw",))
    bad = dataclasses.replace(fine, expect="below")
    missing = dataclasses.replace(fine, of={"M-broad-9K": 1, "base-L": -1})
    assert finding_outcomes(tell([fine, dataclasses.replace(bad, decides=False)], results)) == {"2": "appears"}
    assert finding_outcomes(tell([fine, bad], results)) == {"2": "does not appear"}
    told = tell([fine, missing], results)
    assert told[1].estimate is None
    assert finding_outcomes(told) == {"2": "not measured"}
    table = table_of(told)
    assert "(2) not measured" in table["title"]
    assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_models_that_were_measured_differently_are_refused(results):
    put(results, "base-M", [0.0, 1.0] * 150, protocol="q")
    with pytest.raises(UserError, match="different protocols"):
        tell([Contrast("1", "x", {"base-M": 1, "base-L": -1}, ("t/raw",))], results)


@pytest.mark.parametrize("made", [standard(), full()], ids=["standard", "full"])
def test_every_contrast_names_what_the_grid_makes(made):
    assert build(FindingsConfig, plain(made), "x") == build(FindingsConfig, plain(made), "x")
    ablations = made.grid.ablations
    known = {"teacher", *(f"base-{name}" for name in made.bases)}
    for base in made.bases:
        for data, given in made.data.items():
            cells = [f"{base}-{data}-{budget}" for budget in given.budgets or ["all"]]
            known |= {*cells, *(f"{cell}-{name}" for cell in cells for name in ablations)}
    assert {name for contrast in made.contrasts for name in contrast.of} <= known
    assert {contrast.finding for contrast in made.contrasts} >= set("12345678")
    for contrast in made.contrasts:
        assert abs(sum(contrast.of.values())) < 1e-9        # a contrast: equal models give nothing


def test_a_config_says_by_its_keys_what_it_is(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("from easylm_imitation.schema import plain\nfrom easylm_imitation.world import standard\n"
                    "def get_config():\n    return plain(standard())\n")
    kinds = {"grid": FindingsConfig, "": ReproduceConfig}
    assert load_either(kinds, str(path), ["--config.world.seed=3"]).world.seed == 3
    assert isinstance(load_either(kinds, None, ["--config.world.seed=3"]), ReproduceConfig)
    path.write_text("def get_config():\n    return {'world': {'seed': 4}}\n")
    assert isinstance(load_either(kinds, str(path)), ReproduceConfig)
    path.write_text("def get_config():\n    return {'grid': {}, 'contrast': 4}\n")
    with pytest.raises(UserError, match="unknown key 'contrast'"):
        load_either(kinds, str(path))


def broken(change):
    made = plain(full())
    change(made)
    return made


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["data"]["broad"].update(budget=["15K"]), r"data.broad: unknown key 'budget'; did you mean 'budgets'"),
    (lambda c: c["data"]["mixture"].update(caps=5), "data.mixture: unknown key 'caps'; did you mean 'cap'"),
    (lambda c: c["data"]["local"].update(files=["lokal"]), r"data.local.files names \['lokal'\]"),
    (lambda c: c["grid"]["ablations"]["contaminated"]["build"].update(cap=5), "build: unknown key 'cap'"),
    (lambda c: c["grid"]["ablations"]["contaminated"]["build"].update(files=["x"]), "contaminated.build.files names"),
    (lambda c: c["grid"].update(seed=[1]), "grid: unknown key 'seed'; did you mean 'seeds'"),
    (lambda c: c["bases"].update(teacher=c["bases"]["L"]), "a base named 'teacher' would overwrite"),
    (lambda c: c["prompts"].update(bare={"facts": 3}), "prompts named 'bare'"),
    (lambda c: c["prompts"].update(more={"routes": 3}), r"prompts.more names \['routes'\]")])
def test_a_typo_in_the_config_is_named(change, message):
    with pytest.raises(UserError, match=message):
        build(FindingsConfig, broken(change), "config")


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["bases"].update({"a-b": c["bases"]["L"]}), "'a-b' becomes part of file names"),
    (lambda c: c["data"]["broad"].update(budgets=["15X"]), "budget '15X'")])
def test_a_grid_that_no_study_takes_is_refused_before_anything_is_made(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        find(build(FindingsConfig, broken(change), "config"), tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_config_of_before_means_the_same():
    """The keys that are not said have their defaults: a folder whose config was written in fewer words goes on."""
    short = plain(standard())
    for name, given in short["data"].items():
        short["data"][name] = {key: value for key, value in given.items() if value}
    del short["grid"]["ablations"]
    assert build(FindingsConfig, short, "config") == build(FindingsConfig, plain(standard()), "config")


def test_what_could_be_read_wider_than_it_is_has_its_other_half_beside():
    beside = [c for c in standard().contrasts if not c.decides]
    assert {c.tasks[0] for c in beside if c.finding == "6" and "teacher" in c.of} == {
        "world_unsafe/chat", "world_lookalike/chat"}
    assert {(c.expect, c.bound) for c in beside if c.finding == "4" and ("rise" in c.says or "fall" in c.says)} == {
        ("below", 0.05), ("above", -0.05)}
    assert {c.tasks[0] for c in beside if c.finding == "3"} == {"style_match/chat", "rater_blind/chat"}
