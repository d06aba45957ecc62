"""What a stranger may send: every refusal has its status, names its reason, and leaves the server well."""
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import threading
import time
import types

import httpx
import jax
import numpy as np
import pytest
from fastapi.routing import APIRoute
from serve_helpers import CONFIG

from easylm_imitation.schema import UserError
from easylm_imitation.serve import Front, Limits, ServeConfig, bodies, listen, open_server, service
from easylm_imitation.serve.answer import AnswerText
from easylm_imitation.serve.api import make_app
from easylm_imitation.serve.engine import Engine, _CompileCounter
from easylm_imitation.serve.forest import Segment
from easylm_imitation.serve.guard import PUBLIC
from easylm_imitation.serve.jobs import Answer, Sampling, Scoring
from easylm_imitation.serve.meter import Meter
from easylm_imitation.serve.scheduler import Scheduler
from easylm_imitation.serve.server import RunningServer
from easylm_imitation.serve.service import Service
from easylm_imitation.text import Tokenizer
from easylm_imitation.weights import HFExtras

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


def with_limits(**limits):
    return ServeConfig(slots=CONFIG.slots, context=CONFIG.context, live_lengths=CONFIG.live_lengths,
                       decode_rows=CONFIG.decode_rows, score_tokens=CONFIG.score_tokens, limits=Limits(**limits))


@contextlib.contextmanager
def another_server(model, config=CONFIG):
    """A server that a test may break; its programs are compiled already."""
    with open_server(model, config) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        yield running, client


@pytest.mark.parametrize(("path", "body", "says"), [
    (COMPLETE, {"prompt": "a", "foo": 1}, "foo: unknown field; known: best_of, echo"),
    (COMPLETE, {"prompt": "a", "max_token": 4}, "max_token: unknown field; did you mean 'max_tokens'?"),
    (CHAT, {"messages": [{"role": "user", "content": "a", "mood": "sad"}]}, "messages.0.mood: unknown field; kno"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]},
     "messages.0.content.0.txt: unknown field; did you mean 'text'?"),
    (COMPLETE, {}, "prompt"),
    (COMPLETE, {"prompt": ""}, "prompt: empty"),
    (COMPLETE, {"prompt": []}, "prompt: empty"),
    (COMPLETE, {"prompt": [[]]}, "prompt: empty"),
    (COMPLETE, {"prompt": None}, "got null"),
    (COMPLETE, {"prompt": {"a": 1}}, "got an object"),
    (COMPLETE, {"prompt": ["a", 1]}, "prompt: a list must hold only"),
    (COMPLETE, {"prompt": [True]}, "prompt: a list must hold only"),
    (COMPLETE, {"prompt": [1.5]}, "prompt: a list must hold only"),
    (COMPLETE, {"prompt": [1, 99999]}, "token id 99999 (number 1) is outside the vocabulary of 296"),
    (COMPLETE, {"prompt": [-1]}, "token id -1"),
    (COMPLETE, {"prompt": [10**40]}, "outside the vocabulary"),
    (COMPLETE, {"prompt": [5] * 90, "max_tokens": 20}, "the prompt has 90 tokens and max_tokens is 20"),
    (COMPLETE, {"prompt": [5] * 97, "max_tokens": 1, "echo": True, "logprobs": 1}, "the prompt has 97 tokens"),
    (COMPLETE, {"prompt": "\ud800"}, "UTF-8"),
    (COMPLETE, {"prompt": "a", "max_tokens": 0}, "max_tokens: 0"),
    (COMPLETE, {"prompt": "a", "max_tokens": "4"}, "max_tokens"),
    (COMPLETE, {"prompt": "a", "max_tokens": True}, "max_tokens"),
    (COMPLETE, {"prompt": "a", "temperature": -1}, "temperature"),
    (COMPLETE, {"prompt": "a", "top_p": 1.5}, "top_p"),
    (COMPLETE, {"prompt": "a", "top_k": -2}, "top_k"),
    (COMPLETE, {"prompt": "a", "seed": 2**64}, "seed"),
    (COMPLETE, {"prompt": "a", "n": 0}, "n:"),
    (COMPLETE, {"prompt": "a", "n": 17}, "n: 17 answers"),
    (COMPLETE, {"prompt": ["a"] * 257}, "257 prompts"),
    (COMPLETE, {"prompt": "a", "logprobs": 6}, "logprobs"),
    (COMPLETE, {"prompt": "a", "logprobs": True}, "logprobs"),
    (COMPLETE, {"prompt": "a", "stop": ["x"] * 33}, "stop: at most"),
    (COMPLETE, {"prompt": "a", "stop": ["x" * 257]}, "stop: at most"),
    (COMPLETE, {"prompt": "a", "stop": [""]}, "stop: at most"),
    (COMPLETE, {"prompt": "a", "stop": 3}, "stop"),
    (COMPLETE, {"prompt": "a", "frequency_penalty": 2.5}, "frequency_penalty"),
    (COMPLETE, {"prompt": "a", "presence_penalty": "1"}, "presence_penalty"),
    (COMPLETE, {"prompt": "a", "min_p": 1.5}, "min_p"),
    (COMPLETE, {"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias"),
    (COMPLETE, {"prompt": "a", "logit_bias": {"Oslo": 1}}, "logit_bias"),
    (COMPLETE, {"prompt": "a", "logit_bias": {"01": 1, "1": 2}}, "logit_bias"),
    (COMPLETE, {"prompt": "a", "logit_bias": {"296": 1}}, "logit_bias: token id 296"),
    (COMPLETE, {"prompt": "a", "logit_bias": {"290": 1}}, "logit_bias: token id 290"),      # padding: no token has it
    (COMPLETE, {"prompt": "a", "logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    (COMPLETE, {"prompt": "a", "suffix": "b"}, "suffix"),
    (COMPLETE, {"prompt": "a", "store": 0}, "store"),
    (COMPLETE, {"prompt": "a", "store": True}, "store: true is not offered"),
    (COMPLETE, {"prompt": "a", "structured_outputs": {"json_object": False}}, "structured_outputs: asks for nothing"),
    (CHAT, {**HELLO, "parallel_tool_calls": True}, "parallel_tool_calls: only with tools"),
    (COMPLETE, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": [{"role": "assistant", "content": "a"}]}, "roles do not alternate (message 1 of 1 is from"),
    (CHAT, {"messages": [{"role": "document", "content": "a"}]}, "role"),
    (CHAT, {**HELLO, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {**HELLO, "max_completion_tokens": 3}, "max_completion_tokens"),
    (CHAT, {"messages": [{"role": "user", "content": "a" * 300}]}, "together more than this server's context of 96"),
    ("/v1/score", {"pairs": []}, "pairs"),
    ("/v1/score", {"pairs": [["a"]]}, "pairs"),
    ("/v1/score", {"pairs": [["a", [1]]]}, "pairs"),
    ("/v1/score", {"pairs": [[[1], [300]]]}, "pair 0: token id 300"),
    ("/tokenize", {"prompt": [1]}, "prompt"),
    ("/detokenize", {"tokens": [-1]}, "tokens"),
    ("/detokenize", {"tokens": [5, 999999]}, "tokens: token id 999999"),
])
def test_bad_requests_get_400_and_the_reason(http, path, body, says):
    response = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("path", "body", "param"), [
    (COMPLETE, {"prompt": "a", "max_token": 4}, "max_token"),
    (COMPLETE, {"prompt": "a", "max_tokens": "4"}, "max_tokens"),
    (COMPLETE, {"prompt": [1, 99999]}, "prompt"),
    (COMPLETE, {"prompt": [5] * 90, "max_tokens": 20}, "prompt"),
    (COMPLETE, {"prompt": None}, "prompt"),
    (COMPLETE, {"prompt": "a", "n": 17}, "n"),
    (COMPLETE, {"prompt": "a", "stop": [""]}, "stop"),
    (CHAT, {**HELLO, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": [{"role": "user", "content": "a", "mood": "sad"}]}, "messages.0.mood"),
    (CHAT, {"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
    ("/v1/score", {"pairs": [[[1], [300]]]}, "pairs"),
    ("/v1/score", {"pairs": [["a", ""]]}, "pairs"),
    (COMPLETE, [], None),
    (COMPLETE, {"prompt": "a", "stop": "\ud800"}, "stop"),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ("/tokenize", {"prompt": "\ud800"}, "prompt"),
    ("/v1/score", {"pairs": [["a", "\ud800"]]}, "pairs"),
    ("/greedy-until", {"prefix_text": ["a"], "until": ["\ud800"]}, "until"),
])
def test_errors_name_the_field_as_openais_do(http, path, body, param):
    response = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_an_address_with_a_query_is_refused(http):
    response = http.post(COMPLETE + "?temperature=0", json={"prompt": "a"})
    assert response.status_code == 400
    assert "send it in the body" in response.json()["error"]["message"]


def test_a_body_that_is_no_json_is_told_what_to_send(http):
    form = http.post(COMPLETE, data={"prompt": "a"})
    assert form.status_code == 415
    assert "application/json', not 'application/x-www-form-urlencoded'" in form.json()["error"]["message"]
    assert http.post(COMPLETE, content=b'{"prompt": "a"}', headers={"content-type": "text/plain"}).status_code == 415
    curl = {"content-type": "Application/JSON; charset=utf-8"}
    assert http.post(COMPLETE, content=b'{"prompt": "a", "max_tokens": 1}', headers=curl).status_code == 200


def test_only_what_the_caller_can_mend_is_his_fault(served_model, monkeypatch):
    def broken(*_, **__):
        raise ValueError("our own mistake")
    with another_server(served_model) as (running, client):
        monkeypatch.setattr(running.service, "answers", broken)
        error = client.post(CHAT, json=HELLO).json()["error"]
        assert (error["code"], error["type"]) == (500, "server_error")
        assert "our own mistake" not in error["message"]


def test_texts_are_encoded_outside_the_event_loop(served_model, monkeypatch):
    """Many short texts and chats as well as long ones: else they would hold up everybody's streams."""
    encode, threads = Tokenizer._ids, []

    def noted(*args):
        threads.append(threading.current_thread().name)
        return encode(*args)

    with another_server(served_model) as (_, client):
        monkeypatch.setattr(Tokenizer, "_ids", noted)
        for path, body in ((COMPLETE, {"prompt": ["a"] * 20, "max_tokens": 1}), (CHAT, HELLO),
                           ("/v1/score", {"pairs": [["a", "b"]] * 20}), ("/tokenize", {"prompt": "a"})):
            threads.clear()
            assert client.post(path, json=body).status_code == 200
            assert threads
            assert "http" not in threads, path


@pytest.mark.parametrize("make", [
    lambda text: Answer([5, 6], 4, Sampling(), text, lambda news: None, stop_ids=frozenset()),
    lambda text: Scoring([Segment(np.asarray([5, 6], np.int32), [(0, 6)], lambda out: None)], lambda news: None)])
def test_a_job_given_up_before_its_first_turn_counts_once(server, served_model, make):
    scheduler = Scheduler(server.service.engine, 8)         # never started: the test takes its turns
    job = make(AnswerText(served_model.tokenizer))
    scheduler.submit([job])
    scheduler.cancel([job])
    scheduler._drop()                             # the job is still in the inbox
    scheduler._receive()
    for _ in range(2):
        scheduler._drop()
    assert (scheduler.counts["cancelled"], scheduler.queue_depth, bool(scheduler._pool)) == (1, 0, False)


@pytest.mark.parametrize("breaks", [(Scheduler, "start"), (RunningServer, "start"), (Service, "__init__")])
def test_a_start_that_fails_leaves_nothing_behind(served_model, monkeypatch, breaks):
    def broken(*_, **__):
        raise OSError("no more threads")
    closed, close, before = [], Engine.close, set(threading.enumerate())
    monkeypatch.setattr(Engine, "close", lambda self, failed=False: (closed.append(self), close(self)))
    monkeypatch.setattr(*breaks, broken)
    listener = listen(CONFIG, "127.0.0.1", 0)
    with pytest.raises(OSError, match="no more threads"):
        open_server(served_model, CONFIG, front=Front(listener))
    assert closed
    assert closed[0]._params is None
    assert listener.fileno() == -1
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b'"a"', b"null", b"\xff\xfe", b'{"prompt": "a", "temperature": NaN}', b"[" * 100_000,
    b'{"prompt": "a", "metadata": {"a": NaN}}', b'{"prompt": "a", "guided_json": {"minimum": Infinity}}',
    b'{"prompt": "a", "temperature": 1e400}', b'{"prompt": "a", "top_p": -Infinity}', b'{"prompt": "\\ud800"}',
    b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}"])
def test_bodies_that_are_no_request_get_400(http, content):
    response = http.post(COMPLETE, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


def test_unknown_routes_methods_and_models_are_named(http):
    assert http.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert http.get(COMPLETE).status_code == 405
    response = http.post(COMPLETE, json={"prompt": "a", "model": "other"})
    assert response.status_code == 404
    assert "'tiny'" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [
    b'{"prompt": "a", "model": "\\ud800"}', b'{"prompt": "a", "\\ud800": 1}',
    b'{"prompt": "a", "stop": "\\ud800"}', b'{"prompt": "a", "logit_bias": {"\\ud800": 3}}'])
def test_text_that_has_no_utf8_form_is_the_callers_fault_wherever_it_stands(http, body):
    response = http.post(COMPLETE, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["message"]


def test_what_clients_send_without_meaning_it_is_accepted(http):
    body = {"prompt": "a", "max_tokens": 2, "user": "me", "frequency_penalty": 0, "presence_penalty": 0.0, "best_of": 1,
            "suffix": "", "logit_bias": {}, "stop": [], "top_k": -1, "n": None, "seed": None, "stream": False}
    assert http.post(COMPLETE, json=body).status_code == 200
    assert http.post(COMPLETE, json={"prompt": "a", "max_tokens": 2, "stop": [None]}).status_code == 200
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert http.post(CHAT, json={"messages": [{"role": "user", "content": parts}], "max_tokens": 2}).status_code == 200


def test_the_model_tells_its_lineage(http, served_model):
    [card] = http.get("/v1/models").json()["data"]
    assert (card["id"], card["lineage"]["base"], card["max_model_len"]) == ("tiny", "c" * 16, 96)
    assert http.get("/v1/models/tiny").json() == card
    assert http.get("/v1/models/other").status_code == 404


def test_with_a_key_every_route_but_health_needs_it(served_model, monkeypatch):
    monkeypatch.setenv(CONFIG.api_key_env, "sesame")
    with another_server(served_model) as (running, client):
        app, _ = make_app(running.service, None)
        routes = [route for route in app.routes if isinstance(route, APIRoute)]
        assert len(routes) == len(app.routes) >= 11
        right = {"authorization": "Bearer sesame"}
        wrong = [None, "Bearer wrong", "sesame", "Bearer", "Basic sesame", "Bearer sesame1", "Bearer sesamé".encode()]
        for route, value in itertools.product(routes, wrong):
            for method in route.methods:
                headers = {} if value is None else {"authorization": value}
                status = client.request(method, route.path, headers=headers).status_code
                assert status == (200 if route.path in PUBLIC else 401), (route.path, headers)
        assert client.get("/no/such/route").status_code == 401
        assert client.get("/v1/models", headers=right).status_code == 200
        assert client.post(CHAT, json=HELLO, headers=right).status_code == 200


def test_a_host_beyond_loopback_needs_a_key(monkeypatch):
    monkeypatch.delenv(CONFIG.api_key_env, raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.1"):
        with pytest.raises(UserError, match=CONFIG.api_key_env):
            listen(CONFIG, host, 0)
    monkeypatch.setenv(CONFIG.api_key_env, "sesame")
    listen(CONFIG, "0.0.0.0", 0).close()


@pytest.mark.parametrize("key", ["sesamé", "ses\tame", "ses\nme"])
def test_a_key_that_no_header_can_carry_is_refused(monkeypatch, key):
    monkeypatch.setenv(CONFIG.api_key_env, key)
    with pytest.raises(UserError, match="printable ASCII") as told:
        listen(CONFIG, "0.0.0.0", 0)
    assert key not in str(told.value)


def test_a_large_body_gets_413_declared_or_not(served_model):
    with another_server(served_model, with_limits(body_bytes=1000)) as (_, client):
        body = json.dumps({"prompt": "a" * 2000}).encode()
        headers = {"content-type": "application/json"}
        for content in (body, iter([body[:900], body[900:]])):      # an iterator is sent in chunks, without a length
            response = client.post(COMPLETE, content=content, headers=headers)
            assert response.status_code == 413
            assert "1000 bytes" in response.json()["error"]["message"]
        assert client.post(COMPLETE, json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_a_full_queue_gets_429_and_recovers(served_model):
    with another_server(served_model, with_limits(queue=8)) as (running, client):
        long = {"prompt": "a", "max_tokens": 90, "n": 4, "temperature": 1.0}
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            responses = list(pool.map(lambda _: client.post(COMPLETE, json=long), range(12)))
        statuses = {response.status_code for response in responses}
        assert statuses == {200, 429}
        refused = next(response for response in responses if response.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert client.post(COMPLETE, json=long).status_code == 200
        assert running.service.scheduler.queue_depth == running.service.scheduler.slots_busy == 0


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_slots(served_model, stream):
    body = {"prompt": ["a"] * 16, "n": 16, "max_tokens": 90, "temperature": 1.0, "stream": stream}
    with another_server(served_model) as (running, client):
        scheduler = running.service.scheduler

        def ask():
            with httpx.Client(base_url=running.url) as leaving, contextlib.suppress(httpx.ReadTimeout):
                with leaving.stream("POST", COMPLETE, json=body, timeout=httpx.Timeout(30, read=0.2)) as response:
                    next(response.iter_bytes())

        caller = threading.Thread(target=ask)
        caller.start()
        wait_until(lambda: scheduler.slots_busy)
        caller.join()
        wait_until(lambda: not scheduler.slots_busy and not scheduler.queue_depth)
        assert scheduler.counts["cancelled"] > 0
        assert scheduler.counts["cancelled"] + scheduler.counts["answers"] == 256
        assert client.post(COMPLETE, json={"prompt": "a", "max_tokens": 2}).status_code == 200


def test_when_the_engine_fails_nobody_waits_for_ever(served_model, capfd):
    with another_server(served_model) as (running, client):
        running.service.engine._params = None       # the next device call raises
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(client.post, COMPLETE, json={"prompt": "a", "max_tokens": 50}) for _ in range(5)]
            asked.append(pool.submit(client.post, "/v1/score", json={"pairs": [["a", "b"]]}))
            assert {future.result(30).status_code for future in asked} == {500}
        assert client.post(CHAT, json=HELLO).json()["error"]["type"] == "server_error"
        assert client.get("/health").status_code == client.get("/ready").status_code == 503
    assert "the engine failed" in capfd.readouterr().err


def test_closing_finishes_what_runs_and_refuses_what_comes(served_model):
    running = open_server(served_model, CONFIG)
    with httpx.Client(base_url=running.url, timeout=60) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, COMPLETE, json={"prompt": ["a"] * 16, "n": 8, "max_tokens": 90})
        wait_until(lambda: running.service.scheduler.slots_busy)
        running.close()
        response = slow.result()
        assert response.status_code == 200
        assert len(response.json()["choices"]) == 128
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url + "/health")
    running.close()     # twice does no harm


def test_what_the_drain_time_cuts_off_is_told_so(served_model):
    running = open_server(served_model, with_limits(drain_seconds=0.3))
    decode = running.service.engine.decode
    running.service.engine.decode = lambda *given: time.sleep(0.05) or decode(*given)
    body = {"prompt": ["a"] * 8, "max_tokens": 90, "temperature": 1.0, "logit_bias": {"0": -100}}

    def stream(client):
        with client.stream("POST", COMPLETE, json={**body, "stream": True}) as response:
            return [line[6:] for line in response.iter_lines() if line.startswith("data: ")]

    with httpx.Client(base_url=running.url, timeout=60) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        plain = pool.submit(client.post, COMPLETE, json=body)
        streamed = pool.submit(stream, client)
        wait_until(lambda: running.service.scheduler.queue_depth == 16)
        running.close()
        assert (plain.result().status_code, plain.result().json()["error"]["type"]) == (503, "server_error")
        assert "shutting down" in plain.result().json()["error"]["message"]
        *_, error, end = streamed.result()
        assert json.loads(error)["error"]["code"] == 503
        assert end == "[DONE]"


def test_the_address_says_how_far_the_server_is(served_model):
    with Front(listen(CONFIG, "127.0.0.1", 0)) as front, httpx.Client(base_url=front.url, timeout=60) as client:
        assert (client.get("/health").status_code, client.get("/ready").status_code) == (200, 503)
        refused = client.post(COMPLETE, json={"prompt": "a"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "loading" in refused.json()["error"]["message"]
        with open_server(served_model, CONFIG, front=front) as running:
            assert client.get("/ready").json() == {"status": "ok"}
            running._guard.draining = True
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()) == (503, {"status": "stopping"})
            refused = client.post(COMPLETE, json={"prompt": "a"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert client.get("/health").status_code == 200


def test_a_request_past_its_time_is_ended_and_its_slot_freed(served_model):
    body = {"prompt": ["a"] * 8, "max_tokens": 90, "guided_regex": "a{200}"}
    with another_server(served_model, with_limits(request_seconds=0.3)) as (running, client):
        decode = running.service.engine.decode
        running.service.engine.decode = lambda *given: time.sleep(0.05) or decode(*given)
        late = client.post(COMPLETE, json=body)
        assert (late.status_code, late.json()["error"]["type"]) == (504, "server_error")
        assert "longer than the 0.3 s" in late.json()["error"]["message"]
        with client.stream("POST", COMPLETE, json={**body, "stream": True}) as response:
            *_, error, end = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
        assert (json.loads(error)["error"]["code"], end) == (504, "[DONE]")
        scheduler = running.service.scheduler
        wait_until(lambda: not scheduler.slots_busy and not scheduler.queue_depth)
        assert scheduler.counts["expired"] >= 2
        assert client.post(COMPLETE, json={"prompt": "a", "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("content", [
    b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": "a", "logit_bias": {"5": 1, "5": 2}, "stop": ["%s"]}' % (b"x" * 70000)], ids=["small", "large"])
def test_a_key_that_stands_twice_is_refused_by_name(http, content):
    error = http.post(COMPLETE, content=content, headers={"Content-Type": "application/json"}).json()["error"]
    assert (error["code"], error["param"]) == (400, "prompt" if b'"b"' in content else "5")
    assert "stands twice" in error["message"]


def test_large_bodies_are_parsed_and_checked_outside_the_event_loop(served_model, monkeypatch):
    threads = []

    def noting(call):
        return lambda *given: threads.append(threading.current_thread().name) or call(*given)

    with another_server(served_model) as (_, client):
        monkeypatch.setattr(bodies, "read_json", noting(bodies.read_json))
        monkeypatch.setattr(service, "pair_segments", noting(service.pair_segments))
        assert client.post("/v1/score", json={"pairs": [[[5] * 50, [6] * 8]] * 1000}).status_code == 200
        assert len(threads) == 2
        assert "http" not in threads


def test_a_taken_port_is_told_before_anything_else(server, served_model):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port {port} on 127.0.0.1: cannot be used .*another --port"):
        open_server(served_model, CONFIG, port=port)


def test_nothing_a_user_sends_compiles_anything(http, server):
    """Counts XLA compilations of the whole process over a random workload, and shows that it would see one."""
    compiled = []

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(threading.current_thread().name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda seed: random_request(http, seed), range(60))) == {200}
        assert (compiled, server.service.engine.compilations) == ([], 0)
        assert "easylm_imitation_compilations_total 0\n" in http.get("/metrics").text
        counter = _CompileCounter()
        counter.start()
        jax.jit(lambda x: x * 3 + 1)(np.ones(7))
        counter.stop()
        assert len(compiled) == counter.count == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def random_request(http, seed):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 290, rng.integers(1, 60)).tolist() for _ in range(rng.integers(1, 6))]
    common = {"temperature": float(rng.choice([0, 0.5, 1.9])), "top_k": int(rng.choice([0, 1, 17])),
              "top_p": float(rng.choice([1.0, 0.4])), "seed": int(rng.integers(0, 2**62)), "n": int(rng.integers(1, 4)),
              "max_tokens": int(rng.integers(1, 30)), "stream": bool(rng.integers(0, 2))}
    kind = rng.integers(0, 4)
    if kind == 0:
        return http.post("/v1/score", json={"pairs": [[one, one[:3]] for one in ids]}).status_code
    if kind == 1:
        top = None if common["stream"] else int(rng.integers(0, 6))
        return http.post(COMPLETE, json={"prompt": ids, **common, "logprobs": top, "stop": ["e", "ab"]}).status_code
    if kind == 2:
        body = {"prompt": ids, **common, "stream": False, "echo": True, "logprobs": int(rng.integers(0, 6))}
        return http.post(COMPLETE, json=body).status_code
    messages = [{"role": "system", "content": "b"}, {"role": "user", "content": "a" * int(rng.integers(1, 9))}]
    return http.post(CHAT, json={"messages": messages, **common, "max_tokens": 5}).status_code


def test_generation_ends_where_the_source_of_the_weights_says(served_model, reference):
    ids = served_model.tokenizer.encode("a b")
    first = int(reference(ids)[-1].argmax())
    second = int(reference([*ids, first])[-1].argmax())
    assert first != second
    ends = dataclasses.replace(served_model, template=None, extras=HFExtras(generation={"eos_token_id": [second]}))
    with another_server(ends) as (_, client):
        choice = client.post(COMPLETE, json={"prompt": ids, "max_tokens": 3, "temperature": 0}).json()["choices"][0]
    assert (choice["finish_reason"], choice["text"]) == ("stop", served_model.tokenizer.decode([first]))


def test_metrics_name_all_that_an_operator_asks_for(http):
    for path, body in ((COMPLETE, {"prompt": "a", "max_tokens": 5}), ("/v1/score", {"pairs": [["a", "b"]]})):
        assert http.post(path, json=body).status_code == 200
    text = http.get("/metrics").text
    values = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
    prefix = "easylm_imitation_"
    for name in ("queue_depth", "slots", "slots_busy", "compilations_total", "generated_tokens_total"):
        assert prefix + name in values
    assert 0 < values[prefix + "padding_efficiency"] <= 1
    for name in ("time_to_first_token_seconds", "inter_token_seconds"):
        counts = [count for key, count in values.items() if key.startswith(f"{prefix}{name}_bucket")]
        assert counts == sorted(counts)
        assert counts[-1] == values[f"{prefix}{name}_count"] > 0
        assert values[f"{prefix}{name}_sum"] > 0
    assert not [name for name in values if name.endswith("_share")]     # a CPU's peaks are not known


def test_tokens_are_timed_by_when_they_were_made(server, served_model):
    """Eight steps land at once; the first token was there after one of them."""
    scheduler = Scheduler(server.service.engine, 4)
    job = Answer([5, 6], 20, Sampling(), AnswerText(served_model.tokenizer), print, stop_ids=frozenset())
    job.arrived = 100.0
    scheduler._time(job, 8, 101.0, 0.5)     # eight from 101 on, half a second each
    scheduler._time(job, 4, 107.0, 0.5)     # something else ran from 105 to 107
    scheduler._time(job, 0, 110.0, 0.5)
    assert scheduler.meter.first_token.sum == 1.5
    assert scheduler.meter.between_tokens.sum == 7 * 0.5 + 4 * 1.0
    assert scheduler.meter.between_tokens.buckets()[-1][1] == 11


def test_shares_of_the_peaks_are_told_where_these_are_known(server, monkeypatch):
    engine = server.service.engine
    meter, now = Meter(engine), time.monotonic()
    monkeypatch.setattr(engine, "device", types.SimpleNamespace(device_kind="NVIDIA H200"))
    assert meter.bandwidth_share() is meter.flops_share() is None       # nothing measured yet
    meter.decoded(now - 2, 4, 4, 96)
    meter.scored(0.5, 1000)
    moved = 4 * (engine.param_bytes + engine.position_bytes * 4 * 96)
    assert meter.bandwidth_share() == pytest.approx(moved / 2 / 4.8e12, rel=0.05)
    assert meter.flops_share() == pytest.approx(2 * engine.config.matmul_weights() * 1000 / 0.5 / 989e12)
    leaves = jax.tree.leaves(engine._params)
    assert engine.param_bytes == sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert engine.position_bytes == 2 * 2 * 2 * 8 * 4       # keys and values, layers, heads, 8 float32 each
