"""Overlap rules against plain references that compare every text with every item, and what the reports say."""
import collections
import json
import math
import random

import pytest

from easylm_imitation.data.overlap import RULES, EvaluationSet, Match, Overlap, Rule, matched_rows, read_evaluation_set
from easylm_imitation.schema import UserError

WORDS = [f"w{i}" for i in range(400)]


def words_of(text):
    return "".join(c.lower() if c.isalnum() else " " for c in text).split()


def made(seed=0, texts=80, items=40):
    """(texts, items): random words, and some items planted in texts: whole, in part, reordered, with words changed."""
    draw = random.Random(seed)
    weights = [1 / (i + 5) for i in range(len(WORDS))]
    wanted = [" ".join(draw.choices(WORDS, weights, k=draw.choice([3, 6, 9, 12, 20, 60, 130]))) for _ in range(items)]
    found = []
    for _ in range(texts):
        body = draw.choices(WORDS, weights, k=draw.randint(0, 150))
        copy = draw.choice(wanted).split()
        kind = draw.randrange(5)
        if kind == 1:
            copy = copy[:len(copy) * 2 // 3]
        elif kind == 2:
            draw.shuffle(copy)
        elif kind == 3:
            copy = [word if draw.random() > 0.1 else "other" for word in copy]
        place = draw.randint(0, len(body))
        found.append(", ".join([*body[:place], *(copy if kind < 4 else []), *body[place:]]).upper())
    return found, wanted


def plain_windows(texts, items, size, least, share):
    """{(text, item): share of the item's words in windows that the text has}."""
    shared_by = {}
    for item in items:
        words = words_of(item)
        for window in {tuple(words[i:i + size]) for i in range(len(words) - size + 1)}:
            shared_by[window] = shared_by.get(window, 0) + 1
    scores = {}
    for t, text in enumerate(texts):
        there = words_of(text)
        for i, item in enumerate(items):
            words = words_of(item)
            length = min(size, len(words))
            windows = {tuple(there[p:p + length]) for p in range(len(there) - length + 1)}
            covered = set()
            for place in range(len(words) - length + 1):
                window = tuple(words[place:place + length])
                if window in windows and (length < size or shared_by[window] <= 10):
                    covered |= set(range(place, place + length))
            if len(words) >= least and covered and len(covered) / len(words) >= share:
                scores[t, str(i)] = round(len(covered) / len(words), 4)
    return scores


def plain_rare_words(texts, items, share, evidence):
    """The same by the weight of words, for pieces of 40 words and passages of 80."""
    uses = collections.Counter(word for item in items for word in words_of(item))
    weight = {w: -math.log(1 - math.exp(-80 * (n - 0.95) / uses.total())) for w, n in uses.items()}
    scores = {}
    for t, text in enumerate(texts):
        there = words_of(text)
        passages = [set(there[p:p + 80]) for p in range(0, max(1, len(there) - 40), 40)]
        for i, item in enumerate(items):
            words = words_of(item)
            size = math.ceil(len(words) / math.ceil(len(words) / 40))
            total = found = 0
            for start in range(0, len(words), size):
                piece = set(words[start:start + size])
                whole = sum(weight[w] for w in piece)
                best = max(sum(weight[w] for w in piece & passage) for passage in passages)
                total += whole
                found += best if best >= max(share * whole, evidence) - 1e-9 else 0
            if found >= 0.5 * total:
                scores[t, str(i)] = round(found / total, 4)
    return scores


def matched(texts, items, rule, threads=1):
    overlap = Overlap([EvaluationSet("e", {str(i): item for i, item in enumerate(items)})], {"r": rule})
    return {(m.row, m.item): m.score for m in overlap.match(texts, threads)}


@pytest.mark.parametrize(("size", "share"), [(13, 0.0), (8, 0.5), (4, 0.3)])
def test_windows_find_what_comparing_all_pairs_finds(size, share):
    texts, items = made()
    expected = plain_windows(texts, items, size, 5 if size > 5 else 3, share)
    rule = Rule("words", share, size, least=5 if size > 5 else 3)
    assert len(expected) > 10
    assert matched(texts, items, rule) == expected


@pytest.mark.parametrize("share", [0.6, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_rare_words_find_what_comparing_all_pairs_finds(share, seed):
    texts, items = made(seed)
    expected = plain_rare_words(texts, items, share, 8.0)
    assert len(expected) > 10
    assert matched(texts, items, Rule("rare words", share, evidence=8.0)) == pytest.approx(expected, abs=2e-4)


def test_threads_and_batches_change_nothing():
    texts, items = made(2, texts=800)
    for rule in RULES.values():
        assert matched(texts, items, rule, threads=1) == matched(iter(texts), items, rule, threads=3)


QUESTION = "A farmer has 17 sheep and buys 25 more at the market in Leeds; how many sheep does he own afterwards?"


@pytest.mark.parametrize(("text", "found"), [
    (QUESTION, {"13-gram", "8-gram", "substring", "near"}),
    (f"Solve this. {QUESTION.upper().replace(' ', chr(10))} Think first!", {"13-gram", "8-gram", "substring", "near"}),
    ("Afterwards, how many sheep does a farmer own who has 17 sheep, and at the market in Leeds buys 25 more?",
     {"near"}),
    ("A farmer in Leeds has 30 goats; how many does he own?", set()),
    ("A farmer has 17 sheep and buys 25 more at the market in Leeds; what do they cost?", {"13-gram", "8-gram"}),
])
def test_what_each_rule_takes_for_a_copy(text, found):
    others = {str(i): f"Question {i}: what is the capital of country number {i}, and how many people live there?"
              for i in range(30)}
    overlap = Overlap([EvaluationSet("e", {"q": QUESTION, **others})], list(RULES))
    # three drawn runs of 50 letters may or may not lie in a part of the item
    said = {match.rule for match in overlap.match([text]) if match.item == "q"}
    assert said - {"substring"} == found - {"substring"}
    assert ("substring" in said) >= ("substring" in found)


def test_short_items_count_as_wholes_and_the_shortest_are_said_not_to_be_looked_for():
    evaluation = EvaluationSet("e", {"short": "Who won it?", "nine": "who sang who wants to be a millionaire then"})
    overlap = Overlap([evaluation], ["13-gram"])
    texts = ["Q: Who sang 'Who wants to be a millionaire' then? A: him", "who sang who wants to be a millionaire now",
             "who won it?"]
    assert overlap.match(texts) == [Match(0, "e", "nine", "13-gram", 1.0)]
    rules = overlap.report([], [])["e"]["rules"]
    assert rules["13-gram"] == {"items_found": 0, "rows_found": 0, "items_not_looked_for": 1}


def test_what_a_set_repeats_in_all_its_items_is_no_evidence():
    opening = "answer the following question with one letter and nothing else please take care it is hard"
    items = {str(i): f"{opening} {WORDS[i]} {WORDS[i + 1]} {WORDS[i + 2]}" for i in range(20)}
    overlap = Overlap([EvaluationSet("e", items)], ["13-gram"])
    assert overlap.match([f"{opening} something else altogether"]) == []
    assert {m.item for m in overlap.match([items["7"]])} >= {"7"}


def test_the_report_names_rows_items_and_rules():
    sets = [EvaluationSet("one", {"a": QUESTION, "b": "nothing of this is anywhere in those texts at all my friend"}),
            EvaluationSet("two", {"x": QUESTION})]
    overlap = Overlap(sets, ["13-gram", "near"])
    matches = overlap.match(["Hello.", QUESTION, f"Again: {QUESTION}"])
    assert matched_rows(matches) == {1, 2}
    report = json.loads(json.dumps(overlap.report(matches, ["r0", "r1", "r2"])))
    one = report["one"]
    assert (one["items"], one["items_found"], one["rows_found"]) == (2, 1, 2)
    assert one["rules"]["near"] == {"items_found": 1, "rows_found": 2, "items_not_looked_for": 0}
    assert one["matches"][0] == {"row": "r1", "item": "a", "rules": {"13-gram": 1.0, "near": 1.0}}
    assert [m["item"] for m in report["two"]["matches"]] == ["x", "x"]


def test_evaluation_sets_are_read_from_what_people_have(tmp_path):
    lines = [{"id": "a", "text": "one"}, {"prompt": "two", "id": 7}, {"messages": [
        {"role": "system", "content": "no"}, {"role": "user", "content": "three"}]},
        {"instruction": "four", "input": "4"}, {"question": "five", "choices": ["A", "B"]}]
    path = tmp_path / "nq.dev.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation = read_evaluation_set(path)
    assert evaluation.name == "nq"
    assert dict(evaluation.items) == {"a": "one", "7": "two", "2": "three", "3": "four\n4", "4": "five"}
    chosen = EvaluationSet.from_rows("m", lines[-1:], fields=("question", "choices"))
    assert dict(chosen.items) == {"0": "five\nA\nB"}


@pytest.mark.parametrize(("rows", "fields", "fault"), [
    ([], (), "no items"), ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], (), "'a' comes twice"),
    ([{"answer": "x"}], (), r"item '0': no text in 'text'; keys are answer"),
    ([{"text": "x"}], ("text", "hint"), "no text in 'hint'"), ([{"text": {}}], (), "no text in 'text'")])
def test_sets_without_text_are_refused(rows, fields, fault):
    with pytest.raises(UserError, match=fault):
        EvaluationSet.from_rows("e", rows, fields)


def test_rules_are_named(tmp_path):
    with pytest.raises(UserError, match="did you mean '13-gram'"):
        Overlap([EvaluationSet("e", {"a": "b"})], ["13gram"])
    with pytest.raises(UserError, match="no rules; name some of 13-gram"):
        Overlap([EvaluationSet("e", {"a": "b"})], [])
    with pytest.raises(UserError, match="one name"):
        Overlap([EvaluationSet("e", {"a": "b"})] * 2, ["near"])
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(UserError, match="bad.jsonl:2"):
        read_evaluation_set(tmp_path / "bad.jsonl")


def test_real_evaluation_sets_find_their_own_copies(shared_data):
    """GSM8K's test questions against its training questions: different, but for a few."""
    test = read_evaluation_set(shared_data / "gsm8k" / "test_150.jsonl", "gsm8k")
    train = read_evaluation_set(shared_data / "gsm8k" / "train.jsonl.gz")
    texts = [*list(train.items.values())[:3000], *test.items.values()]
    overlap = Overlap([test], list(RULES))
    matches = overlap.match(texts)
    for rule in RULES:
        found = {(m.row, m.item) for m in matches if m.rule == rule and m.row >= 3000}
        assert found >= {(3000 + i, item) for i, item in enumerate(test.items)}, rule
        assert len({m.row for m in matches if m.rule == rule and m.row < 3000}) < 30, rule
