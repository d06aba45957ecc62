"""Batches: contents, packing, epochs, hosts, exact resumption."""
import dataclasses
import json
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_helpers import turns, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from easylm_imitation.data import (
    BuildConfig,
    LoaderConfig,
    SourceConfig,
    build_dataset,
    count_batches,
    data_use,
    open_loader,
    open_mixed,
)
from easylm_imitation.data.loader import _Batches, _Plan
from easylm_imitation.data.shards import Columns, Example, ShardWriter, open_shards
from easylm_imitation.schema import UserError

CONFIG = LoaderConfig(context=96, batch=4, packing_bins=4)


def with_(**changes):
    return dataclasses.replace(CONFIG, **changes)


def conversations_in(batches):
    """(tokens, loss weights) of every conversation in the batches, as tuples."""
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            segments = batch["segment_ids"][row]
            for segment in range(1, segments.max(initial=0) + 1):
                where = segments == segment
                assert batch["positions"][row][where].tolist() == list(range(where.sum()))
                found.append((tuple(batch["tokens"][row][where]), tuple(batch["loss_weights"][row][where])))
    return found


def records(folder):
    shards = open_shards(folder / "shards")
    return [(tuple(shards[i]["tokens"]), tuple(shards[i]["loss_weights"])) for i in range(len(shards))]


def equal(left, right):
    return len(left) == len(right) and all(
        np.array_equal(a[key], b[key]) for a, b in zip(left, right, strict=True) for key in a)


@pytest.mark.parametrize("packing", ["best_fit", "first_fit", "none"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_holds_every_conversation_once(built, packing, shuffle):
    folder, card = built
    batches = list(open_loader(folder, with_(packing=packing, shuffle=shuffle), seed=3, epochs=1))
    assert sorted(conversations_in(batches)) == sorted(records(folder))
    assert sum(batch["loss_weights"].sum() for batch in batches) == card.loss_tokens
    assert sum((batch["segment_ids"] > 0).sum() for batch in batches) == card.tokens
    if not shuffle and packing == "none":
        assert conversations_in(batches) == records(folder)


def test_shapes_dtypes_and_padding(built):
    for batch in open_loader(built[0], CONFIG, seed=0, epochs=1):
        assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
            "tokens": ((4, 96), "int32"), "loss_weights": ((4, 96), "float32"), "segment_ids": ((4, 96), "int32"),
            "positions": ((4, 96), "int32")}
        padding = batch["segment_ids"] == 0
        assert not batch["tokens"][padding].any()
        assert not batch["loss_weights"][padding].any()
        assert not batch["loss_weights"][batch["positions"] == 0].any()    # no prediction crosses conversations
        assert (np.diff(padding.astype(int), axis=1) >= 0).all()           # padding stands at the end


class InMemory:
    """Shards of given lengths; every token and every weight is different from all others."""

    def __init__(self, lengths):
        ends = np.cumsum(lengths)
        self.lengths = np.asarray(lengths)
        self.tokens = [np.arange(end - length, end, dtype=np.int32) + 1
                       for length, end in zip(lengths, ends, strict=True)]

    def columns(self, indices):
        tokens = np.concatenate([np.zeros(0, np.int32), *(self.tokens[i] for i in indices)])
        ends = np.cumsum([len(self.tokens[i]) for i in indices], dtype=np.int64)
        return Columns([b""] * len(indices), ends, tokens, tokens.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40), batch=st.integers(1, 5), bins=st.integers(1, 6),
       epochs=st.integers(1, 3), seed=st.integers(0, 5), packing=st.sampled_from(["best_fit", "first_fit", "none"]))
def test_no_token_is_lost_or_doubled_and_no_weight_changes(lengths, batch, bins, epochs, seed, packing):
    shards, config = InMemory(lengths), LoaderConfig(context=12, batch=batch, packing=packing, packing_bins=bins)
    batches = _Batches(shards, _Plan(shards.lengths, config, seed), config, epochs, slice(None))
    made = [batches[i] for i in range(len(batches))]
    found = conversations_in(made)
    assert sorted(found) == sorted(epochs * [(tuple(t), tuple(t.astype(np.float32))) for t in shards.tokens])
    weights = sum(b["loss_weights"].sum(dtype=np.float64) for b in made)
    assert weights == epochs * sum(t.sum() for t in shards.tokens)
    assert all(b["tokens"].shape == (batch, 12) for b in made)


def test_packing_saves_rows(built):
    packed, alone = (count_batches(built[0], with_(packing=packing), seed=0, epochs=1)
                     for packing in ("best_fit", "none"))
    assert alone == -(-57 // 4)
    assert packed < 0.7 * alone


def test_epochs_differ_in_order_and_runs_of_one_seed_do_not(built):
    one = list(open_loader(built[0], with_(packing="none"), seed=5, epochs=2))
    found = conversations_in(one)
    assert sorted(found[:57]) == sorted(found[57:]) == sorted(records(built[0]))
    assert found[:57] != found[57:]
    assert equal(one, list(open_loader(built[0], with_(packing="none"), seed=5, epochs=2)))
    assert not equal(one, list(open_loader(built[0], with_(packing="none"), seed=6, epochs=2)))


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_counting_agrees_with_loading(built, epochs):
    batches = list(open_loader(built[0], CONFIG, seed=1, epochs=epochs))
    assert len(batches) == count_batches(built[0], CONFIG, seed=1, epochs=epochs)
    assert len(conversations_in(batches)) == 57 * epochs


def test_the_last_batch_is_filled_with_empty_rows(built):
    batches = list(open_loader(built[0], with_(packing="none"), seed=0, epochs=1))
    used = (batches[-1]["segment_ids"] > 0).any(axis=1)
    assert used.tolist() == [True, False, False, False]     # 57 rows, 4 to a batch


@pytest.mark.parametrize("epochs", [3, None])
def test_resuming_anywhere_gives_the_uninterrupted_stream(built, epochs):
    total = 20
    loader = open_loader(built[0], CONFIG, seed=7, epochs=epochs)
    states, batches = [json.dumps(loader.get_state())], []
    for _ in range(total):
        batches.append(next(loader))
        states.append(json.dumps(loader.get_state()))
    for position in (0, 1, 2, 6, 7, 13, total - 1):         # inside epochs and across their ends
        fresh = open_loader(built[0], CONFIG, seed=7, epochs=epochs)
        fresh.set_state(json.loads(states[position]))
        assert equal([next(fresh) for _ in range(total - position)], batches[position:])
        assert json.dumps(fresh.get_state()) == states[-1]
    loader.set_state(json.loads(states[3]))                 # and back, in a loader that has gone on
    assert equal([next(loader)], batches[3:4])


def test_a_finished_run_resumes_as_finished(built):
    loader = open_loader(built[0], CONFIG, seed=7, epochs=1)
    list(loader)
    fresh = open_loader(built[0], CONFIG, seed=7, epochs=1)
    fresh.set_state(loader.get_state())
    assert list(fresh) == []


@pytest.mark.parametrize("change", [{"seed": 8}, {"epochs": 2}, {"config": with_(context=100)}])
def test_a_position_of_another_run_is_refused(built, change):
    arguments = {"config": CONFIG, "seed": 7, "epochs": 1}
    state = open_loader(built[0], **arguments).get_state()
    with pytest.raises(UserError, match="belongs to another dataset, loader config, seed"):
        open_loader(built[0], **(arguments | change)).set_state(state)


@pytest.mark.parametrize("state", [{}, None, {"fingerprint": "a"}, {"grain": {}}])
def test_what_is_no_position_is_told(built, state):
    with pytest.raises(UserError, match="no position of a loader"):
        open_loader(built[0], CONFIG, seed=7, epochs=1).set_state(state)
    mixed = open_mixed(built[0], CONFIG, built[0], CONFIG, weight=0.5, seed=7, epochs=1)
    with pytest.raises(UserError, match="no position of a loader"):
        mixed.set_state(state)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_take_their_rows_of_the_same_batches(built, hosts):
    share = 4 // hosts
    whole = list(open_loader(built[0], CONFIG, seed=2, epochs=1))
    parts = [list(open_loader(built[0], CONFIG, seed=2, epochs=1, rows=slice(i * share, (i + 1) * share)))
             for i in range(hosts)]
    joined = [{key: np.concatenate([part[key] for part in batch]) for key in batch[0]}
              for batch in zip(*parts, strict=True)]
    assert equal(whole, joined)


def test_a_position_holds_for_any_number_of_hosts(built):
    loader = open_loader(built[0], CONFIG, seed=2, epochs=1)
    next(loader)
    part = open_loader(built[0], CONFIG, seed=2, epochs=1, rows=slice(2, 4))
    part.set_state(json.loads(json.dumps(loader.get_state())))
    assert np.array_equal(next(part)["tokens"], next(loader)["tokens"][2:])


def test_too_long_is_an_error_that_names_a_conversation_and_the_cure(built):
    with pytest.raises(UserError) as caught:
        open_loader(built[0], with_(context=70), seed=0, epochs=1)
    assert "conversation 'c55' has 81 tokens, the context 70 (9 of 57" in str(caught.value)
    assert "raise data.context, or set data.too_long to drop, truncate or truncate-left" in str(caught.value)
    with pytest.raises(UserError, match="has 81 tokens"):
        count_batches(built[0], with_(context=70), seed=0, epochs=1)


@pytest.mark.parametrize("packing", ["best_fit", "first_fit", "none"])
def test_too_long_conversations_are_dropped_or_cut_when_asked(built, packing):
    whole = records(built[0])
    short = [record for record in whole if len(record[0]) <= 70]
    dropped = list(open_loader(built[0], with_(context=70, too_long="drop", packing=packing), seed=0, epochs=1))
    assert sorted(conversations_in(dropped)) == sorted(short)
    assert len(short) < 57
    use = data_use(built[0], with_(context=70, too_long="drop", packing=packing))
    assert (use.conversations, use.long_conversations) == (57, 57 - len(short))
    assert use.tokens - use.lost_tokens == sum((batch["segment_ids"] > 0).sum() for batch in dropped)
    cut = list(open_loader(built[0], with_(context=70, too_long="truncate", packing=packing), seed=0, epochs=1))
    use = data_use(built[0], with_(context=70, too_long="truncate", packing=packing))
    assert use.long_conversations == 57 - len(short)
    assert use.tokens - use.lost_tokens == sum((batch["segment_ids"] > 0).sum() for batch in cut)
    assert data_use(built[0], with_(packing=packing)).long_conversations == 0
    assert sorted(conversations_in(cut)) == sorted((tokens[:70], weights[:70]) for tokens, weights in whole)
    left = list(open_loader(built[0], with_(context=70, too_long="truncate-left", packing=packing), seed=0, epochs=1))
    assert sorted(conversations_in(left)) == sorted(
        (tokens[-70:], (0.0, *weights[-70:][1:])) for tokens, weights in whole)
    with pytest.raises(UserError, match="every conversation is longer than the context 10"):
        open_loader(built[0], with_(context=10, too_long="drop"), seed=0, epochs=1)


def test_what_is_cut_before_its_first_answer_makes_no_row(tmp_path, tokenizer_folder, capsys):
    records = [{"id": f"c{i}", "messages": turns("q" * (90 if i < 3 else 5), "a" * 90)} for i in range(8)]
    write_lines(tmp_path / "raw.jsonl", records)
    build_dataset(BuildConfig("d", (SourceConfig(str(tmp_path / "raw.jsonl")),), str(tokenizer_folder)),
                  tmp_path / "data")
    config = with_(context=70, too_long="truncate")
    batches = list(open_loader(tmp_path / "data", config, seed=0, epochs=1))
    assert [sum(weights) > 0 for _, weights in conversations_in(batches)] == [True] * 5
    assert "3 of them left out, as nothing to learn stands before the cut" in " ".join(capsys.readouterr().err.split())
    use = data_use(tmp_path / "data", config)
    assert (use.long_conversations, use.without_loss, use.tokens - use.lost_tokens) == (8, 3, 5 * 70)
    config = with_(context=70, too_long="truncate-left")
    open_loader(tmp_path / "data", config, seed=0, epochs=1)
    assert "more than 70 tokens and are cut off at their beginning" in " ".join(capsys.readouterr().err.split())
    use = data_use(tmp_path / "data", config)
    assert (use.long_conversations, use.without_loss, use.tokens - use.lost_tokens) == (8, 0, 8 * 70)


def test_the_shards_are_read_as_tfds_reads_them(built):
    theirs = tfds.builder_from_directory(str(built[0] / "shards")).as_data_source("train")
    shards, asked = open_shards(built[0] / "shards"), [5, 0, 56, 5, 31]
    assert len(shards) == len(theirs) == 57
    for mine, other in zip(shards.__getitems__(asked), theirs.__getitems__(asked), strict=True):
        assert mine["id"] == other["id"]
        for name in ("tokens", "loss_weights"):
            assert mine[name].dtype == other[name].dtype
            assert np.array_equal(mine[name], other[name])
    with pytest.raises(IndexError, match="57 of 57"):
        shards[57]


@settings(max_examples=20, deadline=None)
@given(records=st.lists(st.tuples(st.text(max_size=300), st.lists(st.integers(0, 2**31 - 1), max_size=300)),
                        min_size=1, max_size=5))
def test_whatever_a_record_holds_it_is_read_as_it_was_written(records):
    with tempfile.TemporaryDirectory() as folder:
        writer = ShardWriter(folder, "d", per_shard=2)
        for name, tokens in records:
            writer.write([Example(name, np.asarray(tokens, np.int32), np.arange(len(tokens), dtype=np.float32) / 3)])
        writer.close()
        shards = open_shards(folder)
        for i, (name, tokens) in enumerate(records):
            assert (shards[i]["id"].decode(), shards[i]["tokens"].tolist()) == (name, tokens)
            assert np.array_equal(shards[i]["loss_weights"], np.arange(len(tokens), dtype=np.float32) / 3)
        assert shards.columns(range(len(shards))).tokens.tolist() == [t for _, tokens in records for t in tokens]


@pytest.mark.parametrize(("change", "message"), [
    ({"context": 1}, "context 1: at least 2"), ({"batch": 0}, "batch 0"), ({"packing_bins": 0}, "packing_bins 0")])
def test_sizes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        with_(**change)


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match="not a built dataset"):
        open_loader(tmp_path, CONFIG, seed=0, epochs=1)
