"""Weights are read and written in parts: no more of them is in memory at a time than is said."""
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from easylm_imitation.models import create
from easylm_imitation.sharding import make_mesh, shardings
from easylm_imitation.weights import open_hf
from easylm_imitation.weights.safetensors_writer import write_safetensors
from easylm_imitation.weights.tensor_files import TensorFiles, open_tensors


@pytest.mark.parametrize(("name", "tensor", "parts"), [
    ("llama", "model.layers.1.self_attn.q_proj.weight", 8), ("llama", "model.embed_tokens.weight", 8),
    ("gpt2", "transformer.h.1.mlp.c_fc.weight", 8), ("gpt2", "transformer.h.1.ln_1.weight", 1)])
def test_every_device_reads_its_own_part_of_a_tensor_and_no_more(exported, monkeypatch, name, tensor, parts):
    reads = []
    read = TensorFiles.read

    def recorded(self, asked, *index):
        value = read(self, asked, *index)
        reads.append((asked, value.size))
        return value

    model = open_hf(exported[name])
    monkeypatch.setattr(TensorFiles, "read", recorded)
    network = create(model.config)
    model.read(shardings=shardings(make_mesh("fsdp:4,tensor:2"), network.rules(), network.abstract()))
    sizes = [size for asked, size in reads if asked == tensor]
    assert {size * parts for size in sizes} == {np.prod(model.files.shapes[tensor])}
    assert len(sizes) == parts


def test_the_largest_parameter_is_read_first(exported, monkeypatch):
    model, reads = open_hf(exported["llama"]), []
    read = TensorFiles.read
    monkeypatch.setattr(TensorFiles, "read", lambda self, *args: (reads.append(args[0]), read(self, *args))[1])
    params = model.read()
    largest = max(leaf.size for leaf in jax.tree.leaves(params))
    assert np.prod(model.files.shapes[reads[0]]) == largest
    assert [name for name in reads if "layernorm" in name or name == "model.norm.weight"] == reads[-5:]


@pytest.mark.parametrize("largest", [10**9, 700, 1])
def test_a_tensor_is_let_go_before_the_next_is_asked_for(tmp_path, largest):
    plan = [("a", (4, 8), "F32"), ("b", (3,), "BF16"), ("c", (0, 2), "F16"), ("d", (5, 5, 5), "F32")]
    made = {}

    def tensors():
        kinds = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
        for number, (name, shape, kind) in enumerate(plan):
            assert all(reference() is None for reference in made.values())
            value = np.full(shape, number + 1, kinds[kind])
            made[name] = weakref.ref(value)
            yield value
            del value

    write_safetensors(tmp_path, plan, tensors(), largest)
    assert len(list(tmp_path.glob("*.safetensors"))) == {10**9: 1, 700: 1, 1: 4}[largest]
    files = open_tensors(tmp_path)
    for number, (name, shape, kind) in enumerate(plan):
        assert (files.shapes[name], files.dtypes[name]) == (shape, kind)
        assert np.all(files.read(name) == number + 1)
    for path in tmp_path.glob("*.safetensors"):
        safetensors.numpy.load_file(path)


def test_a_tensor_that_is_not_as_planned_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a was planned as F32"):
        write_safetensors(tmp_path, [("a", (4,), "F32")], [np.ones(4, np.float16)], 100)
