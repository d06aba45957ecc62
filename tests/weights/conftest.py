import dataclasses
import shutil

import pytest
from parity_table import pytest_runtest_logreport, pytest_sessionfinish  # noqa: F401
from tiny_models import made
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.records import Lineage
from easylm_imitation.text import get_template
from easylm_imitation.weights import export_hf

LINEAGE = Lineage(id="0f0f", name="student", base="aaaa", base_name="base", teachers=("gpt-4",), code="0.1.0")


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()     # 259 ids


@pytest.fixture(scope="session")
def wide():
    """(config, params) of three kinds, with a vocabulary that holds the tokenizer's ids.

    They have what files can differ in: tied heads, biases, merged tensors. test_hf_parity.py has every kind.
    """
    models = {name: made(name, vocab_size=264) for name in ("llama", "qwen2", "gpt2")}
    return {name: (model.config, params) for name, (model, params) in models.items()}


@pytest.fixture(scope="session")
def exported(wide, tokenizer, tmp_path_factory):
    """Hugging Face dirs as we write them, one of every kind; not to be changed."""
    template = get_template("chatml")
    dirs = {}
    for name, (config, params) in wide.items():
        dirs[name] = tmp_path_factory.mktemp("hf") / name
        export_hf(dirs[name], config, params, tokenizer, template, dataclasses.replace(LINEAGE, template=template.id),
                  "bfloat16" if name == "qwen2" else "float32", lossy=("dtype",))
    return dirs


@pytest.fixture
def own_copy(exported, tmp_path):
    """A function: a copy of an exported dir that a test may damage."""
    def copy(name):
        return shutil.copytree(exported[name], tmp_path / f"copy-{name}")
    return copy
