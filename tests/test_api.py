"""The pipeline from Python: what does not add up, a notebook's event loop and its interrupt, one's own server."""
import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
from endpoint import Endpoint, answer, send, serving

from easylm_imitation import api, evaluate
from easylm_imitation.cli import train
from easylm_imitation.cli.main import main
from easylm_imitation.evaluate import read_answers
from easylm_imitation.serve import Limits, opened

TASK = """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: question
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with prompts, a teacher's answers, a task, and one that passes for a model's."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt_id": f"p{i}", "prompt": f"question {i}", "answer": "a b", "model": "t"} for i in range(3)]
    for name, lines in {"teacher.jsonl": rows, "test.jsonl": [{"question": "q"}], "prompts.jsonl": [
            {"id": row["prompt_id"], "prompt": row["prompt"]} for row in rows]}.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "model").mkdir()
    return tmp_path


class Own:
    """In the place of the server that a folder's model gets: that of a test."""

    def __init__(self, url, template="chatml"):
        self.url = url
        self.service = types.SimpleNamespace(engine=types.SimpleNamespace(param_bytes=4000))
        self.loaded = types.SimpleNamespace(lineage=types.SimpleNamespace(name="own"), template=template,
                                            tokenizer=types.SimpleNamespace(encode=None))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def take_its_place(self, monkeypatch):
        monkeypatch.setattr(opened, "open_weights", lambda path, config: self.loaded)
        monkeypatch.setattr(opened, "find_template", lambda path: self.loaded.template)
        monkeypatch.setattr(opened, "open_server", lambda loaded, config: self)


STYLE = {"prompts": "prompts.jsonl", "reference": "teacher.jsonl"}


@pytest.mark.parametrize(("given", "says"), [
    ({}, "nothing to do"), ({"prompts": "prompts.jsonl"}, "go together"),
    ({"reference": "teacher.jsonl"}, "go together"),
    (STYLE | {"limit": 3}, "limit: only for tasks"), (STYLE | {"prompt": "raw"}, "prompt: only for tasks"),
    (STYLE | {"task_data": "d", "limit": 1}, "task_data and limit: only for tasks"),
    (STYLE | {"reference": "absent.jsonl"}, "absent.jsonl"), (STYLE | {"prompts": "absent.jsonl"}, "absent.jsonl"),
    ({"tasks": ["nq_opn"]}, "did you mean 'nq_open'"), ({"tasks": ["task.yaml"], "limit": 0}, "at least 1"),
    ({"tasks": ["task.yaml", "task.yaml"]}, "answers")])
def test_what_does_not_add_up_is_told_before_a_model_is_opened(place, monkeypatch, given, says):
    monkeypatch.setattr(opened, "open_weights", lambda *_: pytest.fail("opened"))
    with pytest.raises(api.UserError, match=says):
        api.measure("model", "out.json", **given)
    assert not (place / "out.json").exists()


def test_a_model_that_is_none_or_has_no_chat_template_is_told_before_anything_slow(place, monkeypatch):
    with pytest.raises(api.UserError, match="^nowhere: neither an address"):
        api.answer("nowhere", "prompts.jsonl", "a.jsonl")
    Own("", template=None).take_its_place(monkeypatch)
    monkeypatch.setattr(opened, "serving", lambda *_, **__: pytest.fail("served"))
    for asked in (lambda: api.measure("model", "out.json", **STYLE), lambda: api.answer("model", "prompts.jsonl", "a"),
                  lambda: api.measure("model", "out.json", tasks=["task.yaml"], prompt="both"),
                  lambda: api.collect("model", "prompts.jsonl", "c.jsonl")):
        with pytest.raises(api.UserError, match="^model names no chat template, and .* convert --from model"):
            asked()


def test_under_a_running_event_loop_the_same_is_done(place):
    async def cell(url):
        api.collect(url, "prompts.jsonl", "c.jsonl")
        api.answer(url, "prompts.jsonl", "a.jsonl")
        return api.measure(url, "out.json", **STYLE)
    with serving(Endpoint()) as endpoint:
        made = asyncio.run(cell(endpoint.url))
    assert len((place / "c.jsonl").read_text().splitlines()) == 3
    assert [a.answer for a in read_answers(place / "a.jsonl")] == [f"answer to question {i}" for i in range(3)]
    assert {task.group for task in made.tasks} == {"style"}


CELL = """
import asyncio, sys
from easylm_imitation import api

async def cell():
    api.collect(sys.argv[1], "prompts.jsonl", "c.jsonl", api.CollectConfig(concurrency=2))

asyncio.new_event_loop().run_until_complete(cell())
"""


@pytest.mark.multiprocess
def test_an_interrupt_in_a_notebook_ends_the_work_and_keeps_what_was_asked(place):
    """A kernel's loop leaves SIGINT to Python: the cell's thread gets KeyboardInterrupt while it waits."""
    prompts = [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(100)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    asked = threading.Event()

    def slow(handler, body, n):
        asked.set()
        time.sleep(0.5)
        return answer(body)
    with serving(Endpoint(slow)) as endpoint:
        kernel = subprocess.Popen([sys.executable, "-c", CELL, endpoint.url], stderr=subprocess.PIPE, text=True)
        try:
            assert asked.wait(60)
            kernel.send_signal(signal.SIGINT)
            said = kernel.communicate(timeout=60)[1]
        finally:
            kernel.kill()
        assert "are waited for" in said
        assert said.endswith("KeyboardInterrupt\n")
        known = len(endpoint.requests)
        assert 1 <= known < 20
        assert len((place / "c.jsonl.ledger.jsonl").read_text().splitlines()) == known, "paid and not kept"


@pytest.mark.parametrize("form", ["api", "verb"])
def test_ones_own_server_is_waited_for_and_asked_once(place, monkeypatch, form):
    """Longer than any `timeout` of the config; an address, which may have lost the request, is not."""
    def ask(model, out, timeout=0.3):
        if form == "api":
            config = api.EvaluateConfig(answers=api.AnswerConfig(timeout=timeout, attempts=2))
            api.measure(model, f"{out}.json", **STYLE, config=config)
            return 0
        return main(["evaluate", "--model", model, "--prompts", "prompts.jsonl", "--answers-out", f"{out}.jsonl",
                     "--config.answers.attempts=2", f"--config.answers.timeout={timeout}", "--prompt", "chat"])

    def slow(handler, body, n):
        time.sleep(1)
        return answer(body)
    with serving(Endpoint(slow)) as endpoint:
        Own(endpoint.url).take_its_place(monkeypatch)
        assert ask("model", "slow") == 0
        assert len(endpoint.requests) == 3
    with serving(Endpoint(lambda handler, body, n: send(handler, 500, {"detail": "broken"}))) as endpoint:
        Own(endpoint.url).take_its_place(monkeypatch)
        if form == "api":
            with pytest.raises(api.UserError, match="1 attempts"):
                ask("model", "broken")
        else:
            assert ask("model", "broken") == 2
        assert len(endpoint.requests) == 3


def test_tasks_too_are_asked_of_ones_own_server_once_and_as_long_as_it_works(place, monkeypatch):
    seen = []

    def evaluate_tasks(url, tasks, *, config, **_):
        seen.append((url, config.timeout, config.attempts, config.answers.timeout, config.answers.attempts))
        raise api.UserError("seen")
    monkeypatch.setattr(evaluate, "evaluate_tasks", evaluate_tasks)
    monkeypatch.setattr(api, "evaluate_tasks", evaluate_tasks)
    Own("http://own").take_its_place(monkeypatch)
    for model in ("model", "http://others"):
        with pytest.raises(api.UserError, match="seen"):
            api.measure(model, "out.json", tasks=["task.yaml"])
        assert main(["evaluate", "--model", model, "--tasks", "task.yaml", "--out", "out.json"]) == 2
    own = Limits().request_seconds
    assert seen == [("http://own", own, 1, own, 1)] * 2 + [("http://others", 600, 3, 600, 6)] * 2
    looks = train._evaluation(types.SimpleNamespace(tasks="task.yaml", task_data=None, prompt=None, limit=None))
    with pytest.raises(api.UserError, match="seen"):
        looks(Own("").loaded)
    assert seen[-1] == seen[0]
    assert api.EvaluateConfig(timeout=9999.0).patient(own).timeout == 9999.0
