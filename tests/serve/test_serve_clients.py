"""Other people's clients, unmodified: the openai package, lm-eval's local-completions and local-chat-completions, the
requests of FastChat's and alpaca_eval's judges, and the curl lines of the docs."""
import json
import math
import pathlib
import re
import shutil
import subprocess

import numpy as np
import openai
import pytest
from serve_helpers import CONFIG

from easylm_imitation.serve import Engine, Scorer

ROOT = pathlib.Path(__file__).resolve().parents[2]

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


@pytest.fixture(scope="module")
def tokenizer_dir(served_model, tmp_path_factory):
    """The model's tokenizer as lm-eval's `huggingface` backend loads it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    served_model.tokenizer.save(folder)
    return folder


def test_lm_eval_with_a_local_tokenizer_equals_the_remote_one(server, tokenizer_dir):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    local = LocalCompletionsAPI(base_url=server.url + "/v1/completions", model="tiny", max_length=CONFIG.context,
                                tokenizer=str(tokenizer_dir), tokenizer_backend="huggingface", max_retries=1)
    pairs = [("The sky is", f" {word}") for word in ("blue", "Oslo")] + [("日本", "語")]
    found = [model.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)], True)
             for model in (local, lm_eval_model(server))]
    np.testing.assert_allclose([a for a, _ in found[0]], [a for a, _ in found[1]], atol=1e-5)


@pytest.mark.parametrize("local", [False, True])
def test_lm_eval_chats_with_and_without_a_local_tokenizer(server, tokenizer_dir, local):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalChatCompletion
    setting = {"tokenizer": str(tokenizer_dir), "tokenizer_backend": "huggingface"} if local else {}
    model = LocalChatCompletion(base_url=server.url + "/v1/chat/completions", model="tiny", max_retries=1, **setting)
    prompt = model.apply_chat_template(MESSAGES)
    asked = Instance("generate_until", {}, (prompt, {"until": ["e"], "max_gen_toks": 12}), 0)
    [text] = model.generate_until([asked], True)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        own = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=12, stop=["e"])
    assert text == own.choices[0].message.content


def test_an_answer_may_be_sent_back_as_the_client_has_it(client):
    first = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=3, temperature=0)
    again = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "a"}]
    assert client.chat.completions.create(model="tiny", messages=again, max_tokens=2).choices


def test_fastchats_judge_asks_and_gets_a_verdict(client):
    """One system and one user message, temperature 0, n = 1, as its `chat_completion_openai` sends them."""
    reply = client.chat.completions.create(model="tiny", messages=MESSAGES, n=1, temperature=0, max_tokens=20)
    assert isinstance(reply.choices[0].message.content, str)


def test_alpaca_evals_weighted_judge_gets_the_weights_of_both_letters(client):
    """Its `weighted_alpaca_eval_gpt4_turbo`: one token, the five likeliest and their log-probabilities."""
    reply = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1, temperature=1, logprobs=True,
                                           top_logprobs=5, logit_bias={"80": 30, "48": 30})
    [token] = reply.choices[0].logprobs.content
    weights = {one.token: math.exp(one.logprob) for one in token.top_logprobs}
    assert len(weights) == 5
    assert 0 < sum(weights.values()) <= 1 + 1e-6
    assert json.loads(reply.model_dump_json())["choices"][0]["logprobs"]["content"][0]["bytes"] == token.bytes


CURLS = re.findall(r"^    curl .*?(?:\n\n|\Z)", (ROOT / "docs/serve.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("command", CURLS, ids=range(len(CURLS)))
def test_the_curl_lines_of_the_docs_run(server, command):
    line = command.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS --fail-with-body ", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_docs_have_curl_lines():
    assert len(CURLS) >= 5
