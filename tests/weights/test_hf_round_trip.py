import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from easylm_imitation.models import create
from easylm_imitation.sharding import make_mesh, shardings
from easylm_imitation.weights import describe, export_hf, import_hf, open_model
from easylm_imitation.weights.tensor_files import INDEX

every_kind = pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])


def tensors(folder):
    """{name: (dtype, shape, bytes)} of all weight files of a dir."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update({k: (v.dtype, v.shape, v.tobytes()) for k, v in safetensors.numpy.load_file(file).items()})
    return found


@every_kind
def test_there_and_back_is_equal_byte_for_byte(exported, wide, name, tmp_path):
    loaded = open_model(exported[name])
    assert loaded.config == wide[name][0]
    if name != "qwen2":         # which was rounded to bfloat16 on the way out
        jax.tree.map(np.testing.assert_array_equal, loaded.params, wide[name][1])
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype(jnp.float32)}
    export_hf(tmp_path / "again", loaded.config, loaded.params, loaded.tokenizer, loaded.template, loaded.lineage,
              loaded.stored_dtype)
    assert tensors(tmp_path / "again") == tensors(exported[name])
    others = {file.name: file.read_bytes() for file in exported[name].glob("*.json")}
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").glob("*.json")} == others
    assert {"config.json", "generation_config.json", "easylm_imitation.json", "tokenizer.json"} <= others.keys()


@every_kind
def test_lineage_tokenizer_and_template_come_along(exported, tokenizer, name):
    loaded = open_model(exported[name])
    assert (loaded.lineage.id, loaded.lineage.teachers, loaded.template.name) == ("0f0f", ("gpt-4",), "chatml")
    assert loaded.tokenizer.id == tokenizer.id
    assert describe(exported[name]) == (loaded.config, loaded.lineage)
    assert json.loads((exported[name] / "generation_config.json").read_text())["eos_token_id"] == [256, 258]


def test_a_tied_head_is_not_written_and_an_untied_one_is(exported):
    assert "lm_head.weight" in tensors(exported["llama"])
    assert "lm_head.weight" not in tensors(exported["qwen2"])
    assert tensors(exported["gpt2"])["transformer.h.0.attn.c_attn.weight"][1] == (16, 48)


def test_bfloat16_stays_as_stored_when_asked(exported):
    _, params = import_hf(exported["qwen2"], dtype=None)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    _, params = import_hf(exported["llama"], dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


@every_kind
def test_several_files_with_an_index_hold_the_same(exported, wide, name, tmp_path):
    config, params = wide[name]
    loaded = open_model(exported[name])
    count = export_hf(tmp_path / "many", config, params, None, None, loaded.lineage, loaded.stored_dtype, 9000,
                      lossy=("dtype",))
    assert len(list((tmp_path / "many").glob("model-0*-of-0*.safetensors"))) > 2
    assert tensors(tmp_path / "many") == tensors(exported[name])
    index = json.loads((tmp_path / "many" / INDEX).read_text())
    assert len(index["weight_map"]) == count
    assert index["metadata"]["total_size"] == sum(len(raw) for _, _, raw in tensors(exported[name]).values())
    again = open_model(tmp_path / "many")
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    assert (again.tokenizer, again.template) == (None, None)


@every_kind
def test_weights_are_read_straight_into_their_shardings(exported, name):
    mesh = make_mesh("fsdp:4,tensor:2")
    sharded = open_model(exported[name], mesh=mesh)
    model = create(sharded.config)
    assert jax.tree.map(lambda x: x.sharding, sharded.params) == shardings(mesh, model.rules(), model.abstract())
    jax.tree.map(np.testing.assert_array_equal, sharded.params, open_model(exported[name]).params)


def test_an_early_gpt2_file_without_prefix_and_with_mask_buffers_is_read(own_copy):
    folder = own_copy("gpt2")
    path = folder / "model.safetensors"
    wanted = import_hf(folder)[1]
    early = {name.removeprefix("transformer."): value for name, value in safetensors.numpy.load_file(path).items()}
    early["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
    early["lm_head.weight"] = early["wte.weight"]
    safetensors.numpy.save_file(early, path)
    jax.tree.map(np.testing.assert_array_equal, import_hf(folder)[1], wanted)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_every_bit_pattern_of_a_small_dtype_survives_float32(exported, tmp_path, kind):
    loaded = open_model(exported["llama"])
    patterns = np.arange(2**16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        is_nan = np.isnan(patterns.view(jnp.dtype(kind)).astype(np.float32))
    quiet = np.uint16(2**6 if kind == "bfloat16" else 2**9)
    patterns = np.where(is_nan, patterns | quiet, patterns).reshape(-1, 2)      # a signalling NaN becomes a quiet one
    config = dataclasses.replace(loaded.config, d_ff=len(patterns))
    model, rng = create(config), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.integers(-8, 8, leaf.shape).astype(kind), model.abstract())
    for name, axes in (("gate", (0, 1)), ("down", (1, 0))):
        values = np.resize(patterns.T, params["layers"]["mlp"]["gate"]["kernel"].shape).view(jnp.dtype(kind))
        params["layers"]["mlp"][name]["kernel"] = values.transpose(0, *(axis + 1 for axis in axes))
    export_hf(tmp_path / "one", config, params, None, None, loaded.lineage, kind)
    export_hf(tmp_path / "two", *import_hf(tmp_path / "one"), None, None, loaded.lineage, kind)
    assert tensors(tmp_path / "two") == tensors(tmp_path / "one")


def test_lineage_is_not_believed_when_the_weights_are_others(own_copy, capsys):
    folder = own_copy("llama")
    identity = open_model(folder).lineage.id
    path = folder / "model.safetensors"
    changed = {name: value + (name == "model.norm.weight") for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(changed, path)
    loaded = open_model(folder)
    assert "not those that easylm_imitation.json describes" in capsys.readouterr().err
    assert loaded.lineage.id == loaded.lineage.base != identity
    assert (loaded.lineage.name, loaded.lineage.teachers, loaded.template) == ("copy-llama", (), None)


def test_identity_is_of_the_weights_and_not_of_the_place(own_copy):
    folder = own_copy("gpt2")
    (folder / "easylm_imitation.json").unlink()
    one = open_model(folder).lineage
    assert one == open_model(folder).lineage
    assert one.name == "copy-gpt2"
    other = folder.rename(folder.with_name("moved"))
    assert open_model(other).lineage.id == one.id


def test_a_mixture_of_dtypes_is_held_exactly(own_copy):
    folder = own_copy("gpt2")
    path = folder / "model.safetensors"
    mixed = safetensors.numpy.load_file(path)
    mixed["transformer.wte.weight"] = mixed["transformer.wte.weight"].astype(np.float16)
    safetensors.numpy.save_file(mixed, path)
    loaded = open_model(folder)
    assert loaded.stored_dtype == "float32"
    table = mixed["transformer.wte.weight"].astype(np.float32)
    np.testing.assert_array_equal(loaded.params["embed"]["embedding"], table)


