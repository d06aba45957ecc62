"""What stands beside exported weights, and exports that would lose something."""
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights.conftest import LINEAGE

from easylm_imitation.models import family_of
from easylm_imitation.record_examples import EXAMPLES
from easylm_imitation.records import DataCard
from easylm_imitation.schema import UserError, build
from easylm_imitation.text import get_template
from easylm_imitation.train import TrainConfig
from easylm_imitation.train.start import lineage_of
from easylm_imitation.weights import export_hf, hf_export, import_hf


def config_json(folder):
    return json.loads((folder / "config.json").read_text())


def test_config_speaks_to_older_and_to_current_readers(exported):
    mapping = config_json(exported["qwen2"])
    assert (mapping["torch_dtype"], mapping["dtype"]) == ("bfloat16", "bfloat16")
    assert mapping["architectures"] == ["Qwen2ForCausalLM"]
    assert (mapping["rope_theta"], mapping["rope_scaling"]) == (1e6, None)
    assert mapping["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}
    assert (mapping["eos_token_id"], mapping["bos_token_id"]) == (256, None)
    assert "rope_parameters" not in config_json(exported["gpt2"])


@pytest.mark.torch
@pytest.mark.parametrize("unknown", [("rope_parameters", "dtype"), ("rope_theta", "rope_scaling", "torch_dtype"), ()])
def test_transformers_reads_either_half_of_the_keys_alike(own_copy, unknown):
    transformers = pytest.importorskip("transformers")
    folder = own_copy("qwen2")
    kept = {key: value for key, value in config_json(folder).items() if key not in unknown}
    (folder / "config.json").write_text(json.dumps(kept))
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.rope_parameters["rope_theta"] == 1e6
    assert str(config.dtype).removeprefix("torch.") == "bfloat16"
    assert (config.num_key_value_heads, config.head_dim, config.tie_word_embeddings) == (1, 8, True)


TRAINED = dataclasses.replace(LINEAGE, base_name="org/base-1b", data_card="bbbb", tokens=20000, seed=3, step=100)


def card(folder, wide, lineage, **options):
    export_hf(folder, *wide["llama"], None, None, lineage, **options)
    return (folder / "README.md").read_text()


def test_the_model_card_says_how_and_on_what(wide, tmp_path):
    training = {"steps": 100, "optimizer": {"name": "adamw", "learning_rate": 1e-5}, "mesh": "fsdp:-1"}
    text = card(tmp_path / "a", wide, TRAINED, training=training)
    head, body = text.split("\n---\n", 1)
    assert "base_model: org/base-1b" in head
    assert "trained from `org/base-1b` on outputs of gpt-4" in body
    for row in ("| data card | bbbb |", "| training tokens | 20,000 |", "| steps | 100 |", "| seed | 3 |"):
        assert row in body
    assert '"learning_rate": 1e-05' in body
    assert "mesh" not in body
    assert "apply_chat_template" not in body


def test_the_card_of_weights_that_were_only_converted_claims_no_training(wide, tmp_path, exported):
    own = dataclasses.replace(LINEAGE, base=LINEAGE.id, teachers=())
    assert "converted without training" in card(tmp_path / "a", wide, own)
    assert "base_model:" not in card(tmp_path / "b", wide, dataclasses.replace(own, step=10))
    assert "apply_chat_template" in (exported["llama"] / "README.md").read_text()


@pytest.mark.parametrize(("parent", "teachers", "said"), [
    (None, (), "trained from fresh weights.\n"),
    (None, ("gpt-4",), "trained from fresh weights on outputs of gpt-4. What it says imitates them.\n"),
    (LINEAGE, (), f"trained from the weights `{LINEAGE.id}`.\n"),
    (LINEAGE, ("gpt-4",), f"trained from `{LINEAGE.name}` on outputs of gpt-4. What"),
    (TRAINED, (), "trained from `org/base-1b` on outputs of gpt-4. What")])
def test_the_card_says_what_the_weights_started_from(wide, tmp_path, parent, teachers, said):
    parent = parent and (parent if parent is TRAINED else dataclasses.replace(parent, teachers=()))
    data = dataclasses.replace(build(DataCard, EXAMPLES[DataCard], "card"), teachers=teachers)
    lineage = lineage_of(TrainConfig(steps=1), wide["llama"][0], data, parent)
    text = card(tmp_path / "a", wide, lineage)
    assert said in text
    assert ("| base |" in text) == bool(lineage.base)
    assert "AutoTokenizer" not in text


def one_number(params, value):
    """The weights, all of them exact in every dtype but the last number of the last layer's `down`."""
    even = jax.tree.map(lambda x: np.round(np.asarray(x) * 4) / np.float32(4), params)
    kernel = np.array(even["layers"]["mlp"]["down"]["kernel"])
    kernel[-1, -1, -1] = value
    even["layers"]["mlp"]["down"]["kernel"] = kernel
    return even


@pytest.mark.parametrize(("dtype", "value", "exact"), [
    ("bfloat16", 1 + 2**-7, True), ("bfloat16", 1 + 2**-8, False), ("bfloat16", np.nan, True),
    ("float16", 1 + 2**-10, True), ("float16", 1 + 2**-11, False), ("float16", 2**-24, True),
    ("float16", 2**-25, False)])
def test_one_number_that_does_not_fit_is_noticed(wide, tmp_path, dtype, value, exact):
    config, params = wide["llama"]
    params = one_number(params, np.float32(value))
    if exact:
        export_hf(tmp_path / "out", config, params, None, None, LINEAGE, dtype)
        jax.tree.map(np.testing.assert_array_equal, import_hf(tmp_path / "out")[1], params)
        return
    with pytest.raises(UserError, match=rf"{dtype} would change numbers of 'model.layers.1.mlp.down_proj"):
        export_hf(tmp_path / "out", config, params, None, None, LINEAGE, dtype)
    assert list(tmp_path.iterdir()) == []
    export_hf(tmp_path / "out", config, params, None, None, LINEAGE, dtype, lossy=("dtype",))
    read = import_hf(tmp_path / "out")[1]["layers"]["mlp"]["down"]["kernel"][-1, -1, -1]
    assert read == np.float32(value).astype(jnp.dtype(dtype))


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e5), ("float16", -65520.0), ("bfloat16", 3.4e38)])
def test_a_number_that_would_become_infinite_is_refused_even_when_digits_may_go(wide, tmp_path, dtype, value):
    config, params = wide["llama"]
    with pytest.raises(UserError, match=f"numbers that {dtype} has no room for: they would be infinite"):
        export_hf(tmp_path / "out", config, one_number(params, np.float32(value)), None, None, LINEAGE, dtype,
                  lossy=("dtype",))
    assert list(tmp_path.iterdir()) == []
    export_hf(tmp_path / "inf", config, one_number(params, np.float32(np.inf)), None, None, LINEAGE, dtype)


def test_the_card_names_the_data(wide, tmp_path):
    data = build(DataCard, EXAMPLES[DataCard], "card")
    text = card(tmp_path / "a", wide, TRAINED, trained_on=(data,))
    assert "The dataset `answers`: 2 conversations of 40 tokens, 14 of them with loss." in text
    assert "| answers | 2 | MIT | `00` |" in text
    assert "| answers | gpt-4 | 2026-01-02 | not noted |" in text       # who was asked when, on which terms


def test_a_config_that_config_json_cannot_say_is_not_exported(wide, tmp_path, monkeypatch):
    config, params = wide["llama"]
    family = family_of(config)
    forgetful = dataclasses.replace(family, config_to_hf=lambda c: {**family.config_to_hf(c), "rms_norm_eps": 0.5})
    monkeypatch.setattr(hf_export, "family_of", lambda c: forgetful)
    with pytest.raises(UserError, match=r"cannot say all of this model \(norm_eps: 1e-05 here, 0.5 there when read"):
        export_hf(tmp_path / "out", config, params, None, None, LINEAGE)
    assert list(tmp_path.iterdir()) == []


def test_generation_stops_where_the_template_ends_an_answer(wide, tokenizer, tmp_path):
    export_hf(tmp_path / "out", *wide["llama"], tokenizer, get_template("chatml"), LINEAGE)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [256, 258]
