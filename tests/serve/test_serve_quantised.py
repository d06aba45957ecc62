"""Weights in 8 and 4 bits: what they stand for, what they cost, and that the server runs on them."""
import dataclasses

import httpx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from serve_helpers import CONFIG
from tiny_models import logits, made, packed

from easylm_imitation.models import Quantised
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.serve import open_server
from easylm_imitation.serve.place import Layout, mesh_of, prepare
from easylm_imitation.sharding import leaf_paths
from easylm_imitation.weights import lineage_in, quantised

LARGE = {"d_model": 128, "d_ff": 256, "head_dim": 32, "vocab_size": 512}


def kernel(tree):
    return tree["layers"]["mlp"]["down"]["kernel"]


def one_layer(leaf):
    return jax.tree.map(lambda part: part[0], leaf)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_numbers_are_rounded_to_their_own_groups_ranges(bits):
    _, params = made("llama", **LARGE)
    params["layers"]["mlp"]["down"]["kernel"][0, :64, 3] *= 100     # one group of one column is larger than the rest
    few = kernel(quantised(params, bits))
    assert isinstance(few, Quantised)
    plain = np.asarray(kernel(params)[0])
    found = np.asarray(one_layer(few).array())
    step = (np.abs(plain).max(0) / 127 if bits == "int8" else
            np.ptp(plain.reshape(4, 64, 128), axis=1).repeat(64, axis=0) / 15)
    assert np.all(np.abs(found - plain) <= (0.51 if bits == "int8" else 3.1) * step + 1e-6)
    assert np.mean((found - plain)**2) <= 1.05 * np.mean(step**2) / 12      # as good as rounding to the whole range
    sizes = {"int8": (256 * 128, 4 * 128), "int4": (128 * 128, 2 * 4 * 4 * 128)}
    assert tuple(sum(part.nbytes for part in parts) for parts in (
        [one_layer(few).values], [p for p in (one_layer(few).scales, one_layer(few).lows) if p is not None])
        ) == sizes[bits]


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow),
                                  pytest.param("qwen2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("bits", [pytest.param("int8", marks=pytest.mark.slow), "int4"])
def test_the_model_computes_with_what_they_stand_for(name, bits):
    model, params = made(name, d_ff=48)
    few = quantised(params, bits)

    def whole(path, leaf):
        if not isinstance(leaf, Quantised):
            return leaf
        return jax.vmap(Quantised.array)(leaf) if path.startswith("layers/") else leaf.array()
    paths = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: whole(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf), few,
        is_leaf=lambda leaf: isinstance(leaf, Quantised))
    np.testing.assert_allclose(logits(model, few, *packed()), logits(model, paths, *packed()), atol=2e-4)
    assert not np.allclose(logits(model, few, *packed()), logits(model, params, *packed()), atol=1e-4)
    kept = {path for path, leaf in leaf_paths(few).items() if path in leaf_paths(params)}
    assert all("norm" in path or "bias" in path or "positions" in path for path in kept)


def test_kernels_lie_apart_and_on_a_mesh_as_they_did():
    model, params = made("llama", d_model=128, d_ff=256, head_dim=32)
    for bits in ("int8", "int4"):
        alone = Layout(mesh_of(""))
        made_ready = prepare(params, jnp.float32, True, alone.params(model, True, bits), bits)
        assert isinstance(made_ready["layers"][1]["mlp"]["up"]["kernel"], Quantised)
        layout = Layout(mesh_of("fsdp:2,tensor:2"))
        where = layout.params(model, False, bits)
        placed = kernel(prepare(params, jnp.float32, False, where, bits))
        assert placed.values.sharding.spec == P(None, "tensor", "fsdp")
        assert placed.scales.sharding.spec == (P(None, None, "fsdp") if bits == "int8" else P(None, "tensor", "fsdp"))


def test_rounded_weights_have_a_lineage_of_their_own():
    base = Lineage(id="a", name="n", base="a", base_name="n")
    tuned = Lineage(id="b", name="m", base="a", base_name="n", teachers=("gpt-4",))
    assert lineage_in(base, "none") is base
    assert lineage_in(base, "int4").base == lineage_in(base, "int4").id != lineage_in(base, "int8").id != "a"
    found = lineage_in(tuned, "int8")
    assert (found.name, found.base, found.teachers) == ("m (int8)", "a", ("gpt-4",))
    assert found.id != "b"


def test_requests_may_name_the_model_that_was_rounded(served_model):
    small = dataclasses.replace(CONFIG, quantize="int8", context=32, live_lengths=(), decode_rows=())
    with open_server(served_model, small) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        for name, status in (("tiny (int8)", 200), ("tiny", 200), ("tiny (int4)", 404)):
            said = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1, "model": name})
            assert said.status_code == status
            assert status != 200 or said.json()["model"] == "tiny (int8)"


@pytest.mark.parametrize("rows", [25, 24, 72])
def test_int4_wants_rows_that_a_group_divides(rows):
    _, params = made("llama", d_ff=rows)
    with pytest.raises(UserError, match=f"none divides the {rows} of 'layers/mlp/down/kernel'; choose int8"):
        quantised(params, "int4")
