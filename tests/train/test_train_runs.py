"""`runs` tells from files what is there, and from a lock who works on it."""
import json
import shutil

import pytest

from easylm_imitation.cli.main import main
from easylm_imitation.schema import UserError
from easylm_imitation.train.lock import RunLock
from easylm_imitation.train.runs import age, find_runs, sparkline, summarize
from easylm_imitation.weights import RunDir


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    """A finished run, one that was killed after 4 of 9 updates, and a folder without any."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(whole, folder / "a" / "whole")
    run = RunDir(shutil.copytree(whole, folder / "b"))
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[:4]))
    for step in (6, 9):
        shutil.rmtree(run.checkpoints / str(step))
    (folder / "c").mkdir()
    return folder


def test_runs_are_found_with_their_states_steps_and_losses(folder):
    whole, stopped = find_runs([folder])
    assert (whole.path, whole.state, whole.step, whole.total_steps) == (str(folder / "a/whole"), "finished", 9, 9)
    assert (stopped.path, stopped.state, stopped.step, stopped.total_steps) == (str(folder / "b"), "interrupted", 3, 9)
    assert stopped.logged == 4
    assert stopped.losses == whole.losses[:4]
    assert whole.loss == whole.losses[-1] < whole.losses[0]
    assert find_runs([folder / "b", folder]) == [whole, stopped]
    assert find_runs([folder / "c"]) == []
    with pytest.raises(UserError, match="absent: no such folder"):
        find_runs([folder / "absent"])


def test_states_follow_what_is_on_disk(folder, tmp_path):
    run = RunDir(shutil.copytree(folder / "b", tmp_path / "run"))
    lock = RunLock(run)
    assert summarize(run.path).state == "training"
    lock.close()
    with open(run.metrics, "a") as file:
        file.write(json.dumps({"step": 5, "loss": None}) + "\n" + '{"step": 6, "lo')      # being written
    found = summarize(run.path)
    assert (found.state, found.step, found.logged, found.loss) == ("diverged", 3, 5, found.losses[3])
    shutil.rmtree(run.checkpoints)
    run.metrics.unlink()
    assert summarize(run.path).state == "not started"
    run.metrics.write_text("no json\n")
    assert summarize(run.path).state == "unreadable"
    run.metrics.unlink()
    run.length.unlink()                 # a run from before there was one
    assert summarize(run.path).total_steps == 9
    run.config.unlink()
    shutil.copytree(folder / "b" / "checkpoints", run.checkpoints)
    assert summarize(run.path).state == "model"


def test_the_verb_prints_a_table_and_json(folder, capsys):
    assert main(["runs", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    runs = json.loads(out.splitlines()[-1])["runs"]
    told = [(run["state"], run["step"], len(run["curve"])) for run in runs]
    assert told == [("finished", 9, 9), ("interrupted", 3, 4)]
    assert "9/9" in err
    assert runs[0]["curve"] in err
    assert main(["runs", str(folder / "c")]) == 0
    assert "no runs in" in capsys.readouterr().err


@pytest.mark.parametrize(("losses", "curve"), [
    ([], ""), ([2.0], "▁"), ([4.0, 3.0, 2.0, 1.0], "█▆▃▁"), ([1.0, None, 2.0], "▁█"), ([7.0] * 100, "▁" * 20),
    (list(range(100)), "▁▁▂▂▂▃▃▄▄▄▅▅▅▆▆▇▇▇██")])
def test_a_sparkline_is_means_of_equal_parts(losses, curve):
    assert sparkline(losses) == curve


def test_age_is_told_in_its_largest_unit(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    ages = [age(1_000_000.0 - seconds) for seconds in (5, 119, 121, 7200, 200_000)]
    assert ages == ["5 s", "119 s", "2 min", "2 h", "2 d"]
    assert age(None) == "-"
