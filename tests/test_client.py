"""The client against a real server that misbehaves on purpose."""
import asyncio
import email.utils
import logging
import socket
import time

import httpx
import pytest
from endpoint import Endpoint, answer, drop, send, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from easylm_imitation.client import Bucket, Client, ClientConfig, RequestFailed, base_url, for_each, with_client
from easylm_imitation.client.rates import retry_after
from easylm_imitation.record_examples import EXAMPLES
from easylm_imitation.records import Lineage, Message
from easylm_imitation.schema import UserError

KEY = "sk-a-secret-that-must-not-leak"


def ask(endpoint, prompt="hello", **settings):
    config = ClientConfig(endpoint.url, **{"backoff": 0.01, **settings})
    return with_client(config, lambda c: c.chat([Message("user", prompt)], max_tokens=8))


def first_badly(bad):
    """Misbehaves on the first request of each prompt, then answers."""
    return lambda handler, body, n: bad(handler) if n == 1 else answer(body)


@pytest.mark.parametrize("url", [
    "http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions",
    "http://h:1/v1/completions", " http://h:1/v1/models "])
def test_every_way_to_write_an_address_means_the_same(url):
    assert base_url(url) == "http://h:1/v1"


def test_a_path_before_v1_is_kept():
    assert base_url("https://host/api/v1/") == "https://host/api/v1"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://h", "http://", "http://user:pw@h/v1", "http://h/v1?key=1"])
def test_other_addresses_are_refused(url):
    with pytest.raises(UserError, match="address|leave those out"):
        base_url(url)


@pytest.mark.parametrize("wrong", [{"timeout": float("nan")}, {"longest_wait": -1.0}, {"backoff": -0.5}])
def test_times_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* must be"):
        ClientConfig("http://h", **wrong)


def test_an_answer_is_read():
    with serving(Endpoint()) as endpoint:
        reply = ask(endpoint)
    assert (reply.text, reply.finish_reason, reply.model) == ("answer to hello", "stop", "teacher")
    assert (reply.prompt_tokens, reply.completion_tokens) == (10, 5)
    assert endpoint.requests == [{"model": "teacher", "messages": [{"role": "user", "content": "hello"}],
                                  "max_tokens": 8, "temperature": 0.0}]


@pytest.mark.parametrize(("content", "text"), [
    ([{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "x"}, {"type": "text", "text": "b"}], "ab"),
    ([], ""), (None, "")])
def test_a_content_of_parts_is_its_texts(content, text):
    with serving(Endpoint(lambda h, body, n: answer(body, text=content) | (
            {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}))) as endpoint:
        assert ask(endpoint, model="teacher", attempts=1).text == text


def test_half_a_surrogate_pair_in_an_answer_becomes_a_replacement_character():
    with serving(Endpoint(lambda handler, body, n: answer(body, text="half \ud83d, whole \U0001f600"))) as endpoint:
        assert ask(endpoint).text == "half \ufffd, whole \U0001f600"


def test_completions_take_text_and_ids_and_leave_out_what_is_none():
    with serving(Endpoint()) as endpoint:
        async def both(c):
            once = await c.complete("once", max_tokens=3, seed=None)
            return once.text, await c.complete((1, 2), max_tokens=3, seed=7)
        text, reply = with_client(ClientConfig(endpoint.url, model="teacher"), both)
    assert text == "answer to once"
    assert "seed" not in endpoint.requests[0]
    assert endpoint.requests[1]["prompt"] == [1, 2]
    assert endpoint.requests[1]["seed"] == 7
    assert reply.completion_tokens == 5


@pytest.mark.parametrize("bad", [
    lambda h: send(h, 500, {"error": {"message": "oops"}}),
    lambda h: send(h, 503, b"<html>down</html>"),
    lambda h: send(h, 429, {"error": {"message": "slow down"}}),
    drop,
    lambda h: send(h, 200, b'{"choices": [{"mess'),
    lambda h: send(h, 200, {"choices": []}),
    lambda h: send(h, 200, ["not an object"]),
    lambda h: time.sleep(1.5),
], ids=["500", "503", "429", "dropped", "torn JSON", "no choice", "a list", "slow"])
def test_what_waiting_may_mend_is_tried_again(bad):
    with serving(Endpoint(first_badly(bad))) as endpoint:
        assert ask(endpoint, timeout=1.0).text == "answer to hello"
        assert len(endpoint.requests) == 2


def test_a_slow_trickle_is_cut_off_too():
    def trickle(handler, body, n):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" ")
            sent.append(1)
            time.sleep(0.05)
    sent = []
    with serving(Endpoint(trickle)) as endpoint:
        with pytest.raises(RequestFailed, match="no answer within 0.2 s"):
            ask(endpoint, timeout=0.2, attempts=1)
        assert len(sent) < 1000


@pytest.mark.parametrize("value", ["0.5", lambda: email.utils.formatdate(time.time() + 2, usegmt=True)],
                         ids=["seconds", "date"])
def test_retry_after_is_honoured(value):
    header = value if isinstance(value, str) else value()
    with serving(Endpoint(first_badly(lambda h: send(h, 429, {}, [("Retry-After", header)])))) as endpoint:
        ask(endpoint)
    assert endpoint.times[1] - endpoint.times[0] > 0.45


@pytest.mark.parametrize("value", ["inf", "100000", "Fri, 01 Jan 2100 00:00:00 GMT"], ids=["inf", "a day", "2100"])
def test_an_endless_retry_after_is_cut_short_said_and_counted(value, capsys):
    async def go(c):
        await c.chat([Message("user", "hello")], max_tokens=4)
        return c.cut_short
    with serving(Endpoint(first_badly(lambda h: send(h, 429, {}, [("Retry-After", value)])))) as endpoint:
        config = ClientConfig(endpoint.url, model="teacher", backoff=0.01, longest_retry_after=0.3)
        assert with_client(config, go) == 1
    assert 0.25 < endpoint.times[1] - endpoint.times[0] < 20
    assert "asked again after 0.3 (longest_retry_after)" in " ".join(capsys.readouterr().err.split())


def test_differing_endless_pauses_are_said_once_and_briefly(capsys):
    waits = ["9" * 40, "inf", "8" * 30]
    with serving(Endpoint(lambda h, body, n: send(h, 503, {}, [("Retry-After", waits[n - 1])]) if n < 4
                          else answer(body))) as endpoint:
        ask(endpoint, longest_retry_after=0.01)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("Retry-After") == 1
    assert "wants an endless pause (Retry-After)" in said


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S -0000"])
def test_every_form_of_date_in_a_retry_after_is_read_as_utc(form):
    value = time.strftime(form, time.gmtime(time.time() + 100))
    response = httpx.Response(429, headers={"Retry-After": value})
    assert 90 < retry_after(response) <= 100


@pytest.mark.parametrize("value", ["nan", "-5", "soon", "", "Sun, 22 Nov 99999999999 22:49:37 GMT"])
def test_a_retry_after_that_says_nothing_is_none(value):
    with serving(Endpoint(first_badly(lambda h: send(h, 429, {}, [("Retry-After", value)])))) as endpoint:
        ask(endpoint, backoff=0.01)
    assert len(endpoint.requests) == 2


def test_a_limit_holds_back_all_requests():
    def behave(handler, body, n):
        if body["messages"][-1]["content"] == "0" and n == 1:
            return send(handler, 429, {}, [("Retry-After", "0.6")])
        return answer(body)
    with serving(Endpoint(behave)) as endpoint:
        async def both(c):
            first = asyncio.create_task(c.chat([Message("user", "0")], max_tokens=1))
            await asyncio.sleep(0.2)
            await c.chat([Message("user", "1")], max_tokens=1)
            await first
        with_client(ClientConfig(endpoint.url, model="teacher"), both)
    other = [t for t, r in zip(endpoint.times, endpoint.requests) if r["messages"][-1]["content"] == "1"]
    assert other[0] - endpoint.times[0] > 0.55


def test_back_off_grows_and_gives_up():
    with serving(Endpoint(lambda h, body, n: send(h, 500, {"error": "still broken"}))) as endpoint:
        with pytest.raises(RequestFailed, match=r"HTTP 500: still broken \(4 attempts\)") as caught:
            ask(endpoint, attempts=4, backoff=0.1)
    assert not caught.value.refused
    assert len(endpoint.requests) == 4
    pauses = [b - a for a, b in zip(endpoint.times, endpoint.times[1:])]
    assert pauses[2] > pauses[0]


def test_a_refused_request_is_not_repeated():
    with serving(Endpoint(lambda h, body, n: send(h, 400, {"error": {"message": "too long"}}))) as endpoint:
        with pytest.raises(RequestFailed, match="HTTP 400: too long") as caught:
            ask(endpoint)
    assert caught.value.refused
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("status", "body", "says"), [
    (401, {"error": {"message": f"bad key {KEY}"}}, r"access refused .* check the key in \$OPENAI_API_KEY"),
    (403, {}, "access refused"),
    (404, {"detail": "Not Found"}, "no such route or model"),
    (302, {}, "no such route or model"),
    (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, "quota is used up"),
])
def test_hopeless_answers_stop_at_once_and_never_show_the_key(monkeypatch, caplog, status, body, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with serving(Endpoint(lambda h, b, n: send(h, status, body))) as endpoint:
        with pytest.raises(UserError, match=says) as caught:
            ask(endpoint)
    assert len(endpoint.requests) == 1
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value) + repr(caught.value)
    assert KEY not in caplog.text


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_key_at_the_place_where_a_message_is_cut_leaves_nothing(monkeypatch, status, as_json):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = "x" * 290 + " " + KEY
    body = {"error": {"message": said}} if as_json else said.encode()
    with serving(Endpoint(lambda h, b, n: send(h, status, body))) as endpoint:
        with pytest.raises((UserError, RequestFailed)) as caught:
            ask(endpoint, model="teacher", attempts=1)
    assert "xxx" in str(caught.value)
    assert KEY[:4] not in str(caught.value)


@pytest.mark.parametrize(("body", "says"), [
    ({"error": {"message": "the model is loading"}}, "an error in place of an answer: the model is loading"),
    ({"id": "x"}, r"not of the expected form \(without 'choices'\): {'id': 'x'}"),
    ({"choices": []}, "not of the expected form: {'choices'"), (["a"], "not of the expected form: "),
    (b"<html>hm</html>", "the answer is not JSON: <html>hm")])
def test_an_answer_that_is_none_is_told_in_the_servers_own_words(body, says):
    with serving(Endpoint(lambda h, b, n: send(h, 200, body))) as endpoint:
        with pytest.raises(RequestFailed, match=says):
            ask(endpoint, model="teacher", attempts=1)


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(Endpoint(lambda h, b, n: send(h, 401, {}))) as endpoint:
        with pytest.raises(UserError, match=r"put a key into \$OPENAI_API_KEY"):
            ask(endpoint)
    assert "Authorization" not in endpoint.headers[0]


def test_no_more_requests_in_flight_than_asked_for():
    def slow(handler, body, n):
        time.sleep(0.05)
        return answer(body)
    with serving(Endpoint(slow)) as endpoint:
        async def many(c):
            return await asyncio.gather(*[c.chat([Message("user", str(i))], max_tokens=1) for i in range(12)])
        replies = with_client(ClientConfig(endpoint.url, model="teacher", concurrency=3), many)
    assert [r.text for r in replies] == [f"answer to {i}" for i in range(12)]
    assert endpoint.most_in_flight == 3


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0

    async def sleep(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)

    def bucket(self, per_minute):
        return Bucket(per_minute, clock=lambda: self.now, sleep=self.sleep)


def spend(per_minute, amounts):
    """[(virtual second, amount)] of taking all amounts at once."""
    log = []

    async def all_of_them():
        virtual = VirtualTime()
        bucket = virtual.bucket(per_minute)

        async def one(amount):
            await bucket.take(amount)
            log.append((virtual.now, amount))
        await asyncio.gather(*map(one, amounts))
    asyncio.run(all_of_them())
    return log


@given(st.floats(1, 1e4), st.lists(st.floats(1, 400), min_size=1, max_size=60))
@settings(deadline=None)
def test_a_limit_holds_over_every_span_of_time_and_keeps_the_order(per_minute, amounts):
    log = spend(per_minute, amounts)
    assert [amount for _, amount in log] == amounts
    burst = max(1.0, per_minute / 60, *amounts)
    for first, (start, _) in enumerate(log):
        for last in range(first, len(log)):
            spent = sum(amount for _, amount in log[first:last + 1])
            assert spent <= (log[last][0] - start) * per_minute / 60 + burst + 1e-6
    total = sum(amounts[:-1])
    assert log[-1][0] <= (total + max(1.0, per_minute / 60)) / (per_minute / 60) + 1e-6, "no slower than the limit"


def test_what_an_answer_did_not_use_is_given_back():
    async def second_at(unused):
        virtual = VirtualTime()
        bucket = virtual.bucket(600)        # ten a second
        await bucket.take(100)
        bucket.give_back(unused)
        await bucket.take(10)
        return virtual.now
    assert asyncio.run(second_at(0)) == pytest.approx(10)
    assert asyncio.run(second_at(90)) == pytest.approx(1)
    assert asyncio.run(second_at(500)) == 0, "never more than the bucket holds"


@pytest.mark.parametrize(("limit", "gap"), [({"requests_per_minute": 30}, 2.0), ({"tokens_per_minute": 900}, 1.0),
                                            ({"requests_per_minute": 30, "tokens_per_minute": 100}, 9.0)])
def test_the_limits_space_what_a_real_server_sees(limit, gap):
    """A request may cost 2.8 + 100 tokens at worst and costs 15; the server reads the virtual clock at each arrival."""
    virtual, arrivals = VirtualTime(), []

    def behave(handler, body, n):
        arrivals.append(virtual.now)
        return send(handler, 500, {}) if len(arrivals) == 2 else answer(body)

    async def ask_five(c):
        for name in ("_requests", "_tokens"):
            if getattr(c, name):
                setattr(c, name, virtual.bucket(limit[name[1:] + "_per_minute"]))
        for i in range(4):
            await c.chat([Message("user", f"{i} words")], max_tokens=100)
    with serving(Endpoint(behave)) as endpoint:
        with_client(ClientConfig(endpoint.url, model="teacher", backoff=0.01, **limit), ask_five)
    assert len(arrivals) == 5
    pauses = [b - a for a, b in zip(arrivals, arrivals[1:])]
    assert pauses[1] >= pauses[0] - 1e-6, "a further attempt is a request like others"
    assert min(pauses) == pytest.approx(gap)


def test_a_key_that_an_answer_repeats_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Endpoint(lambda handler, body, n: answer(body, text=f"Your key is {KEY}."))) as endpoint:
        assert ask(endpoint).text == "Your key is ***."


@pytest.mark.parametrize("configured", ["", f"org/{KEY}"])
def test_a_model_whose_name_holds_the_key_is_asked_by_its_name(monkeypatch, configured):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Endpoint(models=[{"id": f"org/{KEY}"}])) as endpoint:
        assert ask(endpoint, model=configured).text == "answer to hello"
        assert with_client(ClientConfig(endpoint.url, configured), Client.model).id == f"org/{KEY}"
    assert [body["model"] for body in endpoint.requests] == [f"org/{KEY}"]


@pytest.mark.parametrize("configured", ["", f"org/{KEY}x"])
def test_errors_about_models_never_show_the_key(monkeypatch, configured):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Endpoint(models=[{"id": f"org/{KEY}"}, {"id": "other"}])) as endpoint:
        with pytest.raises(UserError, match=r"org/\*\*\*") as caught:
            with_client(ClientConfig(endpoint.url, configured), Client.model)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("dummy", ["none", "EMPTY", "x"])
def test_a_dummy_key_leaves_answers_as_they_are(monkeypatch, dummy):
    monkeypatch.setenv("OPENAI_API_KEY", dummy)
    text = "There is none; EMPTY next exit."
    with serving(Endpoint(lambda handler, body, n: answer(body, text=text))) as endpoint:
        reply = ask(endpoint)
    assert (reply.text, reply.model) == (text, "teacher")


def test_models_carry_lineage_and_context_where_offered():
    offered = {"id": "ours", "lineage": EXAMPLES[Lineage], "max_model_len": 64}
    with serving(Endpoint(models=[offered, {"id": "other", "lineage": "a word"}])) as endpoint:
        ours, other = with_client(ClientConfig(endpoint.url), lambda c: c.models())
    assert (ours.id, ours.lineage.name, ours.context) == ("ours", "imitation", 64)
    assert (other.lineage, other.context) == (None, None)


def served_model(config):
    return with_client(config, lambda client: client.model())


def test_the_model_is_the_only_one_or_the_named_one():
    with serving(Endpoint(models=[{"id": "small"}, {"id": "large"}])) as endpoint:
        with pytest.raises(UserError, match="serves 2 models; name one .large, small."):
            served_model(ClientConfig(endpoint.url))
        with pytest.raises(UserError, match="did you mean 'large'"):
            served_model(ClientConfig(endpoint.url, model="larg"))
        assert served_model(ClientConfig(endpoint.url, model="large")).id == "large"


def test_an_endpoint_that_lists_no_models_is_believed_when_the_model_is_named():
    with serving(Endpoint(models="absent")) as endpoint:
        assert served_model(ClientConfig(endpoint.url, model="gpt")).id == "gpt"
        with pytest.raises(UserError, match="no such route"):
            served_model(ClientConfig(endpoint.url))


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"{url}/v1/models: .* is the server up"):
        served_model(ClientConfig(url, backoff=0.01))


def test_a_config_that_cannot_work_is_refused():
    with pytest.raises(ValueError, match="concurrency=0 must be above 0"):
        ClientConfig("http://h", concurrency=0)


def test_for_each_stops_at_the_first_error_and_takes_items_in_order():
    started, cancelled = [], []

    async def work(item):
        started.append(item)
        if item == 2:
            raise UserError("enough")
        try:
            await asyncio.sleep(0.01 if item == 0 else 5)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    with pytest.raises(UserError, match="enough"):
        asyncio.run(for_each(range(100), work, workers=2))
    assert started == [0, 1, 2]
    assert cancelled == [1]


def test_the_key_is_not_in_the_clients_repr(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = Client(ClientConfig("http://h"))
    assert KEY not in repr(client) + repr(client.config)
    assert base_url("http://h") == client.base
