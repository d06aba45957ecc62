"""Scores equal brute force: in process, over the native route, and in the form that lm-eval asks for."""
import dataclasses

import numpy as np
import pytest
from serve_helpers import CONFIG

from easylm_imitation.schema import UserError
from easylm_imitation.serve import Engine, LocalModel, Scorer
from easylm_imitation.serve.answer import Token
from easylm_imitation.serve.pool import Pool
from easylm_imitation.serve.scoring import pair_segments


@pytest.fixture(scope="module")
def engine(served_model, server):
    """An engine of its own (its programs are the server's), free to be used in the test's thread."""
    return Engine(served_model.config, served_model.params, CONFIG, stop_ids=[0], vocab_size=290)


def random_pairs(count, seed=0):
    rng = np.random.default_rng(seed)
    pairs = [(rng.integers(0, 290, rng.integers(1, 80)).tolist(), rng.integers(0, 290, rng.integers(1, 9)).tolist())
             for _ in range(count)]
    shared = [(pairs[0][0], [token]) for token in range(12)] + [([7], [token]) for token in range(5)]
    return [*pairs, *shared, pairs[1]]


def brute_force(pair, reference):
    before, after = pair
    rows = reference([*before, *after])[len(before) - 1:-1]
    return rows[np.arange(len(after)), after], [int(row[:290].argmax()) for row in rows] == list(after)


def test_scores_equal_brute_force(engine, reference):
    pairs = random_pairs(60)
    greedy = [(context, [int(reference(context)[-1, :290].argmax())]) for context, _ in pairs[:5]]
    for pair, score in zip([*pairs, *greedy], Scorer(engine).score([*pairs, *greedy])):
        logprobs, is_greedy = brute_force(pair, reference)
        np.testing.assert_allclose(score.token_logprobs, logprobs, atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(score.logprob, logprobs.sum(), atol=1e-3)
        assert score.greedy == is_greedy
    assert all(score.greedy for score in Scorer(engine).score(greedy))


def test_one_token_continuations_share_the_reading_of_their_context(engine):
    context = list(range(40))
    pool = Pool(engine)
    found = [None] * 4
    pool.add(pair_segments([(context, [i]) for i in range(4)], CONFIG.context, 296, found))
    while pool:
        pool.step()
    assert pool.tokens == len(context)
    assert len({score.logprob for score in found}) == 4


def test_the_packing_wastes_little(engine):
    pool = Pool(engine)
    pairs = random_pairs(200, seed=1)
    pool.add(pair_segments(pairs, CONFIG.context, 296, [None] * len(pairs)))
    while pool:
        pool.step()
    assert pool.tokens / pool.cells > 0.85


@pytest.mark.parametrize(("pair", "says"), [
    (([], [1]), "context is empty"), (([1], []), "continuation is empty"), (([1], [296]), "outside the vocabulary"),
    (([-1], [2]), "outside the vocabulary"), (([1] * 96, [2, 3]), "96 context and 2 continuation tokens")])
def test_what_cannot_be_scored_is_refused_by_name(engine, pair, says):
    with pytest.raises(UserError, match=f"pair 1: .*{says}"):
        Scorer(engine).score([([1], [2]), pair])


def test_the_native_route_scores_ids_and_texts_as_lm_eval_splits_them(http, engine, served_model):
    ids = random_pairs(20, seed=2)
    found = http.post("/v1/score", json={"pairs": ids}).json()["scores"]
    for one, score in zip(found, Scorer(engine).score(ids)):
        np.testing.assert_allclose(one["logprob"], score.logprob, atol=1e-3)
        assert one["greedy"] == score.greedy
    encode = served_model.tokenizer.encode
    texts = [("The sky is ", "blue"), ("", "Oslo"), ("Where", " is Oslo?"), (" \n", "Oslo")]
    joint = [(encode("The sky is"), encode("The sky is blue")[len(encode("The sky is")):]),
             ([served_model.tokenizer.bos_id], encode("Oslo")),
             (encode("Where"), encode("Where is Oslo?")[len(encode("Where")):]),
             ([served_model.tokenizer.bos_id], encode(" \nOslo"))]
    found = http.post("/v1/score", json={"pairs": texts}).json()["scores"]
    expected = [score.logprob for score in Scorer(engine).score(joint)]
    np.testing.assert_allclose([one["logprob"] for one in found], expected, atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 50, 96])
def test_echoed_logprobs_equal_the_log_softmax_and_agree_with_each_other(http, reference, server, length):
    prompts = [np.random.default_rng(length + i).integers(0, 290, length).tolist() for i in range(3)]
    body = {"prompt": prompts, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0, "seed": 1234,
            "model": "tiny"}
    choices = http.post("/v1/completions", json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for prompt, choice in zip(prompts, choices):
        logprobs, top = choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]
        assert len(logprobs) == len(top) == len(choice["logprobs"]["tokens"]) == length + 1
        assert logprobs[0] is None
        assert top[0] is None
        rows = reference(prompt)
        for i in range(1, length + 1):
            chosen = prompt[i] if i < length else int(rows[-1, :290].argmax())
            np.testing.assert_allclose(logprobs[i], rows[i - 1, chosen], atol=1e-4, rtol=1e-5)
            assert logprobs[i] in top[i].values()       # the very same float
            np.testing.assert_allclose(max(top[i].values()), rows[i - 1, :290].max(), atol=1e-4)
            assert (logprobs[i] == max(top[i].values())) == (chosen == int(rows[i - 1, :290].argmax()))


def test_padding_of_the_vocabulary_is_no_answer_to_an_echo_and_no_alternative(server, served_model, reference):
    """Where the likeliest logit is a padding row's, an echoed prompt's next token is the one that decode chooses."""
    prompt, padding = list(range(20, 40)), 292
    best = int(reference(prompt)[-1, :290].argmax())
    params = dict(served_model.params, embed={**served_model.params["embed"]})
    rows = params["embed"]["embedding"]
    params["embed"]["embedding"] = rows.at[padding].set(3 * rows[best])
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 5}
    with LocalModel(dataclasses.replace(served_model, params=params), CONFIG) as local:
        answers = [local._ask(local._complete({**body, "echo": echo}))["choices"][0] for echo in (True, False)]
        (likeliest, greedy), (more, padded) = local.score([(prompt, [best]), (prompt, [padding])])
    echoed, decoded = (answer["logprobs"] for answer in answers)
    assert more > likeliest
    assert (greedy, padded) == (True, False)
    assert echoed["tokens"][-1] == decoded["tokens"][-1] == server.service.token_text(best)
    assert list(echoed["top_logprobs"][-1]) == list(decoded["top_logprobs"][-1])
    np.testing.assert_allclose(echoed["token_logprobs"][-1], decoded["token_logprobs"][-1], atol=1e-4)
    np.testing.assert_allclose(echoed["token_logprobs"][-1], likeliest, atol=1e-4)


def test_alternatives_with_one_text_keep_entries_of_their_own(http, served_model):
    """Half characters all decode to the same mark; a dictionary keyed by it would lose the likelier one."""
    halves = [i for i in range(3, 259) if "\ufffd" in served_model.tokenizer.decode([i])]
    prompt = [token for token in halves for _ in (0, 1)][:80]
    body = {"prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 5, "temperature": 0}
    tops = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["top_logprobs"][1:]
    assert all(len(top) in (5, 6) for top in tops)
    assert not any("\ufffd" in text for top in tops for text in top)


def test_a_token_spelled_like_anothers_text_keeps_its_entry(server):
    """The byte 0xEF is spelled like the letter that other tokens make: both may be alternatives of one position."""
    texts = [server.service.token_text(i) for i in range(290)]
    twins = [i for i, text in enumerate(texts) if texts.count(text) == 2]
    assert twins
    for one in twins:
        other = next(i for i in twins if i != one and texts[i] == texts[one])
        table = server.service.top_dict(Token(one, -3.0, ((other, -1.0),)))
        assert sorted(table.values()) == [-3.0, -1.0]


def test_an_echo_with_more_tokens_joins_scores_and_generation(http, server, greedy, reference):
    prompt = list(range(20, 40))
    body = {"prompt": prompt, "max_tokens": 5, "echo": True, "logprobs": 2, "temperature": 0}
    [choice] = http.post("/v1/completions", json=body).json()["choices"]
    made, _ = greedy(prompt, 5)
    assert choice["logprobs"]["tokens"] == [server.service.token_text(token) for token in prompt + made]
    rows = reference(prompt + made)
    expected = rows[np.arange(len(rows) - 1), (prompt + made)[1:]]
    np.testing.assert_allclose(choice["logprobs"]["token_logprobs"][1:], expected, atol=1e-4, rtol=1e-5)
    assert choice["text"].startswith(server.service.tokenizer.decode(prompt))
    body = {"prompt": "The sky", "max_tokens": 0, "echo": True}
    [silent] = http.post("/v1/completions", json=body).json()["choices"]
    assert (silent["text"], silent["finish_reason"]) == ("The sky", "length")
