"""Sizes, caps, weights and budgets: what they take, that one seed takes the same, and that budgets nest."""
import collections
import dataclasses

import numpy as np
import pytest
from data_helpers import turns, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from easylm_imitation.data import BuildConfig, SourceConfig, build_dataset
from easylm_imitation.data.config import tokens_of
from easylm_imitation.data.mixture import Row, _Held, mixed
from easylm_imitation.data.shards import Example, open_shards
from easylm_imitation.schema import UserError, build


def rows_of(*lengths):
    """Rows of sources a, b, ... with such lengths in tokens."""
    return [Row(Example(f"{name}{i}", np.zeros(n, np.int32), np.zeros(n, np.float32)), source, name, "", name, i)
            for source, (name, own) in enumerate(zip("abc", lengths)) for i, n in enumerate(own)]


def config_of(*sources, **more):
    return BuildConfig("set", tuple(SourceConfig("f", **source) for source in sources), "t", **more)


def ids(rows):
    return [row.example.id for row in rows]


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(one=lengths, two=lengths, seed=st.integers(0, 9), weight=st.sampled_from([0.5, 1.0, 2.5]), data=st.data())
def test_budgets_nest_and_fit(one, two, seed, weight, data):
    rows = rows_of(one, two)
    config = config_of({"weight": weight}, {"sample": 5}, seed=seed)
    whole = mixed(rows, config)
    total = sum(row.tokens for row in whole)
    small, large = sorted(data.draw(st.tuples(st.integers(1, max(total, 1)), st.integers(1, max(total, 1)))))
    if not total:
        return
    less, more = (list(mixed(rows, dataclasses.replace(config, budget=budget))) for budget in (small, large))
    assert ids(less) == ids(more)[:len(less)]
    assert ids(more) == ids(whole)[:len(more)]
    for taken, budget in ((less, small), (more, large)):
        assert sum(row.tokens for row in taken) <= budget
        if len(taken) < len(whole):
            assert sum(row.tokens for row in whole[:len(taken) + 1]) > budget


def test_a_budget_above_what_the_sources_hold_is_an_error():
    with pytest.raises(UserError, match="budget 20M: the sources hold 6 tokens"):
        mixed(rows_of([1, 2, 3]), config_of({}, seed=0, budget="20M"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sample_is_drawn_before_anything_is_tokenized(tmp_path, tokenizer_folder, processes):
    """300 of 2,000 records in two files, every third of no use: what is read is the sample and some to spare."""
    for name in "ab":
        write_lines(tmp_path / f"{name}.jsonl", [{"messages": turns(f"{name} {i}?", "" if i % 3 == 0 else f"yes {i}")}
                                                 for i in range(1000)])
    source = SourceConfig("?.jsonl", dataset="s", sample=300)
    config = BuildConfig("set", (source,), str(tokenizer_folder), root=str(tmp_path), seed=1, processes=processes)
    card = build_dataset(config, tmp_path / "out")
    [count] = card.sources
    assert count.kept == 300
    assert count.read + count.undrawn == 2000
    assert count.read == 475 == count.kept + count.left + count.dropped["empty turn"]
    assert card.hash == build_dataset(dataclasses.replace(config, processes=None), tmp_path / "again").hash
    with np.load(tmp_path / "out" / "datasets.npz") as stored:
        assert stored["files"].tolist() == ["a.jsonl", "b.jsonl"]
        assert not (stored["record"] % 3 == 0).any()
        assert (stored["line"] == stored["record"] + 1).all()
        assert len({*zip(stored["file_of"].tolist(), stored["record"].tolist())}) == 300
    shards = open_shards(tmp_path / "out" / "shards")
    with np.load(tmp_path / "out" / "datasets.npz") as stored:      # names count through the files
        assert [int(shards[i]["id"].decode().split("_")[1]) for i in range(20)] == (
            stored["record"] + 1000 * stored["file_of"])[:20].tolist()


def test_more_is_drawn_where_most_is_dropped(tmp_path, tokenizer_folder):
    write_lines(tmp_path / "a.jsonl", [{"messages": turns(f"{i}?", "yes" if i % 10 == 0 else "")} for i in range(2000)])
    config = BuildConfig("set", (SourceConfig(str(tmp_path / "a.jsonl"), sample=100),), str(tokenizer_folder), seed=1)
    card = build_dataset(config, tmp_path / "out")
    assert (card.conversations, card.sources[0].kept) == (100, 100)
    assert card.sources[0].read == 225 + 450 + 900


def test_a_sample_is_whole_though_repetitions_are_left_out(tmp_path, tokenizer_folder):
    """How many near-copies there are is known when all are read."""
    write_lines(tmp_path / "a.jsonl", [{"messages": turns(f"What is {i % 500} and {i % 500}?", f"yes {i}")}
                                       for i in range(1500)])
    config = BuildConfig("set", (SourceConfig(str(tmp_path / "a.jsonl"), sample=450),), str(tokenizer_folder), seed=1,
                         clean=({"rule": "near-query", "threshold": 0.99},))
    card = build_dataset(config, tmp_path / "out")
    assert (card.conversations, card.sources[0].read, card.sources[0].undrawn) == (450, 1500, 0)


def test_a_cap_that_leaves_nothing_is_an_error():
    with pytest.raises(UserError, match="drawn has 10 tokens, so its cap of 9 leaves nothing"):
        mixed(rows_of([10] * 3), config_of({"cap": 9}, seed=0))


def test_samples_caps_and_weights():
    rows = rows_of([10] * 20, [7] * 10, [1] * 4)
    taken = list(mixed(rows, config_of({"sample": 5}, {"cap": 30}, {"weight": 2.5}, seed=3)))
    counts = collections.Counter(row.dataset for row in taken)
    assert counts == {"a": 5, "b": 4, "c": 10}
    assert len(set(ids(taken))) == len(taken)       # copies have names of their own
    copies = collections.Counter(row.line for row in taken if row.dataset == "c")
    assert sorted(copies.values()) == [2, 2, 3, 3]
    assert sorted(row.copy for row in taken if row.dataset == "c") == [0] * 4 + [1] * 4 + [2] * 2
    half = list(mixed(rows, config_of({"weight": 0.5}, {}, {}, seed=3)))
    assert sum(row.dataset == "a" for row in half) == 10
    assert ids(taken) == ids(mixed(rows, config_of({"sample": 5}, {"cap": 30}, {"weight": 2.5}, seed=3)))
    assert ids(taken) != ids(mixed(rows, config_of({"sample": 5}, {"cap": 30}, {"weight": 2.5}, seed=4)))


def test_a_sample_is_what_its_seed_draws_and_holds_little_in_memory():
    rows, source = rows_of([1] * 5000), SourceConfig("f", sample=3)
    held = _Held(source, (7, 2))
    for row in rows:
        held.add(row)
        assert len(held._rows) <= 2 * 3 + 1000
    drawn = np.sort(np.argsort(np.random.default_rng((7, 2)).random(5000))[:3])
    assert ids(held.taken()) == [f"a{i}" for i in drawn]
    one, two = ({row.example.id for row in mixed(rows, config_of({"sample": 9}, seed=seed))} for seed in (1, 2))
    assert one != two


def test_another_source_changes_no_sources_sample():
    alone = {row.example.id for row in mixed(rows_of([5] * 50), config_of({"sample": 9}, seed=1))}
    more = mixed(rows_of([5] * 50, [5] * 10), config_of({"sample": 9}, {}, seed=1))
    assert {row.example.id for row in more if row.dataset == "a"} == alone


def test_an_order_by_sources_is_a_curriculum():
    rows = rows_of([5] * 20, [5] * 20)
    taken = list(mixed(rows, config_of({}, {}, seed=1, order="sources")))
    assert [row.dataset for row in taken] == ["a"] * 20 + ["b"] * 20
    assert ids(taken) != ids(rows)
    assert sorted(ids(taken)) == sorted(ids(rows))


@pytest.mark.parametrize(("budget", "tokens"), [
    ("0.3M", 300_000), ("20M", 20_000_000), ("150M", 150_000_000), ("7", 7), (9, 9), ("1B", 10**9), ("2K", 2000)])
def test_budgets_by_name(budget, tokens):
    assert tokens_of(budget) == tokens


@pytest.mark.parametrize(("change", "message"), [
    ({"budget": "20M"}, "set seed"), ({"seed": 1, "budget": "20 M"}, "budget '20 M': a number of tokens such as"),
    ({"seed": 1, "budget": 0}, "at least 1 token"), ({"seed": -1}, "seed -1"),
    ({"sources": [{"path": "a", "sample": 3}]}, "set seed"), ({"sources": [{"path": "a", "weight": 0}]}, "weight 0"),
    ({"sources": [{"path": "a", "cap": 0}], "seed": 1}, "cap 0: at least 1")])
def test_mistakes_are_told_at_once(change, message):
    with pytest.raises(UserError, match=message):
        build(BuildConfig, {"name": "x", "tokenizer": "t", "sources": [{"path": "a"}], **change}, "config")


def test_the_card_counts_what_the_mixture_left_and_copied(tmp_path, tokenizer_folder):
    for name in "ab":
        write_lines(tmp_path / f"{name}.jsonl", [
            {"id": f"{name}{i}", "messages": turns("q", "a"), "teacher": f"teacher of {name}"} for i in range(10)])
    config = BuildConfig("set", (SourceConfig("a.jsonl", sample=4), SourceConfig("b.jsonl", weight=1.5)),
                         str(tokenizer_folder), root=str(tmp_path), seed=5)
    card = build_dataset(config, tmp_path / "out")
    assert [(s.read, s.kept, s.left, s.copies) for s in card.sources] == [(10, 4, 6, 0), (10, 10, 0, 5)]
    assert card.conversations == 19
    row = card.longest      # all are of one length
    assert [s.tokens for s in card.sources] == [4 * row, 15 * row]
    budgeted = build_dataset(dataclasses.replace(config, budget=7 * row + 1), tmp_path / "small")
    assert (budgeted.conversations, budgeted.tokens, budgeted.budget) == (7, 7 * row, 7 * row + 1)
    assert sum(s.kept + s.left for s in budgeted.sources) == 20
    assert budgeted.hash != card.hash
