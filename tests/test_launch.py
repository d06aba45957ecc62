"""The launch scripts: they parse, call verbs that exist, install once and only when something changed, and say what to
try next where the work really went. The programs that they start are stand-ins here that note how they were called."""
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from easylm_imitation.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / ".ci/run"])
NOTE = '#!/usr/bin/env bash\necho "$(basename "$0")" "$@" >> calls\n'


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose environment exists: `calls` gathers what is called in it."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "easylm-imitation", "ruff"):
        (tmp_path / ".venv/bin" / name).write_text(NOTE)
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    for name in ("setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(checkout, script, *arguments):
    """(exit code, what it says, the calls it makes)."""
    (checkout / "calls").write_text("")
    done = subprocess.run(["bash", f"launch/{script}", *arguments], cwd=checkout, capture_output=True, text=True,
                          timeout=60, env={**os.environ, "PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
                          check=False)
    return done.returncode, done.stdout + done.stderr, (checkout / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse_and_call_verbs_with_flags_that_exist(script):
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    code = "\n".join(line for line in script.read_text().splitlines() if not line.startswith("#"))
    for verb, rest in re.findall(r"easylm-imitation ([a-z]+)([^\n]*)", code):
        assert verb in main.VERBS, f"{script}: unknown verb '{verb}'"
        words = shlex.split(re.split(r"\s{2,}", rest.replace('"$@"', ""))[0])
        if "--help" not in words:
            main.parse(verb, words)


def test_an_environment_is_installed_once_for_each_set_of_extras(checkout):
    installs = [sum("pip install" in call for call in run(checkout, script)[2])
                for script in ("quickstart.sh", "test.sh", "quickstart.sh", "test.sh")]
    elsewhere = (platform.system(), platform.machine()) != ("Linux", "x86_64")     # there is no compiler for TPUs
    assert installs == [2, 2 if elsewhere else 3, 0, 0]


def test_slow_tests_compile_llama_cpp_once_and_run_without_it_where_that_fails(checkout):
    failing = NOTE + 'case "$*" in *llama*) exit 1;; esac\n'
    (checkout / ".venv/bin/python").write_text(failing)
    code, said, calls = run(checkout, "test.sh", "--slow")
    assert (code, "llama.cpp could not be compiled, so its tests are skipped" in said) == (0, True), said
    assert [".[llama]" in call for call in calls].count(True) == 1
    assert "-m not gpu" in calls[-1]
    assert not any(".[llama]" in call for call in run(checkout, "test.sh", "--slow")[2])


def test_a_change_installs_again_and_so_does_changing_it_back(checkout):
    def installs():
        return any("pip install" in call for call in run(checkout, "quickstart.sh")[2])
    assert [installs(), installs()] == [True, False]
    before = (checkout / "setup.py").read_text()
    (checkout / "setup.py").write_text(before + "# another\n")
    assert [installs(), installs()] == [True, False]
    (checkout / "setup.py").write_text(before)
    assert [installs(), installs()] == [True, False]
    assert len((checkout / ".venv/.installed").read_text().splitlines()) == 1


def test_an_installation_that_fails_says_why_and_is_tried_again(checkout):
    python = checkout / ".venv/bin/python"
    python.write_text("#!/usr/bin/env bash\necho no network\nexit 1\n")
    code, said, calls = run(checkout, "quickstart.sh")
    assert (code, calls) == (2, [])
    assert "no network" in said
    assert "error: the installation failed" in said
    python.write_text(NOTE)
    assert any("pip install" in call for call in run(checkout, "quickstart.sh")[2])


@pytest.mark.parametrize(("flags", "work"), [
    ([], "runs/reproduce"), (["--workdir", "/tmp/my work"], "/tmp/my\\ work"),
    (["--json", "--workdir=there"], "there")])
def test_quickstart_reproduces_and_says_what_to_try_next(checkout, flags, work):
    code, said, calls = run(checkout, "quickstart.sh", *flags)
    assert code == 0
    assert calls[-1] == " ".join(["easylm-imitation reproduce --quick", *flags])
    assert f"easylm-imitation serve --model {work}/imitation --port 8000" in said
    assert f"--model {work}/imitation --tasks {work}/world/tasks/world_heldout_chat.yaml" in said


def test_quickstart_names_a_task_file_that_the_world_writes(tmp_path):
    from easylm_imitation.world import WorldConfig
    from easylm_imitation.world.synthetic import make_world
    named = set(re.findall(r"\$work/world/(tasks/[\w.]+)", (ROOT / "launch/quickstart.sh").read_text()))
    made = {str(task.path.relative_to(tmp_path)) for task in make_world(WorldConfig()).write(tmp_path)}
    assert named
    assert named <= made


def test_tests_run_without_slow_ones_unless_asked(checkout):
    quick, slow = (run(checkout, "test.sh", *flags)[2][-1] for flags in ([], ["--slow", "-x"]))
    spread = "-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"
    assert quick == f"python -m pytest -m not slow and not gpu --timeout 900 {spread}"
    assert slow == f"python -m pytest -m not gpu --timeout 3600 {spread} -x"
