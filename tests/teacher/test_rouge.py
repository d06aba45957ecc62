"""ROUGE-L against the package rouge_score, and the index against comparing with everything."""
import doctest
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easylm_imitation.teacher import alpaca, labelled, nq_synthetic, rouge, self_chat, self_instruct
from easylm_imitation.teacher.rouge import SimilarTexts, rouge_l, words

SCORER = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
texts = st.lists(st.sampled_from("to be or not that is the question To, be! 3 naïve ÜBER don't".split()), max_size=90)


@given(texts, texts)
@settings(max_examples=80, deadline=None)
def test_rouge_l_is_that_of_the_package(one, other):
    one, other = " ".join(one), " ".join(other)
    theirs = SCORER.score(one, other)["rougeL"].fmeasure
    assert rouge_l(words(one), words(other)) == pytest.approx(theirs, abs=1e-12)


@given(st.lists(texts, max_size=30), st.sampled_from([0.3, 0.7, 0.9]))
@settings(max_examples=100, deadline=None)
def test_the_index_finds_what_comparing_with_all_finds(those, limit):
    known, index = [], SimilarTexts(limit)
    for text in map(" ".join, those):
        too_similar = [i for i, other in enumerate(known) if rouge_l(words(text), words(other)) > limit]
        found = index.similar(text)
        assert (found is None) == (not too_similar)
        assert found is None or found in too_similar
        index.add(text)
        known.append(text)
    assert len(index) == len(known)


def test_a_limit_is_passed_above_it_and_not_at_it():
    index = SimilarTexts(0.5)
    index.add("a b c d")
    assert index.similar("a b x y") is None
    assert index.similar("a b c y") == 0


def test_near_copies_are_found_among_many():
    draw = random.Random(0)
    vocabulary = [f"w{i}" for i in range(300)]
    index = SimilarTexts(0.7)
    those = [draw.choices(vocabulary, k=draw.randint(6, 30)) for _ in range(2000)]
    for text in those:
        index.add(" ".join(text))
    for number in draw.sample(range(2000), 200):
        changed = list(those[number])
        changed[draw.randrange(len(changed))] = "other"
        assert index.similar(" ".join(changed)) == number


@pytest.mark.parametrize("module", [alpaca, labelled, nq_synthetic, rouge, self_chat, self_instruct],
                         ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_examples_in_the_docstrings_are_true(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
