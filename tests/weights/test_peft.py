"""Adapters in PEFT's files: out, in, and refused."""
import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from tiny_models import made

from easylm_imitation.models import Adapters, LoraConfig, merged
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.weights import describe, export_adapter, export_hf, open_model
from easylm_imitation.weights.peft import export_peft

BASE = Lineage(id="0f0f", name="base", base="0f0f", base_name="base", code="0.1.0")
OWN = dataclasses.replace(BASE, id="1e1e", name="adapted", teachers=("gpt-4",))
TARGETS = {"llama": "layers/(attention/(q|v)|mlp/down)/kernel", "gpt2": "layers/attention/(qkv|out)/kernel"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A function: (folder of the base, of the adapter, and the parameters that they make together); made once."""
    @functools.cache
    def make(name):
        tmp_path = tmp_path_factory.mktemp(name)
        model, base = made(name)
        adapters = Adapters(model, LoraConfig(TARGETS[name], rank=3, alpha=6.0))
        rng = np.random.default_rng(1)
        numbers = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), adapters.abstract())
        export_hf(tmp_path / "base", model.config, base, None, None, BASE)
        export_peft(tmp_path / "adapter", adapters, numbers, str(tmp_path / "base"), BASE, OWN)
        return tmp_path / "base", tmp_path / "adapter", merged(adapters.attach(base, numbers))
    return make


@pytest.fixture
def dirs(kept, tmp_path):
    """The same, with an adapter of the test's own."""
    def make(name):
        base, adapter, whole = kept(name)
        return base, shutil.copytree(adapter, tmp_path / "adapter"), whole
    return make


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_an_adapter_comes_back_with_its_base_and_its_lineage(name, dirs, tmp_path):
    base, adapter, whole = dirs(name)
    for path in (adapter, f"{base}+{adapter}"):
        found = open_model(path)
        for ours, theirs in zip(jax.tree.leaves(found.params), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert found.lineage == describe(path)[1] == OWN
    export_adapter(adapter, tmp_path / "again")
    files = [(folder / "adapter_model.safetensors").read_bytes() for folder in (adapter, tmp_path / "again")]
    assert files[0] == files[1]


def test_an_adapter_whose_numbers_changed_is_another_model(dirs):
    base, adapter, _ = dirs("llama")
    file = adapter / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({name: x + 1 for name, x in tensors.items()}, file)
    found = describe(adapter)[1]
    assert found.id not in (OWN.id, BASE.id)
    assert (found.name, found.init, found.teachers) == ("adapter", describe(base)[1].id, ())


def changed(adapter, tensors=None, **keys):
    """Changes keys of an adapter's config, and its tensors by a function."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    if tensors:
        file = adapter / "adapter_model.safetensors"
        safetensors.numpy.save_file(tensors(safetensors.numpy.load_file(file)), file)


@pytest.mark.parametrize(("keys", "said"), [
    ({"r": 4}, "has rank 3, but adapter_config.json says r=4"), ({"r": "x"}, "r is 'x'"),
    ({"lora_alpha": 0}, "lora_alpha is 0"), ({"lora_dropout": 1.0}, "lora_dropout is 1.0"),
    ({"lora_dropout": "x"}, "lora_dropout is 'x'"), ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ({"bias": "all"}, "bias is 'all'"), ({"use_dora": True}, "use_dora=true is not computed"),
    ({"rank_pattern": {"q_proj": 4}}, "rank_pattern=.* merge the adapter with PEFT"),
    ({"base_model_name_or_path": "org/base"}, r"says that its base is 'org/base', which is no folder here; .*BASE\+"),
    ({"base_model_name_or_path": None}, "does not say its base")])
def test_what_is_not_computed_or_not_there_is_one_line(keys, said, dirs):
    _, adapter, _ = dirs("llama")
    changed(adapter, **keys)
    with pytest.raises(UserError, match=said) as error:
        open_model(adapter)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: {n: x for n, x in t.items() if "layers.1.self_attn.v_proj.lora_B" not in n}, "lora_B.* is missing"),
    (lambda t: t | {"base_model.model.lm_head.lora_A.weight": np.zeros((3, 16), np.float32)}, "lm_head.*has no place"),
    (lambda t: {n: np.pad(x, ((0, 0), (0, 8))) if "lora_A" in n else x for n, x in t.items()},
     "this model makes it .*another model"),
    (lambda t: {n: x * np.nan for n, x in t.items()}, "lora_A.weight' holds numbers that are not finite"),
    (lambda t: {f"x.{n}": x for n, x in t.items()}, "no tensor of it belongs to a kernel")])
def test_tensors_that_do_not_fit_the_model_are_named(change, said, dirs):
    _, adapter, _ = dirs("llama")
    changed(adapter, change)
    with pytest.raises(UserError, match=said):
        open_model(adapter)


def test_a_rank_stabilised_adapter_is_scaled_by_the_root_of_its_rank(dirs):
    base, adapter, whole = dirs("llama")
    changed(adapter, use_rslora=True)
    plain, ours, theirs = (np.asarray(tree["layers"]["attention"]["q"]["kernel"]) for tree in (
        open_model(base).params, open_model(adapter).params, whole))
    np.testing.assert_allclose(ours - plain, (theirs - plain) * 3**0.5, atol=1e-5)


def test_adapters_to_another_base_or_none_are_refused(dirs, tmp_path):
    base, adapter, _ = dirs("llama")
    other, params = made("qwen2")
    export_hf(tmp_path / "other", other.config, params, None, None, BASE)
    with pytest.raises(UserError, match="another model"):
        open_model(f"{tmp_path / 'other'}+{adapter}")
    model, params = made("llama")
    export_hf(tmp_path / "alike", model.config, params, None, None, dataclasses.replace(BASE, id="2f2f"))
    with pytest.raises(UserError, match="trained beside the weights 0f0f, but the base named holds 2f2f"):
        open_model(f"{tmp_path / 'alike'}+{adapter}")
    with pytest.raises(UserError, match="holds no adapters; --format peft is for"):
        export_adapter(base, tmp_path / "out")
