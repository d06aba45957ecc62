"""Other people's clients, unmodified: the openai package, and lm-eval's local-completions with the remote tokenizer."""
import numpy as np
import openai
import pytest
from serve_helpers import CONFIG

from easylm_imitation.serve import Engine, Scorer

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Oslo?"}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_openai_chat_completions_and_streams(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    common = {"model": "tiny", "temperature": 0.8, "seed": 3, "max_tokens": 24}
    whole = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=2, **common)
    assert whole.usage.completion_tokens <= 24
    assert all(len(one.top_logprobs) == 2 for one in whole.choices[0].logprobs.content)
    with client.chat.completions.create(messages=MESSAGES, stream=True, **common) as chunks:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content != ""
    raw = client.completions.create(prompt="The sky is", logprobs=3, n=2, **common)
    with client.completions.create(prompt="The sky is", n=2, stream=True, **common) as chunks:
        parts = ["", ""]
        for chunk in chunks:
            parts[chunk.choices[0].index] += chunk.choices[0].text
    assert parts == [choice.text for choice in raw.choices]


def test_openai_sees_errors_as_its_own(client):
    with pytest.raises(openai.BadRequestError, match="mood: unknown field"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"mood": "sad"})
    with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served here"):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)


@pytest.fixture(scope="module")
def scorer(served_model, server):
    return Scorer(Engine(served_model.config, served_model.params, CONFIG, stop_ids=[0], vocab_size=290))


def lm_eval_model(server, **setting):
    pytest.importorskip("lm_eval")
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    model = LocalCompletionsAPI(base_url=server.url + "/v1/completions", model="tiny", max_length=CONFIG.context,
                                max_retries=1, **setting)
    assert model.tokenizer_backend == "remote"
    return model


SETTINGS = [{"batch_size": 1}, {"batch_size": 5, "num_concurrent": 3}, {"tokenized_requests": False}]


@pytest.mark.parametrize("setting", SETTINGS)
def test_lm_eval_over_http_equals_the_scorer(server, scorer, setting):
    model = lm_eval_model(server, **setting)
    from lm_eval.api.instance import Instance
    texts = [("The sky is", f" {word}") for word in ("blue", "green", "Oslo", "where")]
    texts += [("Be ", "brief."), ("日本", "語"), ("", "Oslo")]
    found = model.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(texts)], True)
    expected = scorer.score([server.service.encode_pair(*pair) for pair in texts])
    np.testing.assert_allclose([logprob for logprob, _ in found], [score.logprob for score in expected], atol=1e-3)
    assert [bool(is_greedy) for _, is_greedy in found] == [score.greedy for score in expected]
    until = Instance("generate_until", {}, ("The sky is", {"until": ["e", "\n"], "max_gen_toks": 20}), 0)
    [text] = model.generate_until([until], True)
    assert "e" not in text


@pytest.mark.parametrize("setting", SETTINGS[:2])
def test_lm_eval_sees_which_continuations_are_greedy(server, scorer, greedy, setting):
    """In token ids, because what this model likes best is no text."""
    contexts = [list(range(start, start + 9)) for start in range(10, 250, 30)]
    pairs = [(context, greedy(context, 3)[0] or [5]) for context in contexts]
    pairs += [(context, [9, 9]) for context in contexts]
    requests = [(("", ""), *pair) for pair in pairs]
    found = lm_eval_model(server, **setting)._loglikelihood_tokens(requests, disable_tqdm=True)
    expected = scorer.score(pairs)
    assert [bool(is_greedy) for _, is_greedy in found] == [score.greedy for score in expected]
    assert {score.greedy for score in expected} == {True, False}
    np.testing.assert_allclose([logprob for logprob, _ in found], [score.logprob for score in expected], atol=1e-3)
