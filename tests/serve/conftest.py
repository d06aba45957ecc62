"""One tiny model and one server for all tests of this folder: compiling it costs seconds."""
import httpx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import chromium  # noqa: F401
from serve_helpers import CONFIG, SPECIALS, TEXTS

from easylm_imitation.models import create, model_config
from easylm_imitation.records import Lineage
from easylm_imitation.serve import open_server
from easylm_imitation.text import TEMPLATES, stop_ids, train_bpe
from easylm_imitation.weights import LoadedModel


@pytest.fixture(scope="session")
def served_model() -> LoadedModel:
    """A LLaMA of two layers with large random weights, so that its likeliest token wins clearly."""
    tokenizer = train_bpe(TEXTS * 4, 290, SPECIALS)
    config = model_config({"family": "llama", "vocab_size": 296, "context": 128, "layers": 2, "d_model": 32, "heads": 4,
                           "kv_heads": 2, "d_ff": 48, "tie_embeddings": True})
    params = jax.tree.map(lambda leaf: leaf * 4, create(config).init(jax.random.key(3)))
    lineage = Lineage(id="c" * 16, name="tiny", base="c" * 16, base_name="tiny")
    return LoadedModel(config, params, tokenizer, TEMPLATES["chatml"], lineage, "tiny")


@pytest.fixture(scope="session")
def server(served_model):
    """A real server on a free port of loopback."""
    with open_server(served_model, CONFIG) as running:
        yield running


@pytest.fixture
def http(server):
    """A client of the server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def reference(served_model):
    """ids -> log-probabilities [len(ids), V] by one full forward pass: what everything else is compared with."""
    model, length = create(served_model.config), CONFIG.context

    @jax.jit
    def forward(tokens):
        row = jnp.arange(length)[None]
        hidden = model.hidden(served_model.params, tokens[None], row, jnp.ones_like(row), dtype=jnp.float32)
        return jax.nn.log_softmax(model.unembed(served_model.params, hidden)[0])

    def logprobs(ids):
        return np.asarray(forward(np.pad(np.asarray(ids, np.int32), (0, length - len(ids)))))[:len(ids)]
    return logprobs


@pytest.fixture(scope="session")
def greedy(served_model, reference):
    """(ids, n) -> (generated ids without the end token, finish reason), token by token with full forward passes."""
    ends = stop_ids(served_model.template, served_model.tokenizer)

    def generate(ids, count):
        made = []
        while len(made) < count:
            token = int(reference([*ids, *made])[-1, :served_model.tokenizer.vocab_size].argmax())
            if token in ends:
                return made, "stop"
            made.append(token)
        return made, "length"
    return generate
