"""Streams with log-probabilities say, piece by piece, what the whole answer says."""
import itertools
import json

import pytest
from serve_helpers import events

COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.mark.parametrize("extra", [{"temperature": 0}, {"seed": 3, "n": 3},
                                   {"echo": True, "seed": 3, "n": 2}, {"seed": 4, "stop": ["e", "ab"]},
                                   {"seed": 5, "guided_regex": "[a-d]{9}", "n": 2}])
@pytest.mark.parametrize("prompt", ["The sky is", "日本"])
def test_a_stream_of_completions_gives_each_token_once_with_its_logprobs(http, prompt, extra):
    body = {"prompt": prompt, "max_tokens": 30, "logprobs": 3, **extra}
    whole = http.post(COMPLETE, json=body).json()["choices"]
    found = [{"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []} for _ in whole]
    texts = [""] * len(whole)
    for event in events(http, COMPLETE, **body):
        [choice] = event["choices"]
        texts[choice["index"]] += choice["text"]
        for name, values in choice["logprobs"].items():
            found[choice["index"]][name] += values
    assert texts == [choice["text"] for choice in whole]
    assert found == [choice["logprobs"] for choice in whole]
    assert any(len(one["tokens"]) > 3 for one in found)


@pytest.mark.parametrize("asked", [{"max_tokens": 0}, {"max_tokens": 2}, {"max_tokens": 0, "logprobs": 2}])
def test_a_stream_that_echoes_says_what_the_whole_answer_says(http, asked):
    body = {"prompt": ["The sky", "café"], "echo": True, "temperature": 0, **asked}
    whole = http.post(COMPLETE, json=body).json()
    *pieces, last = events(http, COMPLETE, **body, stream_options={"include_usage": True})
    for i, choice in enumerate(whole["choices"]):
        own = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == i]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        if "logprobs" in asked:
            assert own[0]["logprobs"] == choice["logprobs"]
    assert last["usage"] == whole["usage"]


def test_no_character_of_a_text_ends_a_line_of_a_stream(http):
    """Clients that read lines as Python's `splitlines` does would be given half an event."""
    prompt = "a\u2028b\u2029c\x85d\x0be\x1cf"
    with http.stream("POST", COMPLETE, json={"prompt": prompt, "echo": True, "max_tokens": 1, "stream": True}) as given:
        lines = given.read().decode().splitlines()
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["text"] == prompt
    assert all(line in ("", "data: [DONE]") or json.loads(line.removeprefix("data: ")) for line in lines)


def test_offsets_are_places_in_the_text(http, served_model):
    """Of tokens that are half a character too: they share its place."""
    prompt = "naïve 日本語<|im_start|>🙂 café"
    body = {"prompt": prompt, "echo": True, "max_tokens": 30, "seed": 5, "logprobs": 0}
    [choice] = http.post(COMPLETE, json=body).json()["choices"]
    offsets, tokens = choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"]
    assert offsets == sorted(offsets)
    plain = [(at, token) for at, token, after in zip(offsets, tokens, [*offsets[1:], len(choice["text"])])
             if after - at == len(token) and token.isascii()]
    assert len(plain) > 9
    assert all(choice["text"][at:].startswith(token) for at, token in plain)
    assert next(at for at, token in zip(offsets, tokens) if token == "<|im_start|>") == prompt.index("<|im_start|>")
    assert len(set(offsets)) < len(offsets)


@pytest.mark.parametrize("top", [None, 0, 4])
def test_a_stream_of_chat_gives_each_token_once_with_its_logprobs(http, top):
    messages = [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]
    body = {"messages": messages, "max_tokens": 24, "seed": 2, "logprobs": True, "top_logprobs": top, "n": 2}
    whole = http.post(CHAT, json=body).json()["choices"]
    found, texts = [[], []], ["", ""]
    for event in events(http, CHAT, **body):
        [choice] = event["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        found[choice["index"]] += (choice["logprobs"] or {"content": []})["content"]
    assert texts == [choice["message"]["content"] for choice in whole]
    assert found == [choice["logprobs"]["content"] for choice in whole]
    assert all(len(entry["top_logprobs"]) == (top or 0) for entry in itertools.chain(*found))


def test_a_piece_carries_the_tokens_that_its_text_is_made_of(http):
    """Never a token whose text is held back still, as it may become a stop string or half a character."""
    body = {"prompt": "a", "max_tokens": 40, "temperature": 0, "logprobs": 0, "stop": ["never in it"]}
    seen = events(http, COMPLETE, **body)
    for event in seen[:-1]:
        [choice] = event["choices"]
        assert bool(choice["text"]) == bool(choice["logprobs"]["tokens"])


def test_the_bytes_of_a_chats_tokens_are_its_text_even_of_half_characters(http):
    body = {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 2, "max_tokens": 12,
            "structured_outputs": {"choice": ["🙂日"]}}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "🙂日"
    assert b"".join(bytes(token["bytes"]) for token in tokens) == choice["message"]["content"].encode()
    assert any(bytes(token["bytes"]).decode(errors="ignore") == "" for token in tokens)
