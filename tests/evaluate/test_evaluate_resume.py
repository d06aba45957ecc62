"""What a model said is kept: a killed evaluation continues, and nothing is asked twice."""
import collections
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import yaml
from endpoint import Endpoint, answer, serving

from easylm_imitation.cli.main import main
from easylm_imitation.evaluate import EvaluateConfig, evaluate_tasks
from easylm_imitation.evaluate.cache import Kept
from easylm_imitation.files import read_json
from easylm_imitation.records import Results

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(url, task, out):
    return ["evaluate", "--model", url, "--tasks", task, "--prompt", "chat", "--out", str(out),
            "--config.concurrency=1"]


def test_a_killed_evaluation_continues_and_asks_nothing_twice(task_files, tmp_path):
    """The server answers four prompts and then hangs; the client is killed with SIGKILL."""
    hang = [True]

    def behave(handler, body, n):
        if hang[0] and len(endpoint.answered) >= 4:
            time.sleep(60)
        return answer(body, text="Green")
    with serving(Endpoint(behave)) as endpoint:
        given = command(endpoint.url, task_files[1], tmp_path / "results/r.json")
        child = subprocess.Popen([sys.executable, "-m", "easylm_imitation", *given], cwd=ROOT,
                                 stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            until(lambda: len(endpoint.requests) >= 5)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        hang[0] = False
        assert main(given) == 0
    count = collections.Counter(json.dumps(body["messages"]) for body in endpoint.requests)
    assert sorted(count.values()) == [1] * 9 + [2], "only the prompt that was in flight is asked again"
    made = read_json(Results, tmp_path / "results/r.json").tasks[0]
    assert [(i.prediction, i.score) for i in made.items] == [("Green", 0.0)] * 10


def until(condition):
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "the child asked nothing"
        time.sleep(0.05)


def test_the_same_question_is_asked_once_and_another_model_is_asked_anew(server, task_files, tmp_path):
    """Log-likelihoods and texts; a sample is the beginning of the whole; another task has another journal."""
    cache = str(tmp_path / "cache")
    first = evaluate_tasks(server.url, task_files, limit=4, cache=cache)
    kept = pathlib.Path(cache).rglob("*.jsonl")
    lines = {path.name.split(".")[0]: len(path.read_text().splitlines()) for path in kept}
    assert lines == {"colours": sum(len(i) for i in options(4)), "answers": 4}
    again = evaluate_tasks(server.url, task_files, cache=cache)
    assert again.tasks == evaluate_tasks(server.url, task_files).tasks
    assert [t.items for t in first.tasks] == [t.items[:4] for t in again.tasks]
    with serving(Endpoint(lambda handler, body, n: answer(body, text="Green"))) as endpoint:
        for _ in range(2):
            evaluate_tasks(endpoint.url, task_files[1:], prompt="chat", cache=cache)
    assert len(endpoint.requests) == 10


def options(count):
    from evaluate_helpers import QUESTIONS
    return [q["options"] for q in QUESTIONS[:count]]


def test_samples_of_one_prompt_are_several_answers(task_files, tmp_path):
    """Each sample has a seed of its own, and all of them are kept."""
    path = pathlib.Path(task_files[1])
    config = yaml.safe_load(path.read_text()) | {
        "repeats": 3, "filter_list": [{"name": "all", "filter": [{"function": "take_first_k", "k": 3}]}]}
    path.write_text(yaml.safe_dump(config) + "process_results: !function count.count\n")
    path.with_name("count.py").write_text(
        "def count(doc, results):\n    return {'exact_match': len(set(results[0])) / len(results[0])}\n")

    def behave(handler, body, n):
        return answer(body, text=f"seed {body['seed']}")
    with serving(Endpoint(behave)) as endpoint:
        for _ in range(2):
            made = evaluate_tasks(endpoint.url, [str(path)], prompt="chat", limit=2, cache=str(tmp_path / "c"),
                                  config=EvaluateConfig(concurrency=2))
    assert [i.score for i in made.tasks[0].items] == [1.0, 1.0]
    assert collections.Counter(body["seed"] for body in endpoint.requests) == {1234: 2, 1235: 2, 1236: 2}


@pytest.mark.parametrize("said", ["text", (-1.5, True)])
def test_kept_answers_come_back_in_the_order_of_the_requests(said, tmp_path):
    class Request:
        def __init__(self, context):
            self.args = (context, {"until": []})
    requests, asked = [Request(c) for c in "abca"], []

    def ask(left):
        asked.extend(r.args[0] for r in left)
        for request in left:
            kept.add_partial("k", request.args, said)
        return [said for _ in left]
    with Kept(tmp_path / "j.jsonl") as kept:
        assert kept.through("k", requests[:2], ask) == [said] * 2
    with Kept(tmp_path / "j.jsonl") as kept:
        assert kept.through("k", requests, ask) == [said] * 4
        assert kept.found == 2
    assert asked == ["a", "b", "c", "a"]
