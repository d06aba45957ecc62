"""A model in this process gives what its HTTP server gives, to the bit."""
import dataclasses

import numpy as np
import pytest
from serve_helpers import CONFIG

from easylm_imitation.schema import UserError
from easylm_imitation.serve import LocalModel
from easylm_imitation.serve.config import Limits

HELLO = [{"role": "user", "content": "Oslo"}]


@pytest.fixture(scope="module")
def local(served_model, server):
    with LocalModel(served_model, CONFIG) as model:     # its programs are the server's
        yield model


def test_scores_equal_those_of_the_route_to_the_bit(local, http):
    rng = np.random.default_rng(4)
    ids = [(rng.integers(0, 290, rng.integers(1, 80)).tolist(), rng.integers(0, 290, 3).tolist()) for _ in range(50)]
    texts = [("The sky is ", "blue"), ("The sky is", " green"), ("", "Be brief."), ("Ünï", "cödé 🙂")]
    for pairs in (ids, texts):
        scores = http.post("/v1/score", json={"pairs": pairs}).json()["scores"]
        assert local.score(pairs) == [(score["logprob"], score["greedy"]) for score in scores]


def test_answers_equal_those_of_the_routes(local, http):
    fields = {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 7, "n": 2, "stop": ["e"]}
    prompts = ["The sky is", "Oslo", "a"]
    choices = http.post("/v1/completions", json={"prompt": prompts, **fields}).json()["choices"]
    assert local.generate(prompts, **fields) == [choice["text"] for choice in choices]
    assert len(choices) == 6
    [said] = local.chat([HELLO], max_tokens=4, temperature=0)
    body = http.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 4, "temperature": 0}).json()
    assert said == body["choices"][0]["message"]["content"]


@pytest.mark.parametrize(("route", "asks"), [
    ("/v1/completions", {"prompt": ((5, 6), [7, 8]), "echo": True, "logprobs": 2, "max_tokens": 1, "temperature": 0}),
    ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 3, "temperature": 0, "logprobs": True})])
def test_a_posted_body_has_the_routes_answer(local, http, route, asks):
    here, there = local.post(route, asks).result(), http.post(route, json=asks).json()
    assert {**here, "id": "", "created": 0} == {**there, "id": "", "created": 0}
    with pytest.raises(UserError, match="'/v1/complete' is no route of a model in this process.*'/v1/completions'"):
        local.post("/v1/complete", asks)


def test_more_may_be_asked_at_once_than_of_a_server(local):
    assert len(local.generate([[5]] * 600, max_tokens=1)) == 600
    assert len(local.generate([[5]], max_tokens=1, n=20, stop=["e" * 300] * 40)) == 20


def test_the_callers_other_limits_are_kept(served_model):
    limits = Limits(drain_seconds=3, queue=1)
    with LocalModel(served_model, dataclasses.replace(CONFIG, limits=limits)) as model:
        assert model.service.limits.drain_seconds == 3
        assert len(model.generate(["a", "b"], max_tokens=1)) == 2


@pytest.mark.parametrize(("ask", "says"), [
    (lambda model: model.score([([5], [])]), "pair 0: the continuation is empty"),
    (lambda model: model.score([([5], [999])]), "token id 999"),
    (lambda model: model.generate(["a"], temprature=1), "did you mean 'temperature'"),
    (lambda model: model.generate(["a"], stream=True), "stream"),
    (lambda model: model.generate(["a"], max_tokens=500), "max_tokens is 500"),
    (lambda model: model.chat([HELLO], top_logprobs=3), "needs logprobs")])
def test_what_the_routes_refuse_is_one_clear_error(local, ask, says):
    with pytest.raises(UserError, match=says):
        ask(local)
