"""What texts have in common is read once, and every answer is still that of the text alone."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from easylm_imitation.models import create
from easylm_imitation.serve import Engine, Scorer, ServeConfig
from easylm_imitation.serve.forest import Segment, common_start
from easylm_imitation.serve.pool import Pool
from easylm_imitation.serve.scoring import pair_segments

CONTEXT, VOCAB = 120, 296
SMALL_ROWS = ServeConfig(slots=2, context=CONTEXT, live_lengths=(CONTEXT,), score_lengths=(12, 32), score_tokens=64,
                         prefixes=2)


@pytest.fixture(scope="module")
def model(served_model):
    """The tiny model with calm weights, so that rounding stays small."""
    return served_model.config, create(served_model.config).init(jax.random.key(5))


@pytest.fixture(scope="module")
def engine(model):
    return Engine(*model, SMALL_ROWS, stop_ids=[0], vocab_size=290)


@pytest.fixture(scope="module")
def naive(model):
    """(context, continuation) -> log-probabilities of the continuation by one full forward pass."""
    network = create(model[0])

    @jax.jit
    def forward(tokens):
        hidden = network.hidden(model[1], tokens[None], jnp.arange(CONTEXT + 1)[None] % 128, dtype=jnp.float32)
        return jax.nn.log_softmax(network.unembed(model[1], hidden)[0])

    def logprobs(before, after):
        ids = [*before, *after]
        rows = np.asarray(forward(np.pad(np.int32(ids), (0, CONTEXT + 1 - len(ids)))))
        return rows[np.arange(len(before) - 1, len(ids) - 1), after]
    return logprobs


def drain(engine, pairs, pool=None):
    """(scores, the pool that made them)."""
    pool = Pool(engine) if pool is None else pool
    found = [None] * len(pairs)
    pool.add(pair_segments(pairs, CONTEXT, VOCAB, found))
    while pool:
        pool.step()
    return found, pool


def check(pairs, found, naive):
    for (before, after), score in zip(pairs, found):
        np.testing.assert_allclose(score.token_logprobs, naive(before, after), atol=1e-5)


def some(rng, low, high):
    return rng.integers(0, 290, rng.integers(low, high)).tolist()


def few_shot(rng, subjects=3, questions=6, longest=24):
    """As MMLU asks: subjects with examples of their own, questions, four letters."""
    pairs = []
    for _ in range(subjects):
        examples = some(rng, 40, 80)
        asked = [some(rng, 5, longest + 1) for _ in range(questions)]
        pairs += [([*examples, *question], [letter]) for question in asked for letter in (11, 12, 13, 14)]
    return pairs


def endings(rng, items=8):
    """As HellaSwag asks: a context and four long endings."""
    return [(before, some(rng, 3, 12)) for before in (some(rng, 4, 14) for _ in range(items)) for _ in range(4)]


@pytest.mark.parametrize("seed", range(4))
def test_mixed_pools_equal_the_naive_path(engine, naive, seed):
    rng = np.random.default_rng(seed)
    pairs = [*few_shot(rng), *endings(rng), (some(rng, 100, 110), some(rng, 5, 10)), ([3], [4]), ([3], [5, 6])]
    pairs += pairs[:3]
    order = rng.permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    check(pairs, drain(engine, pairs)[0], naive)


def test_common_examples_are_read_once(engine, naive):
    rng = np.random.default_rng(7)
    pairs = few_shot(rng)
    found, pool = drain(engine, pairs)
    texts = {tuple(before) for before, _ in pairs}
    whole = sum(map(len, texts))
    assert pool.tokens < 0.5 * whole
    before = pool.tokens
    again, _ = drain(engine, pairs[24:48], pool)        # the second subject's examples are still there
    assert [score.greedy for score in again] == [score.greedy for score in found[24:48]]
    check(pairs[24:48], again, naive)
    assert pool.tokens - before < drain(engine, pairs[24:48])[1].tokens - 30


def test_the_packing_of_a_task_wastes_little(engine):
    rng = np.random.default_rng(8)
    for pairs in (few_shot(rng, questions=60, longest=8), endings(rng, items=100)):
        _, pool = drain(engine, pairs)
        assert pool.tokens / pool.cells > 0.85


def test_a_context_is_read_once_for_its_continuations(engine):
    rng = np.random.default_rng(9)
    before = some(rng, 14, 15)
    pairs = [(before, [5]), (before, [6]), (before, [7, 8]), (before, [7, 9, 10])]
    assert drain(engine, pairs)[1].tokens == len(before) + 2        # 7 9, of which 7 serves two


def test_many_continuations_of_one_token_outnumber_a_row(engine, naive):
    pairs = [([9], [i]) for i in range(290)]
    check(pairs, drain(engine, pairs)[0], naive)


def echo(ids, found):
    """What an echoed prompt asks: each of its tokens, and what comes next."""
    return Segment(np.int32(ids), [*enumerate(ids[1:]), (len(ids) - 1, 0)], lambda out: found.append((ids, out)))


def test_echoed_texts_share_what_they_begin_with_and_it_is_kept(engine, naive):
    rng = np.random.default_rng(10)
    examples = some(rng, 70, 71)
    texts = [[*examples, *some(rng, 4, 20)] for _ in range(6)]
    pool, found = Pool(engine), []
    for text in texts:          # one by one, as a slow client asks
        pool.add([echo(text, found)])
        while pool:
            pool.step()
    pool.add([echo(text, found) for text in texts])
    while pool:
        pool.step()
    assert len(found) == 12
    for ids, out in found:
        np.testing.assert_allclose(out.logprobs[:-1], naive(ids[:1], ids[1:]), atol=1e-5)
    assert pool.tokens < 0.6 * 2 * sum(map(len, texts))


def test_giving_up_and_adding_in_between_loses_nothing(engine, naive):
    rng = np.random.default_rng(11)
    pairs, others = few_shot(rng), endings(rng)
    first, second, third = ([None] * len(p) for p in (pairs, pairs, others))
    pool = Pool(engine)
    pool.add(pair_segments(pairs, CONTEXT, VOCAB, first))
    gone = pair_segments(pairs, CONTEXT, VOCAB, second)
    pool.add(gone)
    pool.step()
    pool.remove(gone)
    pool.step()
    pool.add(pair_segments(others, CONTEXT, VOCAB, third))
    while pool:
        pool.step()
    check(pairs, first, naive)
    check(others, third, naive)


def test_nothing_compiles_while_scoring(engine):
    rng = np.random.default_rng(12)
    engine.watch_compilations()
    drain(engine, [*few_shot(rng), *endings(rng), (some(rng, 100, 110), [3])])
    assert engine.compilations == 0


@pytest.mark.slow
@pytest.mark.torch
def test_scores_equal_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from easylm_imitation.weights import open_model
    torch.manual_seed(0)
    theirs = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, initializer_range=0.2)).eval()
    theirs.save_pretrained(tmp_path)
    loaded = open_model(tmp_path)
    rng = np.random.default_rng(13)
    pairs = [*few_shot(rng), *endings(rng)]
    ours = Scorer(Engine(loaded.config, loaded.params, SMALL_ROWS, stop_ids=[0], vocab_size=VOCAB)).score(pairs)
    with torch.no_grad():
        for (before, after), score in zip(pairs, ours):
            logits = theirs(torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
            wanted = logits[len(before) - 1:-1].gather(1, torch.tensor(after)[:, None])[:, 0]
            np.testing.assert_allclose(score.token_logprobs, wanted, atol=1e-5)
            assert score.greedy == (logits[len(before) - 1:-1].argmax(-1).tolist() == after)


@pytest.mark.parametrize(("a", "b", "common"), [([], [], 0), ([1], [], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [1, 2], 2),
                                                ([2, 2], [1, 2], 0), ([1, 2, 3], [1, 5, 3], 1)])
def test_what_two_texts_begin_with_alike_is_counted(a, b, common):
    assert common_start(np.asarray(a, np.int32), np.asarray(b, np.int32)) == common
