"""What a hostile or careless crowd does: bodies of any size, disconnects at any time. The server goes on, with every
slot free and nothing left behind."""
import asyncio
import contextlib
import random
import time

import httpx
import pydantic
import pytest
from serve_helpers import CONFIG

from easylm_imitation.serve import open_server
from easylm_imitation.serve.easylm import GenerateRequest, LikelihoodRequest, RollingRequest, UntilRequest
from easylm_imitation.serve.scheduler import Scheduler
from easylm_imitation.serve.schemas import BadField, ChatRequest, CompletionRequest, DetokenizeRequest, pairs
from easylm_imitation.text import Tokenizer

COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "b"}     # else the template's own, which is long
HELLO = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


def test_huge_requests_get_a_4xx_and_the_server_goes_on(http):
    ten_megabytes = "a" * (10 << 20)
    huge = [(COMPLETE, {"prompt": ten_megabytes}), (CHAT, {"messages": [{"role": "user", "content": ten_megabytes}]}),
            (COMPLETE, {"prompt": "a", "stop": ["x"] * 10_000}), (COMPLETE, {"prompt": "a", "n": 10**9}),
            (COMPLETE, {"prompt": "a", "n": 10**30}), (COMPLETE, {"prompt": "a", "max_tokens": 10**9}),
            (COMPLETE, {"prompt": ["a"] * 100_000}), (COMPLETE, {"prompt": [1] * 1_000_000}),
            (COMPLETE, {"prompt": "a", "guided_choice": ["x"] * 100_000}),
            (CHAT, {"messages": [{"role": "user", "content": "a"}] * 50_000}),
            (CHAT, {**HELLO, "metadata": {"a": "b" * (20 << 20)}}),
            ("/v1/score", {"pairs": [["a", "b"]] * 50_000}),
            ("/tokenize", {"prompt": "a" * (17 << 20)}), ("/tokenize", {"prompt": ten_megabytes}),
            ("/v1/score", {"pairs": [["a", ten_megabytes]]}),
            ("/greedy-until", {"prefix_text": ["a"], "until": [["x"] * 10_000]}),
            ("/generate", {"prefix_text": ["a"] * 10_000}),
            (COMPLETE, {"prompt": "a", "x" * (1 << 20): 1}), (CHAT, {**HELLO, "guided_json": "x" * 60_000}),
            (CHAT, {"messages": [{"role": "user", "content": "a" * 3000}]}), (COMPLETE, {"prompt": ["a" * 5000] * 200})]
    for path, body in huge:
        response = http.post(path, json=body, timeout=120)
        assert response.status_code in (400, 413), (path, response.status_code)
        assert len(response.content) < 2000         # the error does not send it all back
        assert response.json()["error"]["message"]
    assert http.post(CHAT, json=HELLO).status_code == 200


def test_what_is_asked_for_by_a_name_of_megabytes_is_told_in_a_line(http):
    response = http.post(COMPLETE, json={"prompt": "a", "model": "x" * (4 << 20)})
    assert response.status_code == 404
    assert len(response.content) < 2000
    assert response.json()["error"]["message"].endswith("this server has 'tiny'")


MANY = 300_000
PART, CALL = {"type": "text"}, {"id": 1}


@pytest.mark.parametrize(("kind", "body"), [
    (CompletionRequest, {"prompt": "a", "stop": [1] * MANY}),
    (CompletionRequest, {"prompt": "a", "stop": ["a"] * MANY}),
    (CompletionRequest, {"prompt": "a", "logit_bias": dict.fromkeys(map(str, range(MANY)), "a")}),
    (CompletionRequest, {"prompt": "a", "guided_choice": [1] * MANY}),
    (CompletionRequest, {"prompt": "a", "structured_outputs": {"choice": [1] * MANY}}),
    (ChatRequest, {"messages": [1] * MANY}), (ChatRequest, {**HELLO, "tools": [1] * MANY}),
    (ChatRequest, {"messages": [{"role": "user", "content": [PART] * MANY}]}),
    (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [CALL] * MANY}]}),
    (DetokenizeRequest, {"tokens": ["a"] * MANY}), (LikelihoodRequest, {"text": [1] * MANY}),
    (LikelihoodRequest, {"text": ["a"], "prefix_text": [1] * MANY}), (RollingRequest, {"text": [1] * MANY}),
    (GenerateRequest, {"prefix_text": [1] * MANY}), (UntilRequest, {"prefix_text": [1] * MANY, "until": [1] * MANY}),
    (UntilRequest, {"prefix_text": ["a"], "until": [[1] * MANY]})])
def test_a_list_is_left_at_its_first_fault(kind, body):
    """Each error costs microseconds in which nobody else is answered."""
    with pytest.raises(pydantic.ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() < 10


def test_pairs_are_counted_before_they_are_read():
    with pytest.raises(BadField, match="^pairs: 300000 in one request"):
        pairs([[1, "b"]] * MANY, 8192)
    with pytest.raises(BadField, match=r"^pairs\.1: expected \[context, continuation\]"):
        pairs([["a", "b"], [1, "b"], ["a"]], 8192)


def test_texts_are_tokenized_up_to_the_first_that_is_too_long(server, http, monkeypatch):
    encode, met = Tokenizer.encode, []
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text, **how: met.append(text) or encode(self, text, **how))
    refused = http.post(COMPLETE, json={"prompt": ["b" * 3000] * 200})
    assert (refused.status_code, met) == (400, ["b" * 3000])
    met.clear()
    refused = http.post("/v1/score", json={"pairs": [["", "c" * 3000]] * 200})
    assert (refused.status_code, met) == (400, ["c" * 3000])


@pytest.mark.parametrize("body", [b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}", b'{"a":' * 5000,
                                  b'{"prompt": "a", "guided_json": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
                                  b'{"prompt": "a", "logit_bias": {"5": 1e400}}', b'{"prompt": "a", "min_p": NaN}'])
def test_numbers_and_depths_that_break_parsers_are_refused(http, body):
    response = http.post(COMPLETE, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_answer_frees_its_slot_within_two_steps(served_model, monkeypatch, stream):
    """Steps are calls of decode; the count starts when the client's going is known."""
    with open_server(served_model, CONFIG) as running:
        engine, scheduler, steps, seen = running.service.engine, running.service.scheduler, [], {}
        decode, cancel = engine.decode, scheduler.cancel

        def counted(*args):
            steps.append(scheduler.slots_busy)
            if "cancelled" in seen and not scheduler.slots_busy:
                seen.setdefault("free", len(steps))
            time.sleep(0.01)        # else the answer is over before anybody can go
            return decode(*args)

        def noted(jobs):
            seen.setdefault("cancelled", len(steps))
            cancel(jobs)

        monkeypatch.setattr(engine, "decode", counted)
        monkeypatch.setattr(scheduler, "cancel", noted)
        body = {"prompt": "a", "max_tokens": 90, "temperature": 1.0, "stream": stream, "n": 4}
        with httpx.Client(base_url=running.url) as leaving, contextlib.suppress(httpx.ReadTimeout):
            with leaving.stream("POST", COMPLETE, json=body, timeout=httpx.Timeout(30, read=0.05)) as response:
                next(response.iter_bytes())
        until = time.monotonic() + 20
        while scheduler.slots_busy or scheduler.queue_depth:
            assert time.monotonic() < until
            time.sleep(0.001)
        assert "cancelled" in seen
        assert len(steps) - seen["cancelled"] <= 2


def test_an_engine_that_fails_amid_answers_holds_no_slots(served_model, monkeypatch):
    with open_server(served_model, CONFIG) as running, httpx.Client(base_url=running.url, timeout=30) as client:
        monkeypatch.setattr(running.service.engine, "decode", lambda *args: 1 / 0)
        assert client.post(COMPLETE, json={"prompt": "a", "n": 3}).status_code == 500
        assert "easylm_imitation_slots_busy 0\n" in client.get("/metrics").text


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(3)])
def test_nothing_that_the_engine_raises_leaves_anybody_waiting(served_model, monkeypatch, capfd, error):
    with open_server(served_model, CONFIG) as running, httpx.Client(base_url=running.url, timeout=30) as client:
        def failing(self):
            raise error
        monkeypatch.setattr(Scheduler, "_turn", failing)
        assert client.post(COMPLETE, json={"prompt": "a"}).status_code == 500
        assert client.get("/health").status_code == 503
    assert "the engine failed" in capfd.readouterr().err


KINDS = ("complete", "chat", "stream", "score", "echo", "grammar", "bad", "greedy-until", "tokenize")


def mixed(rng):
    """(path, body, statuses that are right) of a random request."""
    kind, size = rng.choice(KINDS), rng.randint(1, 30)
    prompt = [rng.randint(3, 280) for _ in range(rng.randint(1, 40))]
    answer = {"max_tokens": size, "temperature": rng.choice([0.0, 1.0]), "seed": rng.randint(0, 99),
              "n": rng.randint(1, 3)}
    return {
        "complete": (COMPLETE, {"prompt": prompt, **answer, "stop": ["e"]}, {200}),
        "chat": (CHAT, {"messages": [SYSTEM, {"role": "user", "content": "a" * size}], **answer}, {200}),
        "stream": (COMPLETE, {"prompt": prompt, **answer, "stream": True, "logprobs": 2}, {200}),
        "score": ("/v1/score", {"pairs": [[prompt, [5, 6]]] * rng.randint(1, 9)}, {200}),
        "echo": (COMPLETE, {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}, {200}),
        "grammar": (COMPLETE, {"prompt": prompt, **answer, "guided_regex": "[a-f]{1,20}"}, {200}),
        "bad": (COMPLETE, {"prompt": prompt, "temperature": -1}, {400}),
        "greedy-until": ("/greedy-until", {"prefix_text": ["a"], "until": ["e"]}, {200}),
        "tokenize": ("/tokenize", {"prompt": "a" * size}, {200}),
    }[kind]


async def crowd(url, count, seed):
    """`count` requests, 64 at a time, a third of which hang up after a random while; statuses of the others."""
    rng, statuses, gate = random.Random(seed), [], asyncio.Semaphore(64)

    async def ask(client, path, body, right, patience):
        async with gate:
            try:
                async with asyncio.timeout(patience):
                    response = await client.post(path, json=body)
                assert response.status_code in right | {429}, response.text
                statuses.append(response.status_code)
            except TimeoutError:
                statuses.append(None)

    fresh = httpx.Limits(max_connections=64, max_keepalive_connections=0)   # an idle one may be closed as it is taken
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=fresh) as client:
        await asyncio.gather(*(ask(client, *mixed(rng), rng.uniform(0, 0.3) if rng.random() < 1 / 3 else None)
                               for _ in range(count)))
    return statuses


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_crowd_that_comes_and_goes_leaves_every_slot_free_and_every_counter_at_zero(served_model, count):
    with open_server(served_model, CONFIG) as running:
        statuses = asyncio.run(crowd(running.url, count, seed=count))
        assert len(statuses) == count
        assert statuses.count(200) > count / 3
        assert None in statuses
        scheduler, until = running.service.scheduler, time.monotonic() + 60
        while scheduler.queue_depth or scheduler.slots_busy:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.05)        # the last turn ends
        held = (scheduler._unfinished, scheduler._waiting, scheduler._scorings, scheduler._pool, scheduler._flying)
        assert not any(held)
        assert scheduler._slots.free == CONFIG.slots
        assert scheduler._inbox.empty()
        assert running.service.engine.compilations == 0
        metrics = httpx.get(running.url + "/metrics").text
        assert "easylm_imitation_queue_depth 0\n" in metrics
        assert "easylm_imitation_slots_busy 0\n" in metrics
        assert httpx.post(running.url + CHAT, json=HELLO).status_code == 200
