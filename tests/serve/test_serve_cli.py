"""The verb `serve`: refusals before any work, and a real process that drains on SIGTERM."""
import concurrent.futures
import contextlib
import json
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from serve_helpers import CONFIG

from easylm_imitation import console, serve
from easylm_imitation.cli.main import main
from easylm_imitation.cli.serve import Notice, _stop_or_leave
from easylm_imitation.config import load
from easylm_imitation.schema import UserError
from easylm_imitation.serve import ServeConfig
from easylm_imitation.serve.scheduler import Scheduler
from easylm_imitation.weights import save_run_model

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_taken_port_is_one_line_and_exit_2_before_the_weights_are_read(server, capfd):
    port = server.url.rpartition(":")[2]
    assert main(["serve", "--model", "/no/such/model", "--port", port]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines == [f"error: --port {port} on 127.0.0.1: cannot be used (Address already in use); stop what holds it, "
                     "or give another --port (0 takes a free one)"]


@pytest.mark.parametrize(("arguments", "says"), [
    (["--host", "0.0.0.0"], "set the environment variable EASYLM_IMITATION_API_KEY"),
    (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    (["--port", "70000"], "70000"),
    (["--config.slots=0"], "slots is 0"),
    (["--config.context=0"], "context is 0; it must be at least 1"),
    (["--config.live_lengths=(32, 0)"], "live_lengths is 0; it must be at least 1"),
    (["--config.limits.queue=0"], "limits.queue is 0; it must be at least 1"),
    (["--config.limits.body_bytes=-1"], "limits.body_bytes is -1; it must be at least 1"),
    (["--config.limits.keepalive_seconds=0"], "limits.keepalive_seconds is 0"),
    (["--config.limits.drain_seconds=-1"], "limits.drain_seconds is -1"),
    (["--config.slot=4"], "did you mean 'slots'"),
    (["--port", "0"], "/no/such/model: no such folder")])
def test_refusals_are_one_line_and_exit_2(capfd, monkeypatch, arguments, says):
    monkeypatch.delenv("EASYLM_IMITATION_API_KEY", raising=False)
    assert main(["serve", "--model", "/no/such/model", *arguments]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last


def test_a_context_that_the_model_does_not_hold_is_told_before_the_weights_are_read(served_model, tmp_path):
    run = tmp_path / "run"
    save_run_model(run, *(getattr(served_model, name) for name in ("config", "params", "tokenizer", "template",
                                                                   "lineage")))
    shutil.rmtree(next(path for path in run.iterdir() if path.is_dir()))     # the weights
    with pytest.raises(UserError, match="context 129: the model holds 128 tokens"):
        serve.open_weights(str(run), ServeConfig(context=129))


def test_the_config_file_loads_and_means_the_defaults():
    assert load(ServeConfig, str(ROOT / "configs/serve/default.py")) == ServeConfig()


def test_the_second_signal_ends_a_lone_process_at_once(monkeypatch):
    left = []
    monkeypatch.setattr("os._exit", left.append)
    for alone in (False, True):
        stop = Notice()
        handle = _stop_or_leave(stop, alone)
        handle(signal.SIGTERM, None)
        assert (stop.given, left) == (True, [])
        stop.wait()
        handle(signal.SIGTERM, None)
    assert left == [143]


def test_a_server_whose_engine_failed_ends_with_1_when_it_is_told_to_stop(served_model, monkeypatch, capfd):
    def use(line):
        if line.startswith("chat with it"):
            url = line.rpartition(" ")[2]
            assert httpx.post(f"{url}/v1/completions", json={"prompt": "a"}, timeout=60).status_code == 500
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(serve, "open_weights", lambda path, config: served_model)
    monkeypatch.setattr(Scheduler, "_turn", lambda self: 1 / 0)
    monkeypatch.setattr(console, "say", use)
    sizes = [f"--config.{name}={getattr(CONFIG, name)}"
             for name in ("slots", "context", "decode_rows", "live_lengths", "score_tokens")]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as left:
            main(["serve", "--model", "tiny", "--port", "0", *sizes])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert left.value.code == 1
    assert "the engine failed" in capfd.readouterr().err


@contextlib.contextmanager
def a_process(model, run):
    """(a process that serves, the lines that it says), from its start on."""
    save_run_model(run, *(getattr(model, name) for name in ("config", "params", "tokenizer", "template", "lineage")))
    command = [sys.executable, "-m", "easylm_imitation", "serve", "--model", str(run), "--port", "0", "--json",
               "--config.context=96", "--config.slots=4", "--config.limits.drain_seconds=300"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stderr], daemon=True).start()
    try:
        yield process, iter(lambda: lines.get(timeout=120), None)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_what_runs(served_model, tmp_path):
    with a_process(served_model, tmp_path / "run") as (process, said):
        url = httpx.URL(next(line.split(" at ")[1].strip() for line in said if " is ready at " in line))
        with socket.create_connection((url.host, url.port)) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                         b"Content-Length: 100\r\n\r\n{")
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            next(line for line in said if "stopping" in line)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 143
        assert "cut off" in next(said)


@pytest.mark.slow
def test_a_process_serves_a_run_and_finishes_requests_on_sigterm(served_model, tmp_path):
    with a_process(served_model, tmp_path / "run") as (process, said):
        url = next(line.split(" at ")[1].strip() for line in said if " is ready at " in line)
        # Answers that do not end early, and so many that they are not done before anybody has looked.
        body = {"prompt": ["a"] * 16, "n": 16, "max_tokens": 90, "logit_bias": {"0": -100, "1": -100, "2": -100}}
        with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx.Client(timeout=60) as client:
            assert client.get(f"{url}/models").json()["data"][0]["lineage"]["name"] == "tiny"
            slow = pool.submit(httpx.post, f"{url}/completions", json=body, timeout=300)
            while "slots_busy 4" not in client.get(url.removesuffix("/v1") + "/metrics").text:
                assert not slow.done(), slow.result().text
            process.send_signal(signal.SIGTERM)
            assert len(slow.result().json()["choices"]) == 256
        process.wait(300)
        assert process.returncode == 0
        assert json.loads(process.stdout.read().strip().splitlines()[-1])["counts"]["answers"] == 256
