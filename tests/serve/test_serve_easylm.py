"""EasyLM's own routes, with the requests that its LMClient sends; each equals what our own routes say."""
import httpx
import pytest


def post(http, path, **body):
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_loglikelihood_equals_the_score_route(http):
    prefix, text = ["The sky is", "Be ", "", "日本"], [" blue", "brief.", "Oslo", "語"]
    found = post(http, "/loglikelihood", prefix_text=prefix, text=text)
    scores = post(http, "/v1/score", pairs=list(zip(prefix, text)))["scores"]
    assert found == {"prefix_text": prefix, "text": text, "log_likelihood": [score["logprob"] for score in scores],
                     "is_greedy": [score["greedy"] for score in scores]}
    alone = post(http, "/loglikelihood", text=["Oslo"])
    assert alone["log_likelihood"] == pytest.approx([scores[2]["logprob"]], abs=1e-5)


def test_rolling_sums_windows_over_texts_longer_than_the_context(http, server, served_model, reference):
    tokenizer, context = served_model.tokenizer, server.service.context
    texts = ["Where is Oslo?", "The sky is blue, the grass is green. " * 12]
    assert len(tokenizer.encode(texts[1])) > context
    found = post(http, "/loglikelihood-rolling", text=texts)
    for text, total in zip(texts, found["log_likelihood"]):
        ids = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id, *tokenizer.encode(text)]
        expected = 0.0
        for at in range(0, len(ids) - 1, context):
            window = ids[at:at + context + 1]
            rows = reference(window[:-1])
            expected += sum(rows[i, token] for i, token in enumerate(window[1:]))
        assert total == pytest.approx(expected, rel=1e-4)
    assert found["text"] == texts


def test_generation_equals_the_completions_route(http):
    until = ["e", ["k", "r"]]
    found = post(http, "/greedy-until", prefix_text=["The sky is", "Where"], until=until)
    assert (found["until"], found["max_length"]) == (until, 96)
    for prefix, stop, text in zip(found["prefix_text"], until, found["output_text"]):
        ids = post(http, "/tokenize", prompt=prefix)["tokens"]
        room = 96 - len(ids) + 1
        own = post(http, "/v1/completions", prompt=prefix, stop=stop, temperature=0, max_tokens=room)
        assert own["choices"][0]["text"] == text
    greedy = post(http, "/generate", prefix_text=["Oslo", "Be"], temperature=0.0)
    own = [post(http, "/v1/completions", prompt=text, temperature=0, max_tokens=90) for text in ("Oslo", "Be")]
    for text, reply in zip(greedy["output_text"], own):
        assert text.startswith(reply["choices"][0]["text"])
    assert greedy["temperature"] == 0.0
    first = post(http, "/chat", prompt="Oslo", temperature=0.0)
    assert first == {"response": greedy["output_text"][0], "context": "Oslo" + greedy["output_text"][0],
                     "temperature": 0.0}


@pytest.mark.parametrize(("path", "body", "says"), [
    ("/loglikelihood", {"text": ["a"], "prefix_text": ["a", "b"]}, "2 entries for 1 texts"),
    ("/loglikelihood", {"text": ["a"], "prefix": ["a"]}, "prefix: unknown field; did you mean 'prefix_text'?"),
    ("/loglikelihood", {"text": []}, "text"),
    ("/loglikelihood", {"text": ["a" * 300]}, "context of 96"),
    ("/loglikelihood-rolling", {"text": ["a" * 300, ""]}, "text.1: String should have at least 1 character"),
    ("/generate", {"prefix_text": [""]}, "prefix_text: empty"),
    ("/generate", {"prefix_text": ["a" * 300]}, "context of 96"),
    ("/greedy-until", {"prefix_text": ["a"], "until": [""]}, "until: at most 32 strings"),
    ("/greedy-until", {"prefix_text": ["a"], "until": ["x", "y"]}, "2 entries for 1 texts"),
    ("/chat", {"prompt": ""}, "prompt: empty")])
def test_what_cannot_be_done_is_said(http, path, body, says):
    response = http.post(path, json=body)
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]


def test_the_client_waits_for_ready(server):
    assert httpx.get(server.url + "/ready").status_code == 200
