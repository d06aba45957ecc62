"""The real files that may stand beside the checkout build as they are, with the counts that they have."""
import collections
import dataclasses
import itertools
import pathlib

import pytest

from easylm_imitation.config import load
from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig, build_dataset, count_batches
from easylm_imitation.data.convert import Reader
from easylm_imitation.data.files import locate
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.public import SAMPLES
from easylm_imitation.data.sources import Drop, iter_records

CONFIG = pathlib.Path(__file__).parents[2] / "configs/data/samples.py"
large = pytest.mark.slow
KEPT = {"gpteacher": 6458, "halueval": 4507, "code-alpaca": 2015, "lima": 1029, "flan-cot": 33_443, "oasst1": 547,
        "self-instruct": 175, "self-instruct-user": 252, "dummy-sharegpt": 500, "llamafactory": 999,
        "llamafactory-identity": 91, "llamafactory-kto": 300, "llamafactory-toolcall": 147, "gsm8k": 7473}
DROPPED = {"code-alpaca": {"empty turn": 2}, "llamafactory-toolcall": {"unknown role": 153}}
SMALL = ("self-instruct", "self-instruct-user", "dummy-sharegpt", "llamafactory-identity", "llamafactory-toolcall")


def loaded(name, root, tokenizer="unused"):
    return load(BuildConfig, f"{CONFIG}:{name}", [f"--config.root={root}", f"--config.tokenizer={tokenizer}",
                                                  "--config.processes=1"])


def build_sample(name, shared_data, tokenizer, out, **options):
    config = loaded(name, shared_data, tokenizer)
    sources = tuple(dataclasses.replace(source, options=options) for source in config.sources)
    return build_dataset(dataclasses.replace(config, sources=sources), out)


def test_every_sample_is_counted():
    assert set(KEPT) == set(SAMPLES)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=large) for name in KEPT if name not in SMALL)])
def test_the_real_files_build_without_hand_work(shared_data, tmp_path, tokenizer_folder, name):
    card = build_sample(name, shared_data, tokenizer_folder, tmp_path / "out")
    dropped = sum((collections.Counter(source.dropped) for source in card.sources), collections.Counter())
    assert (card.conversations, dict(dropped)) == (KEPT[name], DROPPED.get(name, {}))


@pytest.mark.parametrize("name", SAMPLES)
def test_the_first_records_of_every_real_file_are_read(shared_data, name):
    config = loaded(name, shared_data)
    for source, files in zip(config.sources, locate(config), strict=True):
        reader, shape = Reader(source, source.dataset), FORMATS[source.format].shape
        for file in files:
            records = itertools.islice(iter_records(pathlib.Path(file), shape), 20)
            assert any(is_read(reader, record) for record in records), file


def is_read(reader, record):
    try:
        return bool(list(reader.conversations(record.parse(reader.columns), record.number)))
    except Drop:
        return False


@pytest.mark.parametrize(("options", "kept"), [
    ({"only": "best"}, 100), pytest.param({"like": "open-instruct"}, 400, marks=large)])
def test_ways_through_real_trees(shared_data, tmp_path, tokenizer_folder, options, kept):
    card = build_sample("oasst1", shared_data, tokenizer_folder, tmp_path / "out", **options)
    assert card.conversations == kept


@pytest.mark.slow
def test_rules_on_real_dialogues(shared_data, tmp_path, tokenizer_folder):
    """LIMA was written and picked by people: hardly a refusal; fifteen questions are Portuguese, Spanish or German."""
    rules = ("roles", "refusals", "identity", "numbering", "digits", "language", "same-query",
             {"rule": "near-query", "threshold": 0.8}, "diversity", {"rule": "split", "tokens": 4096})
    config = BuildConfig("lima", (SourceConfig("lima/lima.json.gz", "lima"),), str(tokenizer_folder),
                         root=str(shared_data), clean=rules, processes=1)
    card = build_dataset(config, tmp_path / "out")
    [source] = card.sources
    assert source.read + source.added == source.kept + source.left + sum(source.dropped.values())
    assert source.dropped == {"identity": 3, "language": 15, "numbering": 1, "refusals": 6}
    assert 0.08 < card.diversity["bleu"] < 0.15


@pytest.mark.slow
def test_rows_of_real_conversations_are_packed_full(shared_data, tmp_path):
    """GPT-2's own tokenizer, so that the lengths are those that one trains on."""
    sources = (SourceConfig("gpteacher/*/*.json.gz", "alpaca", dataset="gpteacher"),
               SourceConfig("halueval_general/*.jsonl.gz", "halueval", dataset="halueval"))
    tokenizer = shared_data / "tokenizers" / "gpt2_hf_json" / "gpt2.json"
    card = build_dataset(BuildConfig("real", sources, str(tokenizer), root=str(shared_data)), tmp_path / "out")
    for context in (1024, 2048):
        rows = count_batches(tmp_path / "out", LoaderConfig(context, batch=1), seed=0, epochs=1)
        assert card.tokens / (rows * context) >= 0.98
