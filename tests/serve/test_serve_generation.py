"""Generation over HTTP equals full forward passes, alone and in company; seeds, streams and stops keep their word."""
import concurrent.futures

import numpy as np
import pytest
from serve_helpers import events

from easylm_imitation.records import Conversation, Message
from easylm_imitation.text import chat_jinja, prompt_ids, tokenize


def complete(http, **body):
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


def random_prompts(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 290, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def expected_texts(prompts, counts, greedy, service):
    made = [greedy(prompt, count) for prompt, count in zip(prompts, counts)]
    return [([service.token_text(token) for token in tokens], reason) for tokens, reason in made]


@pytest.mark.parametrize("length", [1, 16, 17, 50])
def test_greedy_answer_equals_the_full_forward_token_by_token(http, server, greedy, length):
    prompt = random_prompts(1, 1, seed=length)[0] * length
    [choice] = complete(http, prompt=prompt, max_tokens=40, temperature=0, logprobs=0)
    [(tokens, reason)] = expected_texts([prompt], [40], greedy, server.service)
    assert (choice["logprobs"]["tokens"], choice["finish_reason"]) == (tokens, reason)


def test_greedy_answers_stay_right_in_a_full_batch_of_mixed_lengths_and_reused_slots(http, server, greedy):
    prompts = random_prompts(14, 60)        # 4 slots: each is used several times
    counts = [3 + 7 * i % 30 for i in range(14)]
    with concurrent.futures.ThreadPoolExecutor(14) as pool:
        bodies = [{"prompt": p, "max_tokens": n, "temperature": 0, "logprobs": 0} for p, n in zip(prompts, counts)]
        choices = list(pool.map(lambda body: complete(http, **body)[0], bodies))
    found = [(choice["logprobs"]["tokens"], choice["finish_reason"]) for choice in choices]
    assert found == expected_texts(prompts, counts, greedy, server.service)


def test_of_requests_that_arrive_together_one_reads_what_they_share(http, server, greedy):
    counts, shared = server.service.scheduler.counts, random_prompts(1, 1, seed=5)[0] * 50
    prompts = [[*shared, 20 + i, 30 + i] for i in range(8)]         # 4 slots
    before = counts["reused_tokens"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        bodies = [{"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 0} for prompt in prompts]
        choices = list(pool.map(lambda body: complete(http, **body)[0], bodies))
    found = [(choice["logprobs"]["tokens"], choice["finish_reason"]) for choice in choices]
    assert found == expected_texts(prompts, [8] * 8, greedy, server.service)
    assert counts["reused_tokens"] - before >= 7 * 50


def test_samples_of_one_prompt_read_it_once(http, server):
    counts, prompt = server.service.scheduler.counts, [*range(40, 90)]
    together = {"prompt": prompt, "max_tokens": 5, "temperature": 1, "logprobs": 0}
    before = counts["reused_tokens"]
    several = complete(http, **together, n=4, seed=3)
    assert counts["reused_tokens"] - before >= 3 * 49
    again = complete(http, **together, n=4, seed=3)
    assert [one["logprobs"]["tokens"] for one in several] == [one["logprobs"]["tokens"] for one in again]


def test_what_a_free_slot_holds_is_not_read_again_and_changes_nothing(http, server, greedy):
    counts, token_text = server.service.scheduler.counts, server.service.token_text
    turn = random_prompts(1, 1, seed=99)[0] * 40
    for _ in range(3):      # each prompt goes on from the answer before, as the turns of a chat do
        before = counts["reused_tokens"]
        tokens, reason = greedy(turn, 10)
        [choice] = complete(http, prompt=turn, max_tokens=10, temperature=0, logprobs=0)
        assert (choice["logprobs"]["tokens"], choice["finish_reason"]) == (list(map(token_text, tokens)), reason)
        reused, turn = counts["reused_tokens"] - before, [*turn, *tokens, 7, 8]
    assert reused >= 40
    other = [*turn[:20], 9, *turn[21:]]     # differs in the middle: all behind that is read anew
    tokens, reason = greedy(other, 10)
    [choice] = complete(http, prompt=other, max_tokens=10, temperature=0, logprobs=0)
    assert (choice["logprobs"]["tokens"], choice["finish_reason"]) == (list(map(token_text, tokens)), reason)


def test_generated_logprobs_are_the_models_own(http, server, served_model, reference):
    ids = served_model.tokenizer.encode("The sky is")
    [choice] = complete(http, prompt=ids, max_tokens=6, temperature=1.7, top_k=40, seed=5, logprobs=5)
    texts = [server.service.token_text(i) for i in range(290)]
    said = choice["logprobs"]
    assert len(said["tokens"]) == 6
    for token, logprob, top in zip(said["tokens"], said["token_logprobs"], said["top_logprobs"]):
        row = reference(ids)[-1]
        assert texts.count(token) == 1
        ids = [*ids, texts.index(token)]
        np.testing.assert_allclose(sorted(top.values(), reverse=True)[:5], np.sort(row)[::-1][:5], atol=1e-4)
        np.testing.assert_allclose(logprob, row[ids[-1]], atol=1e-4)
        assert top[token] == logprob


def test_a_seed_gives_the_same_answer_alone_and_in_a_full_batch(http):
    def ask(seed, prompt="The sky is"):
        return complete(http, prompt=prompt, max_tokens=20, temperature=1.0, top_p=0.95, seed=seed)[0]["text"]

    alone = ask(7)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        crowd = [pool.submit(ask, seed, "Be brief. " * (seed % 4 + 1)) for seed in range(6)]
        repeated = [pool.submit(ask, 7) for _ in range(3)]
    assert {future.result() for future in repeated} == {alone}
    assert len({future.result() for future in crowd} | {alone, ask(8), ask(2**63), ask(-1)}) == 10


def test_a_bias_and_penalties_change_what_is_said_and_not_its_logprobs(http, server, served_model, reference):
    token_text, ids = server.service.token_text, [5, 6, 7]

    def made(prompt=ids, **more):
        [choice] = complete(http, prompt=prompt, max_tokens=12, temperature=0, logprobs=0, **more)
        return choice["logprobs"]
    plain = made()
    forced = made(logit_bias={"40": 100})
    assert forced["tokens"] == [token_text(40)] * 12
    np.testing.assert_allclose(forced["token_logprobs"][0], reference(ids)[-1, 40], atol=1e-4)
    assert made(logit_bias={"40": -100})["tokens"] == [t for t in plain["tokens"] if t != token_text(40)][:12]
    # By the definition, with full forward passes: a token that was said loses 2 each time.
    said = []
    for _ in range(12):
        row = reference([*ids, *said])[-1, :served_model.tokenizer.vocab_size].copy()
        np.subtract.at(row, said, 2.0)
        said.append(int(row.argmax()))
    assert made(frequency_penalty=2.0)["tokens"] == [token_text(token) for token in said]
    assert made()["tokens"] == plain["tokens"]      # the slot forgets what was counted
    body = {"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0, "logit_bias": {"40": 100}}
    [echoed] = http.post("/v1/completions", json=body).json()["choices"]
    assert echoed["logprobs"]["tokens"][-1] == token_text(40)


def test_samples_of_one_request_differ_and_follow_the_seed(http):
    body = {"prompt": "Oslo", "max_tokens": 12, "n": 3, "seed": 1, "temperature": 1.5}
    first = complete(http, **body)
    assert [choice["index"] for choice in first] == [0, 1, 2]
    assert len({choice["text"] for choice in first}) == 3
    assert [c["text"] for c in first] == [c["text"] for c in complete(http, **body)]


@pytest.mark.parametrize("extra", [{"temperature": 0}, {"temperature": 1.2, "seed": 11}, {"temperature": 0, "n": 2}])
def test_a_stream_says_what_the_whole_answer_says(http, extra):
    for prompt in ("The sky is", "日本", [5, 6, 7]):
        body = {"prompt": prompt, "max_tokens": 30, **extra}
        whole = complete(http, **body)
        parts = [""] * len(whole)
        reasons = [None] * len(whole)
        for event in events(http, "/v1/completions", **body):
            [choice] = event["choices"]
            parts[choice["index"]] += choice["text"]
            reasons[choice["index"]] = choice["finish_reason"]
        assert (parts, reasons) == ([c["text"] for c in whole], [c["finish_reason"] for c in whole])


def test_a_chat_stream_says_what_the_whole_answer_says_and_counts_tokens(http):
    body = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Oslo?"}],
            "max_tokens": 20, "temperature": 0}
    whole = http.post("/v1/chat/completions", json=body).json()
    seen = events(http, "/v1/chat/completions", **body, stream_options={"include_usage": True})
    assert seen[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in seen if event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert seen[-1]["usage"] == whole["usage"]


def clean_answer(http, served_model):
    """A prompt whose greedy answer begins with several ASCII tokens, and their texts."""
    for prompt in range(3, 290):
        [choice] = complete(http, prompt=[prompt], max_tokens=16, temperature=0, logprobs=0)
        tokens = choice["logprobs"]["tokens"]
        if "".join(tokens) == choice["text"] and choice["text"].isascii() and len(tokens) == 16:
            return prompt, tokens
    raise AssertionError("no clean answer; take another seed for the model")


def test_stop_strings_are_found_across_tokens_and_never_shown(http, served_model):
    prompt, tokens = clean_answer(http, served_model)
    text = "".join(tokens)
    middle = len("".join(tokens[:8]))
    stop = text[middle - 1:middle + 1]                  # the end of one token and the beginning of the next
    expected = text[:text.index(stop)]
    body = {"prompt": [prompt], "max_tokens": 16, "temperature": 0, "stop": ["never in it", stop, None]}
    [choice] = complete(http, **body)
    assert (choice["text"], choice["finish_reason"]) == (expected, "stop")
    seen = events(http, "/v1/completions", **body)
    assert "".join(event["choices"][0]["text"] for event in seen) == expected
    [choice] = complete(http, **{**body, "stop": [text[3:] + "more"]})      # held back to the end, then released
    assert (choice["text"], choice["finish_reason"]) == (text, "length")


def test_an_end_token_ends_the_answer_and_is_not_shown(http, served_model, greedy):
    found = complete(http, prompt=[[i] for i in range(3, 259)], max_tokens=40, temperature=0)
    prompt, choice = next((3 + c["index"], c) for c in found if c["finish_reason"] == "stop" and c["text"])
    tokens, reason = greedy([prompt], 40)
    assert reason == "stop"
    assert choice["text"] == served_model.tokenizer.decode(tokens)
    body = http.post("/v1/completions", json={"prompt": [prompt], "max_tokens": 40, "temperature": 0}).json()
    assert body["usage"]["completion_tokens"] == len(tokens) + 1


def test_the_prompt_of_a_chat_is_the_prefix_of_its_training_row(http, served_model):
    template, tokenizer = served_model.template, served_model.tokenizer
    said = [Message("system", "Be brief."), Message("user", "Where is <|im_end|> Oslo?"),
            Message("assistant", "In Norway."), Message("user", "Is the sky blue?")]
    row = tokenize(template, tokenizer, Conversation("d", "i", (*said, Message("assistant", "Yes."))))
    weights = row.loss_weights.nonzero()[0]
    start = int(weights[np.flatnonzero(np.diff(weights) > 1)[-1] + 1])      # the last answer's first token
    prefix = row.tokens[:start].tolist()
    assert prefix == prompt_ids(template, tokenizer, said)
    messages = [{"role": m.role, "content": m.content} for m in said]
    chat = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 12, "temperature": 0}).json()
    [raw] = complete(http, prompt=prefix, max_tokens=12, temperature=0)
    assert chat["usage"]["prompt_tokens"] == len(prefix)
    spelled = http.post("/v1/completions", json={"prompt": "<|im_end|>", "max_tokens": 1}).json()
    assert spelled["usage"]["prompt_tokens"] == 1       # the caller of a raw prompt controls all of it
    assert chat["choices"][0]["message"]["content"] == raw["text"]


def test_the_jinja_template_that_the_server_names_gives_the_same_prompt(http, served_model):
    import jinja2.sandbox
    info = http.get("/tokenizer_info").json()
    assert info["chat_template"] == chat_jinja(served_model.template, served_model.tokenizer)
    messages = [{"role": "user", "content": "Where is Oslo?"}]
    text = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(info["chat_template"]).render(
        messages=messages, add_generation_prompt=True)
    ids = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert ids == prompt_ids(served_model.template, served_model.tokenizer, [Message("user", "Where is Oslo?")])
    assert http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == text
    with_specials = http.post("/tokenize", json={"prompt": text, "add_special_tokens": True}).json()["tokens"]
    assert with_specials == [served_model.tokenizer.bos_id] * info["add_bos_token"] + ids
