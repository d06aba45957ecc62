"""Two processes serve as one does, stop together, and neither waits for one that is gone."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest

from easylm_imitation.serve import Lost
from easylm_imitation.serve.processes import _SILENCE, Follower, Leader, _accept
from easylm_imitation.weights import save_run_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
several = [pytest.mark.slow, pytest.mark.multiprocess]
INPUTS = [{"ids": np.zeros((2, 3), np.int32), "flag": np.bool_(False)}, (np.zeros(4, np.float32),)]


@pytest.fixture
def pair():
    """A leader and a follower, with a connection of this process between them."""
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    leader, follower = Leader([ours]), Follower(theirs)
    yield leader, follower, ours
    leader.close()
    follower.close()
    ours.close()


def test_programs_and_their_inputs_arrive_as_they_were_told(pair):
    leader, follower, _ = pair
    follower.ready()
    leader.wait(lambda reason: None)
    told = [(1, (np.float32([1, -2, np.inf, 0.5]),)),
            (0, {"ids": np.arange(6, dtype=np.int32).reshape(3, 2).T, "flag": np.bool_(True)})]
    for number, inputs in told:
        leader.tell(number, inputs)
    leader.close()
    for (number, inputs), (got, heard) in zip(told, follower.calls(INPUTS), strict=True):
        assert number == got
        if number:
            np.testing.assert_array_equal(heard[0], inputs[0])
        else:
            np.testing.assert_array_equal(heard["ids"], inputs["ids"])
            assert heard["flag"]


def test_a_leader_that_goes_without_a_word_is_lost(pair):
    leader, follower, _ = pair
    leader.close(failed=True)
    with pytest.raises(Lost, match="process 0 has ended"):
        next(follower.calls(INPUTS))


@pytest.mark.parametrize("when", ["before it is ready", "later"])
def test_a_follower_that_goes_is_lost(pair, when):
    leader, follower, _ = pair
    lost = queue.Queue()
    if when == "later":
        follower.ready()
        leader.wait(lost.put)
    follower._leader.shutdown(socket.SHUT_RDWR)
    if when == "later":
        assert lost.get(timeout=30) == "process 1 has ended"
        with pytest.raises(Lost):
            leader.tell(0, INPUTS[0])
    else:
        with pytest.raises(Lost, match="process 1 has ended"):
            leader.wait(lost.put)


def test_a_follower_that_is_silent_is_lost():
    ours, theirs = socket.socketpair()
    ours.settimeout(0.05)
    leader = Leader([ours])     # nobody beats at the other end
    with pytest.raises(Lost, match="was not heard of"):
        leader.wait(lambda reason: None)
    ours.close()
    theirs.close()


def test_who_does_not_know_the_secret_is_turned_away_and_holds_nobody_up():
    secret, said = bytes(range(32)), struct.pack("<I", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        silent, wrong, other, right, second = (
            stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(5))
        wrong.sendall(bytes(32) + said)
        other.sendall(secret + struct.pack("<I", 7))       # no such process
        right.sendall(secret + said)
        second.sendall(secret + struct.pack("<I", 2))
        started = time.monotonic()
        found = [stack.enter_context(one) for one in _accept(listener, secret, 2)]
        assert time.monotonic() - started < _SILENCE / 2   # the silent one was not waited for
        assert [one.getpeername() for one in found] == [right.getsockname(), second.getsockname()]
        for stray in (wrong, other):
            stray.settimeout(20)
            assert stray.recv(1) == b""


# ---------------------------------------------------------------- real processes

@pytest.fixture(scope="module")
def run(served_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pod") / "run"
    names = ("config", "params", "tokenizer", "template", "lineage")
    save_run_model(folder, *(getattr(served_model, name) for name in names))
    return folder


class Pod:
    """Two processes of two devices each that serve one model on loopback."""

    def __init__(self, run, mesh):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
        command = [sys.executable, "-m", "easylm_imitation", "serve", "--model", str(run), "--port", "0", "--json",
                   "--mesh", mesh, "--config.context=96", "--config.slots=4",
                   "--config.limits.drain_seconds=300"]
        self.processes = [subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2",
                 "JAX_PROCESS_ID": str(index)}) for index in range(2)]
        self.said = [[], []]
        self._lines = queue.Queue()
        self._readers = [threading.Thread(target=self._read, args=(index, process), daemon=True)
                         for index, process in enumerate(self.processes)]
        for reader in self._readers:
            reader.start()

    def _read(self, index, process):
        for line in process.stderr:
            self.said[index].append(line)
            self._lines.put(line)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for reader, process in zip(self._readers, self.processes, strict=True):
            reader.join()
            process.stderr.close()
            process.stdout.close()

    def url(self):
        lines = iter(lambda: self._lines.get(timeout=240), None)
        return next(line.split(" at ")[1].strip().removesuffix("/v1") for line in lines if " is ready at " in line)

    def wait(self):
        return [process.wait(timeout=120) for process in self.processes]


@contextlib.contextmanager
def pod(run, mesh):
    opened = Pod(run, mesh)
    try:
        yield opened
    except Exception:
        print(*opened.said[0], "---", *opened.said[1])
        raise
    finally:
        opened.close()


def bodies():
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 290, rng.integers(1, 60)).tolist() for _ in range(9)]
    return [("/v1/completions", {"prompt": prompt, "max_tokens": 5 + i, "temperature": i % 2, "seed": i, "logprobs": 2})
            for i, prompt in enumerate(prompts)] + [
        ("/v1/score", {"pairs": [[prompt, [4, i]] for i, prompt in enumerate(prompts)]})]


def answers(url):
    with httpx.Client(base_url=url, timeout=120) as client, concurrent.futures.ThreadPoolExecutor(10) as pool:
        found = [future.result().json() for future in [pool.submit(client.post, path, json=body)
                                                       for path, body in bodies()]]
    texts = [(one["choices"][0]["text"], one["choices"][0]["finish_reason"]) for one in found[:-1]]
    return texts, [score["token_logprobs"] for score in found[-1]["scores"]]


@pytest.mark.parametrize(("mesh", "who"), [
    pytest.param("data:2,tensor:2", 1, marks=several), pytest.param("tensor:4", 0, marks=several)])
def test_two_processes_answer_as_one_and_stop_together_when_one_is_told(run, server, mesh, who):
    with pod(run, mesh) as processes:
        url = processes.url()
        texts, scores = answers(url)
        expected = answers(server.url)
        assert texts == expected[0]
        for ours, theirs in zip(scores, expected[1], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert "compilations_total 0\n" in httpx.get(f"{url}/metrics", timeout=60).text
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(httpx.post, f"{url}/v1/completions", timeout=120,
                               json={"prompt": ["a"] * 8, "n": 4, "max_tokens": 24})
            while "slots_busy 4" not in httpx.get(f"{url}/metrics", timeout=60).text:
                pass
            processes.processes[who].send_signal(signal.SIGTERM)
            assert len(slow.result().json()["choices"]) == 32
        outs = [process.stdout.read() for process in processes.processes]
        assert processes.wait() == [0, 0]
        assert json.loads(outs[0].splitlines()[-1])["counts"]["answers"] >= 41


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_dead_process_fails_what_waits_and_turns_health_red_and_a_dead_leader_ends_the_other(run):
    with pod(run, "data:2,tensor:2") as processes:
        url = processes.url()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(httpx.post, f"{url}/v1/completions", timeout=120,
                               json={"prompt": ["a"] * 64, "n": 8, "max_tokens": 90})
            while "slots_busy 4" not in httpx.get(f"{url}/metrics", timeout=60).text:
                pass
            processes.processes[1].kill()
            assert slow.result(30).status_code == 500
        assert httpx.get(f"{url}/health", timeout=60).status_code == 503
        late = httpx.post(f"{url}/v1/completions", json={"prompt": "a"}, timeout=60)
        assert late.status_code == 500
        processes.processes[0].send_signal(signal.SIGTERM)
        assert processes.processes[0].wait(timeout=60) == 1
    with pod(run, "data:2,tensor:2") as processes:
        processes.url()
        processes.processes[0].kill()
        assert processes.processes[1].wait(timeout=60) == 1
        assert "process 0 has ended" in "".join(processes.said[1])
