"""Folders appear whole or not at all, and what killed attempts left is swept away by the next."""
import pathlib
import signal
import subprocess
import sys

import pytest

from easylm_imitation.folders import finished_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORKS = """
import sys, time
from easylm_imitation.folders import finished_folder
with finished_folder(sys.argv[1]) as folder:
    (folder / "part").write_text("half")
    print("working", flush=True)
    time.sleep(600)
"""


def at_work(path):
    process = subprocess.Popen([sys.executable, "-c", WORKS, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "working\n"
    return process


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_next_attempt_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    others = [tmp_path / name for name in (".out.abcdefgh", ".out.abcdefgh.unfinished.d", ".other.abcdefgh.unfinished")]
    for other in others:
        other.mkdir()
    killed, alive = at_work(tmp_path / "out"), at_work(tmp_path / "out")
    try:
        assert len(names(tmp_path)) == 5
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        with finished_folder(tmp_path / "out") as folder:
            (folder / "whole").touch()
        assert names(tmp_path / "out") == ["whole"]
        left = [name for name in names(tmp_path) if name not in {"out", *(other.name for other in others)}]
        assert len(left) == 1       # of the one that is still at work
        assert (tmp_path / left[0] / "part").read_text() == "half"
        assert all(other.is_dir() for other in others)
    finally:
        for process in (killed, alive):
            process.kill()
            process.wait()
            process.stdout.close()


def test_nothing_is_left_of_a_failure(tmp_path):
    def fails():
        with finished_folder(tmp_path / "a" / "b" / "out") as folder:
            (folder / "part").touch()
            raise KeyError
    with pytest.raises(KeyError):
        fails()
    assert names(tmp_path) == []
