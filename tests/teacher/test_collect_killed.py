"""A teacher that misbehaves in every way, and a process that is really killed again and again: the rows are those of a
quiet run, none doubled, none lost; nothing that stands in the ledger is asked again; and the ledger adds up."""
import json
import pathlib
import random
import subprocess
import sys
import time

import pytest
from collect_helpers import SEED_TASKS, invents, ledger_of, rows_of, text_of, write_lines
from endpoint import Endpoint, drop, send, serving

from easylm_imitation.files import digest, read_json
from easylm_imitation.records import CollectionCard

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANNERS = ["429", "500", "half a JSON", "nothing", "hangs"]     # an empty text and a refusal come from `invents`
RECIPES = {
    "answers": ["--config.samples=2", "--config.tries=20", "--config.refusals=drop"],
    "self-instruct": ["--config.rows=40", "--config.window=8"],
}


class Misbehaving(Endpoint):
    """Four of ten requests are answered as `invents` would, the others in one of the MANNERS; seeded."""

    def __init__(self, seed):
        super().__init__(self.misbehave)
        self.seed, self.asked, self.known = seed, [], set()
        self.doubled, self.manners = [], set()

    def misbehave(self, handler, body, n):
        request = digest(body)
        with self.lock:
            self.asked.append(request)
            if request in self.known:
                self.doubled.append(request)
            draw = random.Random(f"{self.seed}/{request}/{self.asked.count(request)}")
        manner = draw.choice(MANNERS) if draw.random() < 0.6 else ""
        self.manners.add(manner)
        if manner == "429":
            return send(handler, 429, {"error": {"message": "slower"}}, [("Retry-After", "0")])
        if manner == "500":
            return send(handler, 500, b"oops")
        if manner == "half a JSON":
            return send(handler, 200, json.dumps(priced(body)).encode()[:40])
        if manner in ("nothing", "hangs"):
            time.sleep(0.6 * (manner == "hangs"))
            return drop(handler)
        return priced(body)


def priced(body):
    """The answer, at a number of tokens that follows from the request."""
    counts = {"prompt_tokens": len(text_of(body)), "completion_tokens": int(digest(body)[:2], 16) % 50}
    return {**invents(body), "usage": counts}


def command(recipe, url, inputs, out):
    return [sys.executable, "-m", "easylm_imitation", "collect", "--teacher", url, "--prompts", str(inputs), "--json",
            "--out", str(out), f"--config.recipe={recipe}", "--config.seed=0", "--config.concurrency=6",
            "--config.timeout=0.5", "--config.attempts=60", "--config.longest_wait=0.02", "--config.price_in=1.0",
            "--config.price_out=2.0", "--config.max_tokens=64", *RECIPES[recipe]]


@pytest.mark.parametrize(("recipe", "kills"), [
    ("self-instruct", 2), pytest.param("answers", 10, marks=pytest.mark.slow),
    pytest.param("self-instruct", 10, marks=pytest.mark.slow)])
def test_a_bad_teacher_and_a_killed_process_give_the_rows_of_a_quiet_run(tmp_path, recipe, kills):
    inputs = write_lines(tmp_path / "inputs.jsonl", SEED_TASKS if recipe == "self-instruct" else
                         [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(40)])
    out, draw = tmp_path / "out.jsonl", random.Random(kills)
    with serving(Misbehaving(kills)) as endpoint:
        call = command(recipe, endpoint.url, inputs, out)
        for _ in range(kills):
            kill_after(call, out, draw.randint(1, 50 // kills))
            endpoint.known |= {body_hash for body_hash in answered(endpoint, out)}
            assert not out.exists()
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert_the_rows_of_a_quiet_run(recipe, inputs, out, tmp_path / "quiet.jsonl")
    assert endpoint.doubled == []
    assert endpoint.manners == {"", *MANNERS}
    assert {"", "I'm sorry, but I can't help with that."} <= {entry.response for entry in ledger_of(out)}
    assert_the_ledger_adds_up(result, out)


def kill_after(call, out, lines):
    """Starts the command and kills it with SIGKILL when the ledger has grown by so many lines."""
    ledger = pathlib.Path(f"{out}.ledger.jsonl")
    count = lambda: ledger.read_bytes().count(b"\n") if ledger.exists() else 0      # noqa: E731
    before, child = count(), subprocess.Popen(call, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while count() < before + lines:
        assert child.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)
    child.kill()
    child.wait()


def answered(endpoint, out):
    """Hashes of the requests whose answers stand in the ledger; its own hash is of messages, model and options."""
    in_ledger = {entry.request for entry in ledger_of_killed(out)}
    for body in list(endpoint.requests):
        options = {"max_tokens": body["max_tokens"], "temperature": body["temperature"], "top_p": None, "stop": None,
                   "seed": body["seed"]}
        if digest([body["messages"], body["model"], options]) in in_ledger:
            yield digest(body)


def ledger_of_killed(out):
    """The whole lines of a ledger; the last one may be torn."""
    path = pathlib.Path(f"{out}.ledger.jsonl")
    whole = path.read_bytes().rpartition(b"\n")[0] + b"\n"
    path.write_bytes(whole)
    return ledger_of(out)


def assert_the_rows_of_a_quiet_run(recipe, inputs, out, quiet):
    with serving(Endpoint(lambda handler, body, n: priced(body))) as endpoint:
        subprocess.run(command(recipe, endpoint.url, inputs, quiet), cwd=ROOT, capture_output=True, check=True)
    assert out.read_bytes() == quiet.read_bytes()
    names = [row.id for row in rows_of(out)]
    assert len(names) == len(set(names)) == {"answers": 80, "self-instruct": 40}[recipe]
    mine, its = ({entry.request: entry for entry in ledger_of(path)} for path in (out, quiet))
    assert mine.keys() == its.keys()


def assert_the_ledger_adds_up(result, out):
    entries = ledger_of(out)
    assert len({(e.prompt_id, e.sample, e.attempt) for e in entries}) == len(entries)
    assert {e.status for e in entries} == {"ok"}
    assert result["prompt_tokens"] == sum(e.prompt_tokens for e in entries) > 0
    assert result["completion_tokens"] == sum(e.completion_tokens for e in entries) > 0
    assert result["cost"] == pytest.approx((result["prompt_tokens"] + 2 * result["completion_tokens"]) / 1e6, abs=1e-6)
    assert result["asked"] + result["reused"] == len(entries)
    card = read_json(CollectionCard, f"{out}.card.json")
    assert (card.requests, card.cost, card.rows) == (len(entries), result["cost"], result["kept"])
