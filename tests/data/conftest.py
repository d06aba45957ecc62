"""A tokenizer folder and small source files for the data tests."""
import pytest
from data_helpers import turns, write_lines
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.data import BuildConfig, SourceConfig, build_dataset


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save(folder)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory, tokenizer_folder):
    """(folder, card) of 57 conversations of 22 to 78 tokens, every token weight told apart by position."""
    folder = tmp_path_factory.mktemp("built")
    records = [{"dataset": "d", "id": f"c{i}", "messages": turns("q" * (i % 7), "a" * (1 + i)) if i % 7 else
                turns("q", "a" * (1 + i))} for i in range(57)]
    write_lines(folder / "raw.jsonl", records)
    config = BuildConfig("d", (SourceConfig(str(folder / "raw.jsonl")),), str(tokenizer_folder))
    return folder / "data", build_dataset(config, folder / "data")
