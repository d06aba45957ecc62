"""Conversations that are validated on are never trained on, dataset by dataset."""
import numpy as np
import pytest
from data_helpers import turns, write_lines

from easylm_imitation.data import (
    BuildConfig,
    LoaderConfig,
    SourceConfig,
    build_dataset,
    count_batches,
    data_use,
    held_out_datasets,
    open_loader,
)
from easylm_imitation.files import read_object, write_json
from easylm_imitation.schema import UserError

CONFIG = LoaderConfig(context=96, batch=4, holdout=0.25)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, tokenizer_folder):
    """40 conversations of two datasets in one file, two of a third, shuffled; every answer is another."""
    folder = tmp_path_factory.mktemp("mixed")
    records = [{"dataset": "ab"[i % 4 == 0], "id": f"c{i}", "messages": turns("q", f"answer {i}")} for i in range(40)]
    write_lines(folder / "raw.jsonl", records)
    write_lines(folder / "few.jsonl", [{"id": f"f{i}", "messages": turns("q", f"few {i}")} for i in range(2)])
    sources = (SourceConfig(str(folder / "raw.jsonl")), SourceConfig(str(folder / "few.jsonl")))
    build_dataset(BuildConfig("mixed", sources, str(tokenizer_folder), seed=5), folder / "data")
    return folder / "data"


def answers(folder, **options):
    """The conversations that the loader gives, as tuples of tokens; options go to `open_loader`."""
    given = {"config": CONFIG, "seed": 0, "epochs": 1, **options}
    found = []
    for batch in open_loader(folder, **given):
        for tokens, segments in zip(batch["tokens"], batch["segment_ids"], strict=True):
            found += [tuple(tokens[segments == s]) for s in range(1, segments.max(initial=0) + 1)]
    return found


def test_each_dataset_gives_its_share_and_nothing_is_in_both(mixed):
    everything = answers(mixed, config=LoaderConfig(context=96, batch=4))
    trained = answers(mixed)
    assert held_out_datasets(mixed, CONFIG) == ["a", "b", "few"]
    validated = {name: answers(mixed, held_out=name) for name in "ab"} | {"few": answers(mixed, held_out="few")}
    assert {name: len(found) for name, found in validated.items()} == {"a": 8, "b": 2, "few": 1}     # of 30, 10 and 2
    assert sorted(trained + sum(validated.values(), [])) == sorted(everything)
    assert len(set(everything)) == len(everything) == 42
    assert data_use(mixed, CONFIG).held_out == 11
    assert count_batches(mixed, CONFIG, seed=0, epochs=1) == len(list(open_loader(mixed, CONFIG, seed=0, epochs=1)))


def test_the_same_are_held_out_whatever_the_seed(mixed):
    assert sorted(answers(mixed)) == sorted(answers(mixed, seed=9))
    assert sorted(answers(mixed, epochs=2)) == sorted(answers(mixed) * 2)


def test_a_dataset_of_one_conversation_is_trained_on(tmp_path, tokenizer_folder):
    write_lines(tmp_path / "one.jsonl", [{"id": "x", "messages": turns("q", "a")}])
    build_dataset(BuildConfig("one", (SourceConfig(str(tmp_path / "one.jsonl")),), str(tokenizer_folder)),
                  tmp_path / "data")
    assert held_out_datasets(tmp_path / "data", CONFIG) == []
    assert len(answers(tmp_path / "data")) == 1


def test_without_a_holdout_nothing_is_held_out(mixed):
    config = LoaderConfig(context=96, batch=4)
    assert held_out_datasets(mixed, config) == []
    assert data_use(mixed, config).held_out == 0


def test_the_datasets_file_says_where_each_conversation_is_from(mixed):
    with np.load(mixed / "datasets.npz") as stored:
        names, number = stored["names"].tolist(), stored["number"]
    assert (names, np.bincount(number).tolist(), number.dtype) == (["a", "b", "few"], [30, 10, 2], np.int32)


def test_a_share_that_is_none_and_a_dataset_without_the_file_are_refused(mixed, tmp_path):
    with pytest.raises(ValueError, match=r"holdout 1.0: a share of at least 0 and below 1"):
        LoaderConfig(holdout=1.0)
    (mixed / "datasets.npz").rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match="an older version built it, build it again"):
            open_loader(mixed, CONFIG, seed=0, epochs=1)
        open_loader(mixed, LoaderConfig(context=96), seed=0, epochs=1)
    finally:
        (tmp_path / "away").rename(mixed / "datasets.npz")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_copies_of_a_conversation_are_on_one_side(tmp_path, tokenizer_folder, seed):
    write_lines(tmp_path / "raw.jsonl", [{"id": f"c{i}", "messages": turns("q", f"answer {i}")} for i in range(20)])
    write_lines(tmp_path / "twin.jsonl", [{"id": f"c{i}", "messages": turns("q", f"twin {i}")} for i in range(20)])
    sources = (SourceConfig(str(tmp_path / "raw.jsonl"), weight=2.5), SourceConfig(str(tmp_path / "twin.jsonl")))
    build_dataset(BuildConfig("copied", sources, str(tokenizer_folder), seed=seed), tmp_path / "data")
    trained, validated = answers(tmp_path / "data"), answers(tmp_path / "data", held_out="raw")
    assert len(set(validated)) == 5 < len(validated)        # a quarter of the 20 conversations, with their copies
    assert not set(trained) & set(validated)
    assert len(trained) + len(validated) + len(answers(tmp_path / "data", held_out="twin")) == 70


def test_a_dataset_that_does_not_tell_its_copies_is_refused(tmp_path, tokenizer_folder):
    write_lines(tmp_path / "raw.jsonl", [{"id": f"c{i}", "messages": turns("q", f"answer {i}")} for i in range(9)])
    source = SourceConfig(str(tmp_path / "raw.jsonl"), weight=2)
    build_dataset(BuildConfig("copied", (source,), str(tokenizer_folder), seed=0), tmp_path / "data")
    with np.load(tmp_path / "data" / "datasets.npz") as stored:
        older = {name: stored[name] for name in ("names", "number")}
    np.savez(tmp_path / "data" / "datasets.npz", **older)
    with pytest.raises(UserError, match="datasets.npz: not the file that card.json tells of"):
        open_loader(tmp_path / "data", CONFIG, seed=0, epochs=1)
    card = read_object(tmp_path / "data" / "card.json")
    write_json(tmp_path / "data" / "card.json", {key: card[key] for key in card if key != "index"})
    with pytest.raises(UserError, match="which conversations are copies"):
        open_loader(tmp_path / "data", CONFIG, seed=0, epochs=1)
