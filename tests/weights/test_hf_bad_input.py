import json

import numpy as np
import pytest
import safetensors.numpy
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.schema import UserError
from easylm_imitation.weights import export_hf, import_hf, open_model


def weights(change):
    """A damage: rewrites model.safetensors after `change(tensors)`."""
    def damage(folder):
        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return damage


def config(**changes):
    """A damage: changes keys of config.json."""
    def damage(folder):
        mapping = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**mapping, **changes}))
    return damage


def file(name, text=None):
    """A damage: removes a file, or fills it with `text`."""
    def damage(folder):
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    return damage


def cut_short(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


def index_of_other_files(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def index_of_a_missing_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def index_of_a_missing_tensor(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')


def index_elsewhere(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')


def index_of_another_copy(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file({"lm_head.weight": tensors["lm_head.weight"]}, folder / "head.safetensors")
    homes = {name: "model.safetensors" for name in tensors} | {"lm_head.weight": "head.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))


def safetensors_under_a_torch_name(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def larger_tokenizer(folder):
    byte_tokenizer(("<eos>", *(f"<{i}>" for i in range(9)))).save(folder)


def untied_copy(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2


def renamed(tensors):
    tensors["model.norm.scale"] = tensors.pop("model.norm.weight")


DAMAGES = [
    ("llama", weights(renamed), "the tensor 'model.norm.weight' is missing, and the tensor 'model.norm.scale' has no "
     "place in the model of config.json; these are not config.json's weights"),
    ("llama", weights(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
     "the tensor 'model.layers.1.mlp.up_proj.weight' is missing"),
    ("llama", weights(lambda t: t.pop("lm_head.weight")), "the tensor 'lm_head.weight' is missing"),
    ("llama", weights(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(16, np.float32)})),
     "the tensor 'model.layers.0.self_attn.q_proj.bias' has no place in the model of config.json"),
    ("llama", weights(lambda t: t.update({"model.norm.weight": np.ones(8, np.float32)})),
     "the tensor 'model.norm.weight' has shape [8], but config.json makes it [16]"),
    ("llama", weights(lambda t: t.update({"model.norm.weight": np.ones(16, np.int32)})),
     "the tensor 'model.norm.weight' is I32; supported: F32, F16, BF16"),
    ("llama", config(intermediate_size=25), "gate_proj.weight' has shape [24, 16], but config.json makes it [25, 16]"),
    ("llama", config(num_hidden_layers=3), "9 tensors are missing: 'model.layers.2.self_attn.q_proj.weight', "),
    ("llama", config(num_hidden_layers=1), "9 tensors have no place in the model of config.json"),
    ("llama", config(num_hidden_layers="2"), "config.json.layers: expected int, got '2'"),
    ("llama", config(model_type="bert"), "config.json: model_type 'bert' is not supported"),
    ("llama", config(model_type=None), "config.json: the key 'model_type' is missing"),
    ("llama", config(num_key_value_heads=3), "heads=4 is not a multiple of kv_heads=3"),
    ("llama", file("config.json"), "neither a run dir (model.json) nor a Hugging Face dir"),
    ("llama", file("config.json", "{"), "config.json: not a readable JSON file"),
    ("llama", file("model.safetensors"), "there are no weights: no model.safetensors and no model"),
    ("llama", file("model.safetensors", "x"), "model.safetensors: not a whole safetensors file"),
    ("llama", cut_short, "model.safetensors: not a whole safetensors file"),
    ("llama", config(quantization_config={"bits": 4}), "config.json: quantization_config asks for weights of few bits"),
    ("llama", index_elsewhere, "not a readable index of weight files"),
    *[("llama", file("model.safetensors.index.json", json.dumps({"weight_map": homes})), "not a readable index of")
      for homes in ({"a": "config.json"}, {"a": ".."}, {"a": 3}, [["a", "b"]], {"a": "x" * 300 + ".safetensors"})],
    ("llama", file("model.safetensors.index.json", "[" * 100000), "not a readable index of weight files"),
    ("llama", file("config.json", "[" * 100000), "config.json: not a readable JSON file"),
    ("llama", index_of_other_files, "holds model.safetensors, and model.safetensors.index.json for other files"),
    ("llama", index_of_a_missing_file, "model-00001-of-00002.safetensors: no such file"),
    ("llama", index_of_another_copy, "'lm_head.weight' is in head.safetensors, but model.safetensors has one too"),
    ("llama", weights(lambda t: t.update({"norm.weight": t["model.norm.weight"] + 1})), "two spellings of one tensor"),
    ("llama", index_of_a_missing_tensor, "says that 'a' is in model.safetensors, but it is not"),
    ("llama", safetensors_under_a_torch_name, "pytorch_model.bin: not a whole torch file"),
    ("qwen2", weights(untied_copy), "ties 'lm_head.weight' to 'model.embed_tokens.weight', but they differ"),
    ("gpt2", larger_tokenizer, "the tokenizer has ids up to 265, the model a vocabulary of 264"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_a_damaged_dir_is_one_clear_line(own_copy, name, damage, message):
    folder = own_copy(name)
    damage(folder)
    with pytest.raises(UserError) as error:
        open_model(folder)
    assert message in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder; give a run dir or a Hugging Face dir"):
        open_model(tmp_path / "nothing")
    with pytest.raises(UserError, match="config.json: no such file"):
        import_hf(tmp_path)


def test_an_export_that_fails_leaves_nothing(exported, tmp_path):
    loaded = open_model(exported["llama"])
    broken = {**loaded.params, "final_norm": {}}
    with pytest.raises(KeyError):
        export_hf(tmp_path / "out", loaded.config, broken, loaded.tokenizer, None, loaded.lineage)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="already exists and is not an empty folder"):
        export_hf(tmp_path / "full", loaded.config, loaded.params, loaded.tokenizer, None, loaded.lineage)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
