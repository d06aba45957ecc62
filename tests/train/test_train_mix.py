"""Another dataset mixed into each batch: which rows, their weight, their count, and a run that goes on."""
import json
import shutil

import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer
from train_helpers import build_data, history, tiny_config, weights

from easylm_imitation.data import (
    BuildConfig,
    LoaderConfig,
    SourceConfig,
    build_dataset,
    mixed_rows,
    open_loader,
    open_mixed,
)
from easylm_imitation.files import read_json
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.train import read_metrics, train
from easylm_imitation.train.config import MixConfig, ValidationConfig
from easylm_imitation.weights import RunDir

LOADER = LoaderConfig(context=64, batch=6)
MIX = LoaderConfig(context=64, batch=2, too_long="truncate")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A dataset of 20 documents, one of them longer than a row."""
    folder = tmp_path_factory.mktemp("documents")
    texts = ["cd" * (3 + i % 7) for i in range(19)] + ["e" * 90]
    lines = [json.dumps({"id": f"p{i}", "messages": [{"role": "document", "content": text}]})
             for i, text in enumerate(texts)]
    (folder / "raw.jsonl").write_text("\n".join(lines))
    byte_tokenizer().save(folder / "tokenizer")
    source = SourceConfig(str(folder / "raw.jsonl"), dataset="web")
    build_dataset(BuildConfig("web", (source,), str(folder / "tokenizer"), "plain"), folder / "data")
    return folder / "data"


def mixing(**keys):
    """The tiny run, a quarter of whose rows are documents."""
    return tiny_config(**{"mix": MixConfig(share=0.25, too_long="truncate")} | keys)


@pytest.fixture(scope="module")
def mixed(data, documents, tmp_path_factory):
    """A finished run of it. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("mixed") / "run"
    train(mixing(), data_dir=data, mix=documents, workdir=workdir)
    return workdir


@pytest.mark.parametrize(("batch", "count", "rows"), [
    (8, 2, [3, 7]), (8, 3, [2, 5, 7]), (4, 3, [1, 2, 3]), (5, 1, [4])])
def test_the_mixed_rows_are_spread(batch, count, rows):
    assert np.flatnonzero(mixed_rows(batch, count)).tolist() == rows


def test_batches_are_those_of_both_datasets_row_by_row(data, documents):
    ours = open_loader(data, LOADER, seed=3, epochs=1)
    theirs = open_loader(documents, MIX, seed=3, epochs=None)
    count = 0
    for batch in open_mixed(data, LOADER, documents, MIX, weight=0.5, seed=3, epochs=1):
        own, other = next(ours), next(theirs)
        for name, array in batch.items():
            scale = 0.5 if name == "loss_weights" else 1
            np.testing.assert_array_equal(array[[0, 1, 2, 4, 5, 6]], own[name])
            np.testing.assert_array_equal(array[[3, 7]], other[name] * scale)
            assert array.dtype == own[name].dtype
        count += 1
    assert count > 1
    assert next(ours, None) is None     # as long as the data, not as the mix


@pytest.mark.parametrize("cuts", [(0, 4, 8), (0, 3, 8), (0, 1, 2, 3, 4, 5, 6, 7, 8)])
def test_processes_share_the_rows_of_a_batch(data, documents, cuts):
    def loaders(*rows):
        return [open_mixed(data, LOADER, documents, MIX, weight=1.0, seed=3, epochs=None, rows=row) for row in rows]
    [all_rows] = loaders(slice(None))
    parts = loaders(*(slice(start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)))
    for _ in range(3):
        whole, pieces = next(all_rows), [next(part) for part in parts]
        for name, array in whole.items():
            np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), array)
    assert all(part.get_state() == all_rows.get_state() for part in parts)


def test_a_position_is_taken_up_again_and_anothers_refused(data, documents):
    def loader(**keys):
        return open_mixed(data, LOADER, documents, MIX, **{"weight": 1.0, "seed": 3, "epochs": None} | keys)
    first = loader()
    next(first)
    state = json.loads(json.dumps(first.get_state()))
    again = loader()
    again.set_state(state)
    np.testing.assert_equal(next(first), next(again))
    with pytest.raises(UserError, match="other datasets"):
        loader(seed=4).set_state(state)
    with pytest.raises(UserError, match="other datasets"):
        loader().set_state(open_loader(data, LOADER, seed=3, epochs=None).get_state())


def test_tokens_are_counted_apart(mixed, data, documents):
    batches = open_mixed(data, LOADER, documents, MIX, weight=1.0, seed=0, epochs=None)
    tokens = np.zeros(2, int)
    rows = mixed_rows(8, 2)
    for line in read_metrics(RunDir(mixed).metrics):
        seen = (next(batches)["segment_ids"] > 0).sum(axis=1)
        tokens += seen[~rows].sum(), seen[rows].sum()
        assert (line["tokens"], line["mixed_tokens"]) == tuple(tokens)
    assert RunDir(mixed).read_lineage(9).tokens == tokens[0]


@pytest.mark.slow
def test_a_run_stops_when_the_data_has_given_its_tokens(data, documents, tmp_path):
    result = train(mixing(steps=None, tokens=1000), data_dir=data, mix=documents, workdir=tmp_path / "run")
    before, last = [line["tokens"] for line in read_metrics(RunDir(tmp_path / "run").metrics)][-2:]
    assert before < 1000 <= last == result.tokens


def test_it_teaches_what_is_mixed_in_by_its_weight(data, documents, tmp_path):
    """No letter of the documents stands in the data."""
    def loss_of_documents(weight):
        config = mixing(data=LoaderConfig(context=64, batch=8, holdout=0.2), checkpoint_every=9,
                        validation=ValidationConfig(samples=0), mix=MixConfig(0.25, weight, "truncate"))
        train(config, data_dir=data, mix=documents, workdir=tmp_path / str(weight))
        [line] = read_metrics(tmp_path / str(weight) / "validation.jsonl")
        assert line["datasets"].keys() == {"d", "mix: web"}
        assert line["loss"] == line["datasets"]["d"]
        return line["datasets"]["mix: web"]
    assert loss_of_documents(3.0) < loss_of_documents(1e-3) - 0.5


def test_a_run_goes_on_bit_for_bit(mixed, data, documents, tmp_path):
    workdir = shutil.copytree(mixed, tmp_path / "run")
    for step in ("6", "9"):
        shutil.rmtree(RunDir(workdir).checkpoints / step)
    train(mixing(), data_dir=data, mix=documents, workdir=workdir)
    assert history(workdir) == history(mixed)
    for ours, theirs in zip(weights(workdir), weights(mixed), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_run_knows_what_was_mixed_in(mixed, data, documents):
    lineage = read_json(Lineage, RunDir(mixed).lineage)
    assert lineage.mixed == RunDir(mixed).read_cards()[1].hash != lineage.data_card
    assert [card.name for card in RunDir(mixed).read_cards()] == ["d", "web"]


@pytest.mark.parametrize(("keys", "mix", "match"), [
    ({"mix": None}, True, "the config mixes nothing in; say --config.mix.share"),
    ({}, False, "no --mix names a dataset"),
    ({}, "data", "is the data itself"),
    ({"mix": MixConfig(share=0.25)}, True, "conversation 'p19' has 9.* tokens, the context 64"),
])
def test_what_cannot_be_mixed_is_refused(data, documents, tmp_path, keys, mix, match):
    other = {True: documents, False: None, "data": data}[mix]
    with pytest.raises(UserError, match=match):
        train(mixing(**keys), data_dir=data, mix=other, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_template_is_refused(data, tmp_path):
    other = build_data(tmp_path / "other", byte_tokenizer(), teacher="t", template="tulu")
    with pytest.raises(UserError, match="built with the template tulu@.*, but the data 'd' with plain@"):
        train(mixing(), data_dir=data, mix=other, workdir=tmp_path / "run")


def test_a_run_goes_on_with_nothing_else_mixed_in(mixed, data, tmp_path):
    other = build_data(tmp_path / "other", byte_tokenizer(), teacher="t", longest=5)
    with pytest.raises(UserError, match="the mixed data's hash is .* here, but "):
        train(mixing(), data_dir=data, mix=other, workdir=mixed)


@pytest.mark.parametrize(("share", "match"), [(0.05, "is 0 rows"), (0.95, "is 8 rows"), (1.0, "between 0 and 1")])
def test_a_share_without_rows_is_refused(share, match):
    with pytest.raises(ValueError, match=match):
        tiny_config(mix=MixConfig(share=share))
