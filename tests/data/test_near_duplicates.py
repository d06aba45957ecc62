"""Near-duplicates against a plain reference that compares every pair, and what they must not depend on."""
import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easylm_imitation.data import folding
from easylm_imitation.data.near import banding, first_alike, near_duplicates, signatures


def plain_shingles(text):
    """The same sets of five letters, in plain Python, for ASCII texts."""
    words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    line = "".join(word + " " for word in words)
    if not line:
        return {zlib.crc32(text.strip().encode())}
    line = line.ljust(5)
    return {line[i:i + 5] for i in range(len(line) - 4)}


def alike(a, b):
    return len(a & b) / len(a | b)


def prompts(count, seed=0):
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(900)]
    return [" ".join(draw.choices(vocabulary, k=draw.randint(4, 25))) for _ in range(count)]


def edited(text, draw):
    """A copy as people make them: another case, a typo, a word more or less, signs."""
    words = text.split()
    place = draw.randrange(len(words))
    kind = draw.randrange(5)
    if kind == 0:
        return text.upper() + "?!"
    if kind == 1:
        words[place] = words[place][:-1] + "x"
    elif kind == 2:
        words.insert(place, "really")
    elif kind == 3 and len(words) > 8:
        del words[place]
    return ", ".join(words) + "."


def planted(count=250, seed=1):
    draw = random.Random(seed)
    texts = prompts(count, seed)
    texts += [edited(draw.choice(texts), draw) for _ in range(count // 2)]
    draw.shuffle(texts)
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
def test_every_repetition_is_one_and_few_are_missed(threshold):
    texts = planted()
    found = near_duplicates(texts, threshold)
    sets = [plain_shingles(text) for text in texts]
    right = missed = 0
    for i, first in enumerate(found.tolist()):
        firsts = [j for j in range(i) if found[j] < 0 and alike(sets[i], sets[j]) >= threshold]
        if first >= 0:
            assert found[first] == -1, "a text may only repeat one that is kept"
            assert first in firsts, "what is called a repetition is alike by the threshold"
            right += 1
        else:
            missed += bool(firsts)
    assert right > 30
    assert missed <= 0.02 * (right + missed)


@pytest.mark.parametrize("texts", [
    ("What is 5 + 3?", "What is 5 * 3?", "What is 5 - 3?", "What is 5 / 3?"), ("Is x < y?", "Is x > y?", "Is x = y?"),
    ("What is C++ used for?", "What is C# used for?", "What is C used for?"), ("Is 3 > -1 so?", "Is 3 > 1 so?"),
    ("What is 5×3?", "What is 5÷3?"), ("Is x < -1?", "Is x > -1?", "Is x = -1?"), ("Is x = -1?", "Is x = 1?"),
    ("What is 5 - -3?", "What is 5 - 3?", "What is 5 + -3?")])
def test_questions_that_differ_in_their_signs_are_different(texts):
    assert (near_duplicates(texts) == -1).all()


@pytest.mark.parametrize(("one", "other"), [
    ("What is 5+3?", "what is 5 + 3"), ("Name a **bold** cat", "Name a bold cat"), ("# Title\n\n- one", "title one"),
    ("Write a well-known e-mail", "write a well known e mail"), ("Cats -- they purr", "cats they purr"),
    ("Title\n=====\n> quoted", "title quoted"), ("C++?", "c++"), ("x = +1", "x = 1"),
    ("-----\n-5 cats\n- 3 dogs", "5 cats 3 dogs"), ("pages 3 -5", "pages 3 5"), ("> -1\n* -2", "1 2")])
def test_marks_of_text_are_no_signs(one, other):
    folded = [bytes(folding.fold([text], signs=True).codes.astype(np.uint8)).decode() for text in (one, other)]
    assert folded[0] == folded[1]


def test_signs_are_words_of_their_own():
    folded = folding.fold(["5+3 <= C++,", "+1", "x", "x < -1", "-1", "−2 - −3"], signs=True)
    assert bytes(np.where(folded.codes == ord("−"), ord("~"), folded.codes).astype(np.uint8)).decode() == (
        "5 + 3 < = c + + 1 x x < - 1 - 1 ~ 2 - ~ 3 ")
    assert folded.offsets.tolist() == [0, 16, 18, 20, 28, 32, 42]


def test_batches_and_threads_change_nothing():
    texts = planted()
    whole = near_duplicates(texts, 0.7, threads=1)
    assert (near_duplicates(iter(texts), 0.7, threads=3) == whole).all()
    for size in (7, 1000):
        parts = [signatures(texts[i:i + size], 0.7) for i in range(0, len(texts), size)]
        assert (first_alike(parts, 0.7) == whole).all()


def test_small_cases_by_hand():
    assert near_duplicates([]).tolist() == []
    assert near_duplicates(["Name a cat.", "name a CAT!", "Why?", "Nàme  a\ncat"]).tolist() == [-1, 0, -1, 0]
    assert near_duplicates(["", "…", "", "...", " … ", "?"]).tolist() == [-1, -1, 0, -1, 1, -1]
    japanese = ["東京はどこですか。", "東京はどこですか", "京都はどこですか。"]
    assert near_duplicates(japanese, 0.9).tolist() == [-1, 0, -1]


def test_a_chain_does_not_drift():
    """c is like b, b like a, but c is not like a: b goes, c stays."""
    a = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    b = a.replace("one two", "uno dos")
    c = b.replace("fourteen fifteen", "catorce quince")
    sets = [plain_shingles(text) for text in (a, b, c)]
    assert alike(sets[0], sets[1]) > 0.7
    assert alike(sets[1], sets[2]) > 0.6 > alike(sets[0], sets[2])
    assert near_duplicates([a, b, c], 0.6).tolist() == [-1, 0, -1]


def test_long_dialogues_are_compared_by_a_sample():
    draw = random.Random(3)
    words = prompts(400, seed=4)
    long = " ".join(words)                              # some 25,000 different shingles
    near = long.replace(words[17], "another line")
    half = " ".join(words[:200] + prompts(200, seed=5))
    assert len(plain_shingles(long)) > 5000
    found = near_duplicates([long, near, half, " ".join(draw.sample(words, 400))], 0.8)
    assert found.tolist()[:3] == [-1, 0, -1]


def test_many_copies_of_one_text_stay_cheap_and_point_to_the_first():
    copies = [f"What is the capital of France{'?' * (i % 5)}" for i in range(3000)]
    found = near_duplicates(["Something else", *copies])
    assert found.tolist() == [-1, -1] + [1] * 2999


@given(texts=st.lists(st.text(max_size=30), max_size=12))
def test_any_text_can_be_compared_and_copies_are_always_found(texts):
    found = near_duplicates(texts + texts, 0.7, threads=1)
    assert (found[len(texts):] >= 0).all()
    assert all(first < i and found[first] == -1 for i, first in enumerate(found.tolist()) if first >= 0)


def test_folded_words_are_what_plain_python_makes_of_them():
    texts = ["Où est-il?", "…", "", "naïve CAFÉ no. 12", "\uff46ｕｌｌ ｗｉｄｔｈ", "한국 어",
             "東京cat", "e\u0301t\u200be", "\ud800x"]
    folded = folding.fold(texts)
    lines = ["".join(map(chr, folded.codes[a:b])) for a, b in zip(folded.offsets, folded.offsets[1:])]
    assert lines == ["ou est il ", "", "", "naive cafe no 12 ", "full width ", "한국 어 ", "東 京 cat ", "ete ", "x "]
    hashes, offsets = folded.words()
    assert offsets.tolist() == [0, 3, 3, 3, 7, 9, 11, 14, 15, 16]
    assert len(np.unique(hashes)) == 16
    again, _ = folding.fold(["cat naive"]).words()
    assert again.tolist() == [hashes[13], hashes[3]]


def test_windows_stay_within_their_text():
    values = np.asarray([1, 2, 3, 1, 2, 9, 1, 2, 3])
    places, hashes = folding.window_hashes(values, np.asarray([0, 3, 5, 9]), 2)
    assert places.tolist() == [0, 1, 3, 5, 6, 7]
    assert hashes[0] == hashes[2] == hashes[4]
    assert hashes[1] == hashes[5]
    assert len(set(hashes.tolist())) == 3


def test_thresholds_out_of_range_are_refused():
    for threshold in (0, -1, 1.5, 0.05):
        with pytest.raises(ValueError, match=f"threshold {threshold}"):
            banding(threshold)
