"""Tasks whose answers are programs, from the request to the score: a scripted server, a real sandbox."""
import gzip
import json

import pytest
from endpoint import Endpoint, answer, serving

from easylm_imitation.evaluate import evaluate_tasks
from easylm_imitation.evaluate.after import unable
from easylm_imitation.evaluate.config import EvaluateConfig
from easylm_imitation.evaluate.tasks import find_tasks, protocol

PROBLEMS = [{"task_id": f"HumanEval/{i}", "entry_point": name, "prompt": f'def {name}(x):\n    """{what}"""\n',
             "canonical_solution": f"    return {code}\n",
             "test": f"def check(candidate):\n    assert candidate(4) == {right}\n"}
            for i, (name, what, code, right) in enumerate([("twice", "Twice x.", "2 * x", 8),
                                                           ("square", "x times x.", "x * x", 16)])]


@pytest.fixture
def problems(tmp_path):
    (tmp_path / "human_eval").mkdir()
    with gzip.open(tmp_path / "human_eval" / "HumanEval.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(problem) + "\n" for problem in PROBLEMS)
    [task] = find_tasks(["humaneval"], str(tmp_path))
    if reason := unable(task, EvaluateConfig()):
        pytest.skip(reason)
    return str(tmp_path)


def test_programs_in_chat_are_asked_for_run_and_scored(problems):
    """The first is right, in a fence; the second is wrong."""
    def write(handler, body, n):
        assert "Please only output the code" in body["messages"][-1]["content"]
        right = "twice" in body["messages"][-1]["content"]
        return answer(body, "Here:\n```python\ndef twice(x):\n    return x + x\n```" if right
                      else "def square(x):\n    return x")
    with serving(Endpoint(write)) as server:
        results = evaluate_tasks(server.url, ["humaneval"], prompt="chat", task_data=problems)
    [task] = results.tasks
    assert [item.score for item in task.items] == [1.0, 0.0]
    assert (task.score, task.metric, task.prompt) == (0.5, "pass@1", "chat")


@pytest.mark.parametrize("name", ["humaneval", "codex_eval_pass1", "codex_eval_pass10"])
def test_the_protocol_of_a_task_with_functions_in_its_filters(problems, name, monkeypatch):
    """Filters are part of the measurement: their code is in the hash."""
    [task] = find_tasks([name], problems)
    before = protocol(task, "raw", task.rows)
    assert before == protocol(*find_tasks([name], problems), "raw", task.rows)
    task.config["filter_list"][0]["filter"][0]["filter_fn"] = lambda resps, docs: []
    assert protocol(task, "raw", task.rows) != before
