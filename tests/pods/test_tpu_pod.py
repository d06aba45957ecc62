"""launch/tpu_pod.sh against a stand-in for gcloud that keeps a state and runs what hosts are told."""
import json
import re
import threading
import time

import pytest

from easylm_imitation.pods import commands

TPUS = ("compute", "tpus")
QUEUED = (*TPUS, "queued-resources")
POD = ("--type", "v5e-8", "--spot")


@pytest.mark.slow
def test_up_makes_prepares_runs_follows_and_doing_it_again_changes_nothing(cloud):
    words = ("a b", "it's", '"two"', "$HOME", "*", "back\\slash", "new\nline", "")
    code, out, err = cloud.run("up", "run1", *POD, "--slices", "2", "--env", "MINE=x y", "--", "bash", "-c",
                               'printf "[%s]" "$MINE" "$@"; echo; sleep 0.2', "me", *words)
    assert code == 0, err
    assert "".join(f"[{word}]" for word in ("x y", *words)) in out
    assert "done on every host" in err
    assert cloud.count(*QUEUED, "create") == 1
    (creation,) = [call for call in cloud.calls if call[:4] == [*QUEUED, "create"]]
    assert {"--node-count=2", "--node-prefix=run1", "--accelerator-type=v5litepod-8", "--spot",
            "--runtime-version=v2-alpha-tpuv5-lite", "--zone=us-west4-a", "--project=a-project"} <= set(creation)
    for node in ("run1-0", "run1-1"):
        for index in range(2):
            assert (cloud.host(node, index) / ".easylm_pod/run1/exit_code").read_text() == "0\n"
    assert cloud.run("create", "run1")[0] == 0
    assert cloud.run("setup", "run1")[0] == 0
    assert cloud.count(*QUEUED, "create") == 1
    code, out, _ = cloud.run("status", "run1")
    assert code == 0
    assert out.startswith("run1: ACTIVE\n")
    assert out.count("ended (exit code 0)") == 4
    for _ in range(2):
        assert cloud.run("delete", "run1")[0] == 0
    assert cloud.count(*QUEUED, "delete") == 1
    assert json.loads((cloud.folder / "state.json").read_text()) == {}


@pytest.mark.slow
def test_a_preempted_pod_is_made_again_and_the_same_command_continues(cloud):
    """The first attempt has the cloud take the machines away; what is in the bucket is all that is left."""
    bucket = cloud.folder / "buckets/mine"
    job = 'cat "../stage/text/shard 0"; echo "$HOST" >> ../bucket/attempts; ' \
          'if [ $(wc -l < ../bucket/attempts) -le 2 ]; then touch $CLOUD/preempt; sleep 60; fi; echo resumed'
    (cloud.folder / "flaky").write_text("7")
    (bucket / "data").mkdir()
    (bucket / "data/shard 0").write_text("tokens")
    code, out, err = cloud.run("up", "run1", *POD, "--mount", "gs://mine", "--stage", "text=gs://mine/data", "--",
                               "bash", "-c", job.replace("$HOST", "$(hostname)").replace("$CLOUD", str(cloud.folder)))
    assert code == 0, err
    assert "tokensresumed" in out
    assert re.search("lost: (SUSPENDED|LOST); making it again", err), err     # the request, or a node, is seen first
    assert "trying again" in err
    assert cloud.count(*QUEUED, "create") >= 2
    assert len((bucket / "attempts").read_text().splitlines()) >= 3     # both hosts, after one at least was lost


@pytest.mark.slow
def test_a_mistake_ends_it_and_a_failure_is_tried_again_but_not_for_ever(cloud):
    code, _, err = cloud.run("up", "run1", *POD, "--", "bash", "-c", "echo error: no such config; exit 2")
    assert code == 2
    assert "error: no such config" in err
    tries = cloud.folder / "tries"
    code, _, err = cloud.run("up", "run1", "--", "bash", "-c", f"echo x >> {tries}; echo broken; exit 1")
    assert code == 2
    assert "3 times in a row" in err
    assert len(tries.read_text().splitlines()) == 6


@pytest.mark.slow
def test_stop_tells_the_command_which_saves(cloud):
    assert cloud.run("create", "run1", *POD)[0] == 0
    assert cloud.run("setup", "run1")[0] == 0
    saves = "import signal, sys, time; signal.signal(15, lambda *_: (print('saved'), sys.exit(0))); " \
            "print('ready', flush=True); time.sleep(100)"
    for _ in range(2):      # the second finds it running
        assert cloud.run("run", "run1", "--", "python", "-c", saves)[0] == 0
    logs = [cloud.host("run1", i) / ".easylm_pod/run1/log" for i in range(2)]
    until = time.monotonic() + 60
    while not all("ready" in log.read_text() for log in logs) and time.monotonic() < until:
        time.sleep(0.05)
    assert "running" in cloud.run("status", "run1")[1]
    for _ in range(2):
        assert cloud.run("stop", "run1")[0] == 0
    assert [log.read_text() for log in logs] == ["ready\nsaved\n"] * 2
    assert cloud.run("logs", "run1")[1] == "ready\nsaved\n"


@pytest.mark.slow
def test_up_leaves_a_running_command_and_its_code_alone_and_takes_no_other_for_it(cloud):
    """Code that was committed meanwhile is for the next start: under a running command its files would vanish."""
    works = ("bash", "-c", "echo started; until [ -f stop ]; do sleep 0.05; done; cat launch/tpu_pod.sh | wc -l")
    assert cloud.run("create", "run1", *POD)[0] == 0
    assert cloud.run("setup", "run1")[0] == 0
    assert cloud.run("run", "run1", "--", *works)[0] == 0
    before = cloud.host("run1") / ".easylm_pod/run1/commit"
    commit = before.read_text()
    cloud.commit("second")
    for words in (("bash", "-c", "echo other"), ("--env", "A=b", "--", *works)):
        words = words if "--" in words else ("--", *words)
        for action in ("up", "run"):
            code, _, err = cloud.run(action, "run1", *words)
            assert (code, "another command runs on run1-0" in err) == (2, True), err
    asked = sum("sha256sum" in json.dumps(call) for call in cloud.calls)

    def end_when_seen():
        while sum("sha256sum" in json.dumps(call) for call in cloud.calls) == asked:
            time.sleep(0.05)
        time.sleep(0.5)
        for i in range(2):
            (cloud.host("run1", i) / ".easylm_pod/run1/code/stop").touch()
    ending = threading.Thread(target=end_when_seen)
    ending.start()
    code, _, err = cloud.run("up", "run1", "--", *works)
    ending.join()
    assert code == 0, err
    assert f"runs already, with the code of commit {commit[:12]}" in err
    assert before.read_text() == commit
    assert "done on every host" in err


@pytest.mark.slow
def test_a_pod_that_is_taken_away_while_it_comes_is_asked_for_anew(cloud):
    (cloud.folder / "take_early").touch()
    code, _, err = cloud.run("create", "run1", *POD)
    assert code == 0, err
    assert [word for word in ("SUSPENDING", "SUSPENDED", "ACTIVE") if f"run1: {word}" in err] == [
        "SUSPENDING", "SUSPENDED", "ACTIVE"]
    assert (cloud.count(*QUEUED, "create"), cloud.count(*QUEUED, "delete")) == (2, 1)


def test_a_program_that_never_ends_is_given_up_with_all_that_it_started(cloud, monkeypatch):
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(commands, "_LOOK", 1.0)
    (cloud.folder / "hangs").touch()
    said = commands.Commands(pause=0).ask(["gcloud", *QUEUED, "describe", "run1", "--zone=z", "--project=p"])
    assert said is None     # the second try's answer: not found


def test_a_log_is_read_on_from_the_byte_where_it_ended(tmp_path):
    """Also where that lies within a letter, or lines end as progress bars end them."""
    words = "a\r\nbä\rc".encode()
    (tmp_path / "log").write_bytes(words[:5])
    made = commands.Commands(pause=0)
    text = made.ask(["cat", str(tmp_path / "log")])
    assert len(text.encode("utf-8", "surrogateescape")) == 5
    assert made.hidden(text) == "a\r\nb\ufffd"


def test_secrets_reach_the_command_and_are_shown_nowhere(cloud):
    key = "k3y with 'quotes' and $signs"
    code, out, err = cloud.run("up", "run1", *POD, "--secret", "WANDB_API_KEY", "--", "bash", "-c",
                               f'echo "the key is $WANDB_API_KEY"; echo -n "$WANDB_API_KEY" > {cloud.folder}/got',
                               WANDB_API_KEY=key)
    assert code == 0, err
    assert (cloud.folder / "got").read_text() == key
    assert "the key is ***" in out
    assert "k3y" not in out + err + json.dumps(cloud.calls)
    secrets = cloud.host("run1") / ".easylm_pod/run1/secrets"
    assert secrets.stat().st_mode & 0o077 == 0
    code, _, err = cloud.run("run", "run1", "--secret", "ABSENT", "--", "x")
    assert (code, "ABSENT is not set" in err) == (2, True)


def test_a_dry_run_shows_each_step_and_calls_nothing(cloud):
    for action in ("check", "create", "setup", "status", "stop", "logs", "delete"):
        code, out, err = cloud.run(action, "run1", *POD, "--dry-run")
        assert code == 0, err
    code, out, err = cloud.run("up", "run1", *POD, "--slices", "2", "--mount", "gs://mine", "--dry-run", "--",
                               "easylm-imitation", "train", "--workdir", "../bucket/my run")
    assert code == 0, err
    for words in ("queued-resources create run1", "tpu-vm scp", "tpu-vm ssh run1-1", "gs://mine/.easylm-probe",
                  "../bucket/my run", "gcsfuse", "after a preemption"):
        assert words in err, words
    assert cloud.calls == []


@pytest.mark.parametrize(("words", "said"), [
    (("up", "run1", "--", "x"), "say --type"), (("up", "run1", *POD), "the command is missing"),
    (("status", "run1", *POD, "--", "x"), "takes no command"), (("create", "Run_1", *POD), "no name of a pod"),
    (("create", "run1", "--type", "big"), "no accelerator type"),
    (("create", "run1", "--type", "v9-8"), "name its software with --version"),
    (("create", "run1", *POD, "--slices", "0"), "at least 1"),
    (("run", "run1", *POD, "--env", "x", "--", "y"), "--env"),
    (("run", "run1", *POD, "--mount", "s3://b", "--", "y"), "'s3://b': only buckets of Google Cloud Storage"),
    pytest.param(("check", "run1", "--type", "v5e-3"), "has no v5litepod-3", marks=pytest.mark.slow),
    pytest.param(("check", "run1", *POD, "--version", "nothing"), "no such software nothing", marks=pytest.mark.slow),
    pytest.param(("check", "run1", "--type", "v5e-64"), "quota in us-west4-a is 16", marks=pytest.mark.slow),
    pytest.param(("check", "run1", "--type", "v5e-64", "--spot", "--slices", "4"), "256 chips, but the spot",
                 marks=pytest.mark.slow),
    pytest.param(("check", "run1", *POD, "--bucket", "gs://other"), "cannot be written", marks=pytest.mark.slow)])
def test_what_is_wrong_is_said_before_anything_is_made(cloud, words, said):
    code, _, err = cloud.run(*words)
    assert code == 2
    assert said in err
    assert cloud.count(*QUEUED, "create") == 0


@pytest.mark.slow
def test_preflight_looks_at_login_api_and_code(cloud):
    assert cloud.run("check", "run1", *POD, "--bucket", "gs://mine")[0] == 0
    for file, said in (("nobody", "gcloud auth login"), ("no_api", "gcloud services enable tpu.googleapis.com")):
        (cloud.folder / file).touch()
        code, _, err = cloud.run("check", "run1", *POD)
        (cloud.folder / file).unlink()
        assert code == 2
        assert said in err
    (cloud.checkout / "setup.py").write_text("# changed\n")
    code, _, err = cloud.run("up", "run1", *POD, "--", "true")
    assert (code, "changes that are in no commit" in err) == (2, True)
    assert list((cloud.folder / "buckets/mine").iterdir()) == []       # the probe is gone


@pytest.mark.slow
def test_a_host_with_another_commit_is_named_and_setup_mends_it(cloud):
    assert cloud.run("create", "run1", *POD)[0] == 0
    assert cloud.run("setup", "run1")[0] == 0
    (cloud.host("run1", 1) / ".easylm_pod/run1/commit").write_text("0123456789abcdef")
    code, _, err = cloud.run("run", "run1", "--", "true")
    assert (code, "run1-1 has commit 0123456789ab" in err) == (2, True)
    assert cloud.run("setup", "run1")[0] == 0
    assert cloud.run("run", "run1", "--", "true")[0] == 0


def test_a_pod_is_not_made_anew_with_other_properties_and_a_refusal_says_why(cloud):
    assert cloud.run("create", "run1", *POD)[0] == 0
    code, _, err = cloud.run("create", "run1", "--type", "v5e-16")
    assert (code, "was made with type v5litepod-8, not v5litepod-16" in err) == (2, True)
    (cloud.folder / "refuse").touch()
    code, _, err = cloud.run("create", "run2", *POD)
    assert (code, "answers FAILED" in err) == (2, True)
