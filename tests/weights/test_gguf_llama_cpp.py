"""Our GGUF files in llama.cpp itself: the same ids, the same numbers, the same likeliest tokens.

REAL_MODEL names a folder of a real model in Hugging Face's files, for which the issue's own figures are taken.
"""
import importlib
import json
import os
import pathlib

import numpy as np
import pytest
from test_gguf import KINDS, LINEAGE, SIZES
from tiny_models import CONFIGS, made
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.models import create
from easylm_imitation.text import get_template, load_tokenizer, prompt_ids
from easylm_imitation.weights import export_gguf, open_model

pytestmark = pytest.mark.slow
REASON = "llama.cpp's Python package is not installed (pip install -e '.[llama]' compiles it)"
llama_cpp = pytest.importorskip("llama_cpp", reason=REASON)
ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = ["Hello, world!\n\n  12345 <|im_end|> naïve 日本語", " a  b", "'ll x\r\n\t3.14 ½ é́", "🙂🙃 \n \n x=1;"]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gguf_llama_cpp")


def write(path, name, kind):
    """A tiny model, whose tokenizer has merges: llama.cpp reads none without."""
    sizes = SIZES | ({"head_dim": 16, "heads": 4} if hasattr(CONFIGS[name], "rope_theta") else {})
    model, params = made(name, **sizes)
    tokenizer = byte_tokenizer(merges=(b"th", b"e "))
    export_gguf(path, model.config, params, tokenizer, get_template("chatml"), LINEAGE, kind)
    return tokenizer


@pytest.mark.parametrize(("name", "kind"), [*[(name, "f16") for name in KINDS], ("qwen2", "q8_0"), ("llama", "q4_0")])
def test_llama_cpp_computes_what_we_do_from_the_same_file(name, kind, bench, tmp_path):
    """Every architecture; llama.cpp rounds states to the weights' type, so the numbers are near and not the same."""
    write(tmp_path / "m.gguf", name, kind)
    found = open_model(tmp_path / "m.gguf")
    tokens = np.random.default_rng(0).integers(0, 256, 60)
    theirs = bench.logits_of(bench.opened(tmp_path / "m.gguf", 64), tokens)
    model = create(found.config)
    hidden = model.hidden(found.params, tokens[None], np.arange(60)[None], np.ones((1, 60), np.int32), dtype=np.float32)
    ours = np.asarray(model.unembed(found.params, hidden))[0]
    error = np.sqrt(np.mean((theirs - ours)**2)) / np.std(ours)
    assert error < (0.01 if kind == "f16" else 0.06), error
    assert np.mean(np.argmax(theirs, -1) == np.argmax(ours, -1)) >= (0.95 if kind == "f16" else 0.9)
