"""Rows of trees: each cell sees its own text alone, with or without a beginning that stands in a cache."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import CONFIGS, logits, made

from easylm_imitation.models import unstack

TEXTS = [[5, 6, 7, 8], [5, 6, 7, 9, 10, 11, 12, 13], [5, 6, 14], [20, 21, 22]]
#        row:     5  6  7  8  9 10 11 12 13 14 20 21 22 padding
TOKENS = np.array([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 21, 22, 0])
PLACES = np.array([0, 1, 2, 3, 3, 4, 5, 6, 7, 2, 0, 1, 2, 0])
ENDS = np.array([10, 10, 9, 4, 9, 9, 9, 9, 9, 10, 13, 13, 13, 14])
PATHS = [[0, 1, 2, 3], [0, 1, 2, 4, 5, 6, 7, 8], [0, 1, 9], [10, 11, 12]]
BEGINNING = np.random.default_rng(0).integers(0, 64, 9)


@functools.cache
def runner(model):
    def run(params, tokens, positions, ends, cache, row, start):
        hidden = model.branch(params, tokens, positions, ends, cache, row, start, dtype=jnp.float32)
        return model.unembed(params, hidden)
    return jax.jit(run)


def kept(model, params, row, rows=3, length=16):
    """A cache whose row `row` holds BEGINNING."""
    stacked = not isinstance(params["layers"], tuple)
    cache = model.init_cache(rows, length, stacked=stacked)
    tokens, places = BEGINNING[None].astype(np.int32), np.arange(len(BEGINNING), dtype=np.int32)[None]
    return model.extend(params, tokens, places, cache, dtype=jnp.float32, rows=np.array([row]))[1]


CASES = [("llama", 0, True), ("llama", 9, False), ("mistral", 6, True), ("gpt2", 6, False), ("opt", 6, True)]
OTHERS = [(name, 6, True) for name in CONFIGS if name not in {case[0] for case in CASES}]


@pytest.mark.parametrize(("name", "start", "stacked"), [*CASES, *(pytest.param(*c, marks=pytest.mark.slow)
                                                                  for c in OTHERS)])
def test_each_text_of_a_tree_is_read_as_if_alone(name, start, stacked):
    model, params = made(name)
    held = params if stacked else unstack(params)
    cache = kept(model, held, row=1)
    row = (TOKENS[None], PLACES[None] + start, ENDS[None])
    twice = [np.repeat(x, 2, 0).astype(np.int32) for x in row]      # two rows grow from one beginning
    got = np.asarray(runner(model)(held, *twice, cache, np.int32(1), np.int32(start)))
    alone = np.zeros((len(TEXTS), 20), np.int32)
    for i, text in enumerate(TEXTS):
        alone[i, :start + len(text)] = [*BEGINNING[:start], *text]
    wanted = logits(model, params, alone, np.tile(np.arange(20, dtype=np.int32), (len(TEXTS), 1)))
    for i, path in enumerate(PATHS):
        for row in got:
            np.testing.assert_allclose(row[path], wanted[i, start:start + len(path)], atol=3e-5)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_rows_longer_than_a_chunk_of_queries_see_the_same(name):
    model, params = made(name)
    rng = np.random.default_rng(1)
    shared, tails = rng.integers(0, 64, 290), [rng.integers(0, 64, 30), rng.integers(0, 64, 30)]
    tokens = np.concatenate([shared, *tails])[None].astype(np.int32)
    places = np.concatenate([np.arange(290), *[290 + np.arange(30)] * 2])[None].astype(np.int32)
    ends = np.concatenate([np.full(290, 350), np.full(30, 320), np.full(30, 350)])[None].astype(np.int32)
    nothing = model.init_cache(1, 1)
    got = runner(model)(params, tokens, places, ends, nothing, np.int32(0), np.int32(0))
    alone = np.stack([np.concatenate([shared, tail]) for tail in tails]).astype(np.int32)
    wanted = logits(model, params, alone, np.tile(np.arange(320, dtype=np.int32), (2, 1)))
    np.testing.assert_allclose(np.asarray(got)[0, :320], wanted[0], atol=1e-4)
    np.testing.assert_allclose(np.asarray(got)[0, 320:], wanted[1, 290:], atol=1e-4)


def test_a_write_to_some_rows_leaves_the_others_alone():
    model, params = made("llama")
    cache = kept(model, params, row=2)
    assert np.asarray(cache["k"])[:, 2, :, :9].any()
    assert not np.asarray(cache["k"])[:, :2].any()
    tokens = np.ones((2, 3), np.int32)
    _, cache = model.extend(params, tokens, np.tile(np.arange(3), (2, 1)), cache, dtype=jnp.float32,
                            rows=np.array([0, 3]))      # row 3 does not exist
    assert np.asarray(cache["k"])[:, 0, :, :3].any()
    assert not np.asarray(cache["k"])[:, 1].any()


def test_a_beginning_of_several_blocks_is_seen_whole_and_nothing_behind_it():
    """300 tokens of it in a cache whose last block overlaps the one before, and which holds more."""
    model, params = made("llama")
    rng = np.random.default_rng(2)
    text, tail = rng.integers(0, 64, 330).astype(np.int32), rng.integers(0, 64, 5).astype(np.int32)
    cache = model.init_cache(2, 330)
    _, cache = model.extend(params, text[None], np.arange(330)[None], cache, dtype=jnp.float32, rows=np.array([1]))
    row = (tail[None], 300 + np.arange(5, dtype=np.int32)[None], np.full((1, 5), 5, np.int32))
    got = runner(model)(params, *row, cache, np.int32(1), np.int32(300))
    whole = np.concatenate([text[:300], tail])[None]
    wanted = logits(model, params, whole, np.arange(305, dtype=np.int32)[None])
    np.testing.assert_allclose(np.asarray(got)[0], wanted[0, 300:], atol=1e-4)
