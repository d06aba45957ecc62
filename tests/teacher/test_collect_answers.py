"""Collecting answers from a real, scripted HTTP server: order, resume after kill -9, budgets, failures, bad input."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from endpoint import Endpoint, answer, drop, send, serving

from easylm_imitation.config import load
from easylm_imitation.files import read_json, read_jsonl
from easylm_imitation.journal import Journal
from easylm_imitation.record_examples import EXAMPLES
from easylm_imitation.records import CollectionCard, Conversation, LedgerEntry, Lineage
from easylm_imitation.schema import Incomplete, UserError
from easylm_imitation.teacher import CollectConfig, collect_answers
from easylm_imitation.teacher.runner import what_is_missing

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path):
    """(prompts file with six prompts, output path)."""
    prompts = [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(6)]
    return prompts_file(tmp_path, prompts), tmp_path / "out.jsonl"


def prompts_file(folder, lines):
    path = folder / "prompts.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def collect(endpoint, files, **settings):
    return collect_answers(CollectConfig(**{"attempts": 2, "timeout": 5.0, **settings}), endpoint.url, *files)


def ledger_of(out):
    return read_jsonl(LedgerEntry, f"{out}.ledger.jsonl")


def asked(endpoint):
    return Counter(body["messages"][-1]["content"] for body in endpoint.requests)


def test_answers_become_conversations_in_the_order_of_the_prompts(files):
    def unordered(handler, body, n):
        time.sleep(0.05 * (body["messages"][-1]["content"] == "question 0"))
        return answer(body)
    with serving(Endpoint(unordered)) as endpoint:
        result = collect(endpoint, files, price_in=100.0, price_out=1000.0)
    made = read_jsonl(Conversation, files[1])
    assert [c.id for c in made] == [f"p{i}" for i in range(6)]
    assert [m.content for m in made[0].messages] == ["question 0", "answer to question 0"]
    assert {(c.teacher, c.dataset, c.meta["finish_reason"]) for c in made} == {("teacher", "answers", "stop")}
    assert (result.asked, result.kept, result.failed) == (6, 6, 0)
    assert (result.prompt_tokens, result.completion_tokens) == (60, 30)
    assert result.cost == pytest.approx(60 * 1e-4 + 30 * 1e-3)
    assert {(e.status, e.prompt_tokens, e.completion_tokens) for e in ledger_of(files[1])} == {("ok", 10, 5)}


def test_the_teacher_is_named_by_its_lineage(files):
    with serving(Endpoint(models=[{"id": "served-as", "lineage": EXAMPLES[Lineage]}])) as endpoint:
        result = collect(endpoint, files)
    assert result.teacher == "imitation@0f0f0f0f0f0f0f0f"
    assert read_jsonl(Conversation, files[1])[0].teacher == result.teacher
    assert endpoint.requests[0]["model"] == "served-as"


def test_settings_and_systems_reach_the_teacher(tmp_path):
    files = prompts_file(tmp_path, [
        {"id": "a", "prompt": "one", "dataset": "mine", "topic": "x"},
        {"id": "b", "messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "two"}]},
    ]), tmp_path / "out.jsonl"
    with serving(Endpoint()) as endpoint:
        collect(endpoint, files, samples=2, seed=5, top_p=0.9, stop=("END",), system="Be brief.", concurrency=1)
    first = endpoint.requests[0]
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    assert (first["top_p"], first["stop"], first["temperature"], first["max_tokens"]) == (0.9, ["END"], 0.7, 1024)
    assert [r["seed"] for r in endpoint.requests] == [5, 6, 5, 6]
    assert [m["content"] for m in endpoint.requests[2]["messages"]] == ["own", "two"]
    made = read_jsonl(Conversation, files[1])
    assert [(c.id, c.dataset, len(c.messages)) for c in made] == [
        ("a_0", "mine", 2), ("a_1", "mine", 2), ("b_0", "answers", 3), ("b_1", "answers", 3)]
    assert made[0].meta["topic"] == "x"


def test_the_system_message_is_kept_on_demand(files):
    with serving(Endpoint()) as endpoint:
        collect(endpoint, files, system="Be brief.", keep_system=True)
    assert [m.role for m in read_jsonl(Conversation, files[1])[0].messages] == ["system", "user", "assistant"]


def test_killed_in_the_middle_and_restarted_nothing_is_paid_twice(tmp_path):
    """The server answers seven prompts and then hangs; the client is killed with SIGKILL, its last line torn."""
    prompts = prompts_file(tmp_path, [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(20)])
    out, hang, lock, answered = tmp_path / "out.jsonl", threading.Event(), threading.Lock(), Counter()
    hang.set()

    def behave(handler, body, n):
        with lock:
            if not hang.is_set() or sum(answered.values()) < 7:
                answered[body["messages"][-1]["content"]] += 1
                return answer(body)
        while hang.is_set():
            time.sleep(0.01)
        return drop(handler)

    with serving(Endpoint(behave)) as endpoint:
        command = [sys.executable, "-m", "easylm_imitation", "collect", "--teacher", endpoint.url, "--json",
                   "--prompts", str(prompts), "--out", str(out), "--config.concurrency=3"]
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        ledger = pathlib.Path(f"{out}.ledger.jsonl")
        wait_for(lambda: ledger.exists() and ledger.read_bytes().count(b"\n") == 7 and endpoint.in_flight == 3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        hang.clear()
        assert not out.exists()
        with open(ledger, "a") as file:
            file.write('{"prompt_id": "p19", "sample": 0, "status": "ok", "mod')
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["reused"], result["asked"], result["kept"]) == (7, 13, 20)
    assert answered == {f"question {i}": 1 for i in range(20)}
    assert [c.id for c in read_jsonl(Conversation, out)] == [f"p{i}" for i in range(20)]
    assert len(ledger_of(out)) == 20


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_finished_collection_asks_nothing_and_writes_the_same(files):
    with serving(Endpoint()) as endpoint:
        collect(endpoint, files)
        before = files[1].read_bytes()
        result = collect(endpoint, files)
    assert len(endpoint.requests) == 6
    assert (result.asked, result.reused, result.kept) == (0, 6, 6)
    assert files[1].read_bytes() == before


def test_more_samples_and_more_prompts_ask_only_for_what_is_new(files, tmp_path):
    with serving(Endpoint()) as endpoint:
        collect(endpoint, files, samples=1)
        prompts_file(tmp_path, [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(7)])
        collect(endpoint, files, samples=2)
    assert asked(endpoint) == {f"question {i}": 2 for i in range(7)}


@pytest.mark.parametrize(("settings", "says"), [
    ({"temperature": 0.1}, r"'temperature' was 0.7 and is 0.1"),
    ({"system": "Be brief."}, "'system' was '' and is 'Be brief.'"),
    ({"model": "other"}, "'model' was 'teacher' and is 'other'")])
def test_answers_to_other_requests_are_not_mixed_in(files, settings, says):
    with serving(Endpoint(models=[{"id": "teacher"}, {"id": "other"}])) as endpoint:
        collect(endpoint, files, model="teacher")
        with pytest.raises(UserError, match=says):
            collect(endpoint, files, **{"model": "teacher", **settings})
    assert len(endpoint.requests) == 6


def test_a_prompt_that_changed_under_its_id_is_an_error(files, tmp_path):
    with serving(Endpoint()) as endpoint:
        collect(endpoint, files)
        prompts_file(tmp_path, [{"id": "p0", "prompt": "something else"}])
        with pytest.raises(UserError, match="the text of prompt 'p0' has changed"):
            collect(endpoint, files)


def test_empty_and_truncated_answers_are_dropped_and_counted_or_kept(files):
    def behave(handler, body, n):
        kind = body["messages"][-1]["content"][-1]
        return answer(body, **{"0": {"text": " \n"}, "1": {"finish": "length"}}.get(kind, {}))
    with serving(Endpoint(behave)) as endpoint:
        dropping = collect(endpoint, files)
        assert (dropping.kept, dropping.dropped) == (4, {"empty": 1, "truncated": 1})
        assert (dropping.missing, dropping.unusable) == (2, 2)
        assert re.search(r"2 of 6 rows .*for 2 every answer .*\(1 empty, 1 truncated\); a larger tries .*; empty=keep, "
                         "truncated=keep would keep", what_is_missing(dropping))
        keeping = collect(endpoint, files, empty="keep", truncated="keep")
    assert (keeping.kept, keeping.dropped, keeping.missing) == (6, {}, 0)
    assert len(endpoint.requests) == 6, "what is kept is decided when writing, not when asking"


def test_answers_of_no_use_are_asked_for_again_with_another_seed(files):
    """Prompt 0 is refused once, prompt 1 always, prompt 2 answered with nothing once."""
    def behave(handler, body, n):
        kind = body["messages"][-1]["content"][-1]
        refusal = "I'm sorry, but I can't help with that."
        return answer(body, **({"text": refusal} if (kind, n) == ("0", 1) or kind == "1" else
                               {"text": ""} if (kind, n) == ("2", 1) else {}))
    with serving(Endpoint(behave)) as endpoint:
        result = collect(endpoint, files, tries=3, refusals="drop", seed=0)
        assert (result.kept, result.dropped, result.missing) == (5, {"refusal": 1}, 1)
        again = collect(endpoint, files, tries=4, refusals="drop", seed=0)
        assert (again.asked, again.reused, again.kept) == (1, 10, 5)
        assert collect(endpoint, files, tries=1, refusals="keep", seed=0).kept == 5, "an empty answer is no row"
    assert asked(endpoint) == {f"question {i}": times for i, times in enumerate((2, 4, 2, 1, 1, 1))}
    seeds = [body["seed"] for body in endpoint.requests if body["messages"][-1]["content"] == "question 1"]
    assert len(set(seeds)) == 4
    assert [c.id for c in read_jsonl(Conversation, files[1])] == ["p0", "p1", "p3", "p4", "p5"]


def test_a_budget_in_tokens_is_never_passed(files):
    """A request may cost (10 characters / 2.5) + 100 tokens at worst; it really costs 15."""
    with serving(Endpoint()) as endpoint:
        result = collect(endpoint, files, max_tokens=100, budget_tokens=140, concurrency=4)
        assert (result.asked, result.missing, result.kept) == (3, 3, 3)
        again = collect(endpoint, files, max_tokens=100, budget_tokens=140)
        assert (again.asked, len(endpoint.requests)) == (0, 3)
        assert collect(endpoint, files, max_tokens=100, budget_tokens=10_000).kept == 6


@pytest.mark.parametrize(("letter", "sent"), [("a", 1), ("漢", 0), ("д", 0)])
def test_a_budget_counts_a_token_or_more_for_a_letter_outside_ascii(tmp_path, letter, sent):
    files = prompts_file(tmp_path, [{"id": "a", "prompt": "a"}, {"id": "b", "prompt": letter * 100}]), tmp_path / "o"
    with serving(Endpoint()) as endpoint:
        assert collect(endpoint, files, max_tokens=10, budget_tokens=114, concurrency=1).asked == 1 + sent


def test_a_budget_in_dollars_counts_earlier_runs_too(files):
    prices = {"price_in": 0.0, "price_out": 1e6, "max_tokens": 5, "concurrency": 2}     # a dollar a token, 5 an answer
    with serving(Endpoint()) as endpoint:
        assert collect(endpoint, files, budget_cost=11.0, **prices).cost == 10.0
        assert collect(endpoint, files, budget_cost=20.0, **prices).cost == 20.0
    assert len(endpoint.requests) == 4


def test_a_budget_needs_an_endpoint_that_counts(files):
    with serving(Endpoint(lambda h, body, n: answer(body, usage=False))) as endpoint:
        with pytest.raises(UserError, match="reports no token usage"):
            collect(endpoint, files, budget_tokens=10**6, concurrency=1)
        assert [e.response for e in ledger_of(files[1])] == ["answer to question 0"], "it is paid, so it is kept"
        assert collect(endpoint, (files[0], files[1].with_name("other.jsonl"))).prompt_tokens == 0


@pytest.mark.parametrize(("said", "counted"), [
    (1.0, 1), (7, 7), (1.5, 0), ("10", 0), (-500000, 0), (None, 0), (True, 0), (float("inf"), 0), (float("nan"), 0)])
def test_odd_token_counts_leave_a_ledger_that_can_be_read(files, said, counted):
    def behave(handler, body, n):
        return answer(body) | {"usage": {"prompt_tokens": said, "completion_tokens": 5}}
    with serving(Endpoint(behave)) as endpoint:
        assert collect(endpoint, files).prompt_tokens == 6 * counted
        assert collect(endpoint, files).reused == 6


@pytest.mark.parametrize(("usage", "uncounted", "tokens"), [
    ({}, 6, (0, 0)), ({"prompt_tokens": 10}, 6, (60, 0)), ({"prompt_tokens": "x", "completion_tokens": 5}, 6, (0, 30)),
    ({"prompt_tokens": 10, "completion_tokens": 5}, 0, (60, 30))])
def test_answers_without_usage_are_said_and_a_good_count_counts(files, capsys, usage, uncounted, tokens):
    with serving(Endpoint(lambda h, body, n: answer(body) | {"usage": usage})) as endpoint:
        made = collect(endpoint, files, price_in=1.0, price_out=1.0)
        assert (made.uncounted, made.prompt_tokens, made.completion_tokens) == (uncounted, *tokens)
        assert made.cost == pytest.approx(sum(tokens) / 1e6)
        said = "6 answers without usage: tokens and cost are too low"
        assert (said in " ".join(capsys.readouterr().err.split())) == bool(uncounted)
        assert collect(endpoint, files, price_in=1.0, price_out=1.0).uncounted == uncounted, "also when it goes on"
    assert read_json(CollectionCard, f"{files[1]}.card.json").uncounted == uncounted


def test_an_answer_that_cannot_be_read_and_reports_its_tokens_is_paid_and_kept(files):
    def behave(handler, body, n):
        if body["messages"][-1]["content"] == "question 1" and n == 1:
            return {"choices": [{"text": "half"}], "usage": {"prompt_tokens": 100, "completion_tokens": 50}}
        return answer(body)
    with serving(Endpoint(behave)) as endpoint:
        made = collect(endpoint, files, price_in=1.0, price_out=2.0)
        assert (made.kept, made.spoiled, made.failed) == (6, 1, 0)
        assert (made.prompt_tokens, made.completion_tokens) == (6 * 10 + 100, 6 * 5 + 50)
        assert made.cost == pytest.approx((160 + 2 * 80) / 1e6)
        spoiled, = (entry for entry in ledger_of(files[1]) if entry.status == "spoiled")
        assert (spoiled.prompt_id, json.loads(spoiled.response)["choices"]) == ("p1", [{"text": "half"}])
        assert "without 'message'" in spoiled.error
        again = collect(endpoint, files, price_in=1.0, price_out=2.0)
        assert (again.reused, again.spoiled, again.cost, len(endpoint.requests)) == (6, 1, made.cost, 7)
    card = read_json(CollectionCard, f"{files[1]}.card.json")
    assert (card.requests, card.failures, card.prompt_tokens) == (6, 0, 160)


def test_a_budget_is_not_passed_by_answers_that_cannot_be_read(files):
    spoiled = {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 30}}
    with serving(Endpoint(lambda h, body, n: spoiled)) as endpoint:
        with pytest.raises(Incomplete, match="the budget is used up"):
            collect(endpoint, files, budget_tokens=100, max_tokens=40, concurrency=1, attempts=6)
        assert len(endpoint.requests) == 1      # a second could bring it above 100


def test_an_answer_that_cannot_be_read_waits_for_others_and_does_not_end_the_run(files):
    """A request may cost 44 tokens at worst: four fill the budget until what three of them really cost is known."""
    def behave(handler, body, n):
        if body["messages"][-1]["content"] == "question 0" and n == 1:
            return {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 30}}
        time.sleep(0.5)     # the others are on their way when that answer comes
        return answer(body)
    with serving(Endpoint(behave)) as endpoint:
        made = collect(endpoint, files, budget_tokens=180, max_tokens=40, concurrency=4)
    assert (made.kept, made.spoiled, made.stopped, len(endpoint.requests)) == (6, 1, "", 7)
    assert made.prompt_tokens + made.completion_tokens == 6 * 15 + 60


def test_answers_that_a_filter_took_are_no_rows_unless_wanted(files):
    def behave(handler, body, n):
        taken = body["messages"][-1]["content"] in ("question 1", "question 2")
        return answer(body, text="Well, you", finish="content_filter") if taken else answer(body)
    with serving(Endpoint(behave)) as endpoint:
        made = collect(endpoint, files)
        assert (made.kept, made.dropped) == (4, {"filtered": 2})
        assert "filtered=keep would keep such answers" in what_is_missing(made)
        assert collect(endpoint, files, filtered="keep").kept == 6
        assert len(endpoint.requests) == 6


@pytest.mark.parametrize("usage", [None, [], "many", 3])
def test_usage_of_another_form_counts_as_none(files, usage):
    with serving(Endpoint(lambda h, body, n: answer(body) | {"usage": usage})) as endpoint:
        assert collect(endpoint, files, attempts=1).asked == 6


def test_failed_prompts_are_counted_and_asked_again(files):
    broken = {"question 2"}
    with serving(Endpoint(lambda h, body, n: send(h, 400, {"error": {"message": "content filter"}})
                          if body["messages"][-1]["content"] in broken else answer(body))) as endpoint:
        result = collect(endpoint, files)
        assert (result.kept, result.failed) == (5, 1)
        entry = next(e for e in ledger_of(files[1]) if e.status == "failed")
        assert (entry.prompt_id, entry.error) == ("p2", "HTTP 400: content filter")
        broken.clear()
        assert (collect(endpoint, files).kept, asked(endpoint)["question 2"], len(endpoint.requests)) == (6, 2, 7)


def test_a_teacher_that_is_gone_stops_the_run_and_keeps_what_was_answered(files):
    with serving(Endpoint(lambda h, body, n: answer(body) if body["messages"][-1]["content"] == "question 0"
                          else send(h, 503, {}))) as endpoint:
        with pytest.raises(UserError, match="3 requests in a row failed.*HTTP 503.*the same command continues"):
            collect(endpoint, files, attempts=1, give_up_after=3, concurrency=1)
    assert not files[1].exists()
    assert [e.status for e in ledger_of(files[1])] == ["ok", "failed", "failed", "failed"]


def test_a_wrong_key_in_the_middle_lets_paid_answers_come_and_sends_nothing_new(files):
    refused = threading.Event()

    def behave(handler, body, n):
        if body["messages"][-1]["content"] == "question 1":
            send(handler, 401, {})
            return refused.set()
        refused.wait(5)
        time.sleep(0.3)
        return answer(body)
    with serving(Endpoint(behave)) as endpoint:
        with pytest.raises(UserError, match="access refused"):
            collect(endpoint, files, concurrency=3)
    assert {e.prompt_id for e in ledger_of(files[1])} == {"p0", "p2"}
    assert len(endpoint.requests) == 3


def test_what_is_on_its_way_at_an_interrupt_is_kept_and_a_second_one_cuts(tmp_path):
    prompts = prompts_file(tmp_path, [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(6)])
    out, go = tmp_path / "out.jsonl", threading.Event()

    def behave(handler, body, n):
        go.wait(300)
        return answer(body)
    with serving(Endpoint(behave)) as endpoint:
        command = [sys.executable, "-m", "easylm_imitation", "collect", "--teacher", endpoint.url, "--prompts",
                   str(prompts), "--out", str(out), "--config.concurrency=3"]
        for interrupts, entries in ((2, 0), (1, 3)):
            go.clear()
            seen = len(endpoint.requests)
            with (tmp_path / "said").open("w") as said:
                child = subprocess.Popen(command, cwd=ROOT, stderr=said, stdout=said)
            try:
                wait_for(lambda expected=seen + 3: len(endpoint.requests) == expected)
                child.send_signal(signal.SIGINT)
                wait_for(lambda: "interrupt again" in (tmp_path / "said").read_text())
                if interrupts == 2:         # two at once, before the first is noticed, would be one
                    child.send_signal(signal.SIGINT)
                else:
                    go.set()
                assert child.wait(120) == 130
            finally:
                go.set()
                child.kill()
                child.wait()
            assert len(ledger_of(out)) == entries
        assert len(endpoint.requests) == 6


def test_nothing_to_keep_is_an_error_and_writes_nothing(files):
    with serving(Endpoint(lambda h, body, n: answer(body, text=""))) as endpoint:
        with pytest.raises(Incomplete, match="no answer to keep: 6 of 6 rows are missing: for 6 every .*6 empty"):
            collect(endpoint, files)
    assert not files[1].exists()


def test_a_budget_below_one_request_is_told_in_one_line(files, capsys):
    with serving(Endpoint()) as endpoint:
        with pytest.raises(Incomplete, match="6 of 6 rows are missing: the budget is used up; with a larger") as caught:
            collect(endpoint, files, budget_tokens=3)
    assert not endpoint.requests
    assert caught.value.result["missing"] == 6
    assert "missing" not in capsys.readouterr().err


@pytest.mark.parametrize(("line", "says"), [
    ('{"id": "x", "prompt": ', "prompts.jsonl:2: not valid JSON"),
    ('{"id": "x"}', "prompts.jsonl:2: the key 'prompt' is missing .or 'messages'"),
    ('{"prompt": "no id"}', "prompts.jsonl:2: the key 'id' is missing"),
    ('{"id": "a", "prompt": "again"}', "prompts.jsonl:2: the id 'a' was there before"),
    ('{"id": "x", "prompt": "  "}', "prompts.jsonl:2: prompt 'x' has an empty message"),
    ('{"id": "x", "messages": [{"role": "assistant", "content": "hi"}]}', "prompts.jsonl:2: .* must end with a user"),
    ('["a"]', "prompts.jsonl:2: expected a JSON object"),
])
def test_a_bad_prompt_is_named_before_any_request(tmp_path, line, says):
    prompts = prompts_file(tmp_path, [{"id": "a", "prompt": "fine"}, line])
    with serving(Endpoint()) as endpoint, pytest.raises(UserError, match=says):
        collect(endpoint, (prompts, tmp_path / "out.jsonl"))
    assert not endpoint.requests
    assert not (tmp_path / "out.jsonl.ledger.jsonl").exists()


def test_an_output_that_was_not_collected_is_left_alone(files):
    files[1].write_text("mine\n")
    with pytest.raises(UserError, match="choose another name"):
        collect(Endpoint(), files)
    assert files[1].read_text() == "mine\n"


def test_two_processes_do_not_share_a_ledger(tmp_path):
    with Journal(LedgerEntry, tmp_path / "l.jsonl"), pytest.raises(UserError, match="another process writes"):
        Journal(LedgerEntry, tmp_path / "l.jsonl")


def test_a_broken_line_inside_the_ledger_is_an_error(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"prompt_id": "a"}\n')
    with pytest.raises(UserError, match="l.jsonl:1: the key 'sample' is missing; mend the line, or delete it"):
        Journal(LedgerEntry, tmp_path / "l.jsonl")


@pytest.mark.parametrize(("settings", "says"), [
    ({"samples": 0}, "samples=0"), ({"tries": 2, "temperature": 0.0}, "the same answer again"),
    ({"samples": 2, "temperature": 0.0}, "equal answers"),
    ({"budget_cost": 1.0}, "price_in"), ({"timeout": -1.0}, "timeout=-1.0 must be above 0"),
    ({"attempts": 0}, "attempts=0"), ({"requests_per_minute": 0.0}, "requests_per_minute=0.0 must be above 0"),
    ({"tokens_per_minute": float("nan")}, "tokens_per_minute=nan"), ({"price_in": -3.0}, "price_in=-3.0"),
    ({"keep_system": True}, "keep_system=True with system='' keeps nothing"),
    ({"longest_wait": -1.0}, "longest_wait=-1.0 must be at least 0"), ({"budget_tokens": -1}, "budget_tokens=-1")])
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        CollectConfig(**settings)


def test_the_shipped_config_is_one_and_the_key_enters_no_file(files, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    config = load(CollectConfig, str(ROOT / "configs/collect/answers.py"), ["--config.max_tokens=9"])
    with serving(Endpoint()) as endpoint:
        collect_answers(config, endpoint.url, *files)
    assert endpoint.headers[0]["Authorization"] == "Bearer sk-secret"
    assert endpoint.requests[0]["max_tokens"] == 9
    for name in os.listdir(files[1].parent):
        assert "sk-secret" not in (files[1].parent / name).read_text()
