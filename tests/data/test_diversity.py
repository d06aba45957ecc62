"""BLEU to the nearest query: the formula against sacrebleu, the nearest against all pairs, and what it is used for."""
import json
import random

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from easylm_imitation.data import diversity
from easylm_imitation.data.diversity import BleuIndex, held_out_nearness, query_diversity, tokens_13a


def queries(count, seed=0):
    draw = random.Random(seed)
    words = ["the", "a", "cat", "of", "write", "poem,", "about", "(please)", "1.5", "it's", "why?", "New", "2-3"]
    made = [" ".join(draw.choices(words, k=draw.randint(1, 14))) for _ in range(count)]
    return made + [text + " now" for text in draw.sample(made, count // 5)]


def their_bleu(hypothesis, reference):
    return sacrebleu.sentence_bleu(hypothesis, [reference]).score / 100


def test_the_nearest_is_what_comparing_all_pairs_gives():
    texts = queries(40)
    scores, nearest = BleuIndex(texts).nearest(texts, leave_out=np.arange(len(texts)))
    for i, text in enumerate(texts):
        all_of = [their_bleu(text, other) if j != i else -1.0 for j, other in enumerate(texts)]
        assert scores[i] == pytest.approx(max(all_of), abs=1e-9)
        if nearest[i] >= 0:
            assert all_of[nearest[i]] == pytest.approx(max(all_of), abs=1e-9)
    measured = query_diversity(texts, sample=None)
    assert measured.mean == pytest.approx(scores.mean())
    assert (measured.queries, measured.sampled, measured.error) == (len(texts), len(texts), 0.0)


signs = st.text(alphabet="ab1 .,-'\"&<>;()!?é東\n", max_size=30)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(text=st.one_of(signs, st.text(max_size=20), st.sampled_from(["a &amp; b", "x<skipped>y", "1,000.5 2-3 a-b"])))
def test_tokens_are_sacrebleus(text):
    assert tokens_13a(text) == Tokenizer13a()(text.rstrip()).split()      # sacrebleu cuts the end itself


@settings(max_examples=100, deadline=None)
@given(one=signs, other=signs)
def test_any_two_texts_score_as_sacrebleu_says(one, other):
    scores, nearest = BleuIndex([other]).nearest([one])
    assert scores[0] == pytest.approx(their_bleu(one, other), abs=1e-9)
    assert nearest[0] in (-1, 0)


def test_a_sample_measures_the_whole():
    texts = queries(400, seed=3)
    whole, sample = query_diversity(texts, None), query_diversity(texts, sample=150, seed=1)
    assert abs(sample.mean - whole.mean) < 4 * sample.error
    assert 0 < sample.error < 0.05
    assert sample == query_diversity(texts, sample=150, seed=1)
    assert len(sample.worst) == 10
    query, other, score = sample.worst[0]
    assert their_bleu(texts[query], texts[other]) == pytest.approx(score) == pytest.approx(1.0)


def test_the_worked_example_and_what_cannot_be_measured():
    assert query_diversity(["a b c d", "a b c d", "x y"], None).mean == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="at least two"):
        query_diversity(["a"])


def test_an_index_for_some_texts_gives_them_what_the_whole_index_gives(monkeypatch):
    """Though it holds their n-grams alone, and takes the references a few at a time."""
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(["a", "b", "c", "d", "e,", "3.5"], rng.integers(0, 12))) for _ in range(90)]
    asked = texts[3:20] + ["a z a b", "", "unknown words"]
    whole = BleuIndex(texts).nearest(asked)
    monkeypatch.setattr(diversity, "_CHUNK", 7)
    for some in (BleuIndex(iter(texts), only=asked), BleuIndex(texts)):
        np.testing.assert_array_equal(some.nearest(asked), whole)
    assert BleuIndex([], only=asked).nearest(asked)[1].tolist() == [-1] * len(asked)


def test_held_out_prompts_near_a_training_query_are_told():
    training = ["Write a poem about the sea, please.", "What is the capital of France?"]
    prompts = ["What is the capital of France today?", "Explain quantum tunnelling to me.", "Zyx!"]
    scores, nearest = held_out_nearness(prompts, training)
    assert (scores > 0.2).tolist() == [True, False, False]
    assert nearest.tolist()[0] == 1


def test_real_prompts_of_one_set_differ_and_a_template_does_not(shared_data):
    lines = (shared_data / "koala_test_set" / "koala_test_set.jsonl").read_text().splitlines()
    texts = [json.loads(line)["prompt"] for line in lines]
    templated = [f"You are given a sentence in English. Translate the word number {i} to Spanish." for i in range(100)]
    assert query_diversity(texts, None).mean < 0.2 < 0.8 < query_diversity(templated, None).mean
