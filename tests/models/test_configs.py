import dataclasses

import jax
import pytest
from tiny_models import CONFIGS

from easylm_imitation.console import say_once
from easylm_imitation.models import (
    FAMILIES,
    PRESETS,
    RopeScaling,
    config_mapping,
    create,
    difference,
    hf_family,
    model_config,
)
from easylm_imitation.schema import UserError


@pytest.mark.parametrize("config", [*CONFIGS.values(), *PRESETS.values()], ids=[*CONFIGS, *PRESETS])
def test_parameters_counts_what_there_is(config):
    assert config.parameters() == sum(leaf.size for leaf in jax.tree.leaves(create(config).abstract()))


@pytest.mark.parametrize(("preset", "published"), [
    ("gpt2", 124_439_808), ("gpt2-xl", 1_557_611_200), ("llama-7b", 6_738_415_616), ("llama-13b", 13_015_864_320),
    ("qwen2.5-0.5b", 494_032_768)])
def test_published_sizes(preset, published):
    assert PRESETS[preset].parameters() == published


def test_flops_are_six_per_matmul_weight_and_causal_attention():
    config = PRESETS["llama-7b"]
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert config.flops_per_token(2048) == 6 * weights + 6 * 32 * 4096 * 2048
    assert config.flops_per_token(2048) == pytest.approx(42e9, rel=0.02)    # the usual figure for LLaMA-7B at T = 2048
    tied = PRESETS["gpt2"]
    assert tied.matmul_weights() == 12 * 12 * 768**2 + 50257 * 768          # the head multiplies, the lookup does not


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_config_survives_model_json_and_config_json(config):
    assert model_config(config_mapping(config)) == config
    mapping = FAMILIES[config.family].config_to_hf(config)
    assert hf_family(mapping["model_type"]).config_from_hf(mapping) == config


def test_a_preset_takes_overrides():
    config = model_config({"preset": "llama-debug", "vocab_size": 300, "tie_embeddings": True})
    assert (config.vocab_size, config.tie_embeddings, config.d_model) == (300, True, PRESETS["llama-debug"].d_model)
    assert difference(config, PRESETS["llama-debug"]) == "vocab_size: 300 here, 256 there"
    assert difference(config, config) == ""


@pytest.mark.parametrize(("mapping", "message"), [
    ({"preset": "lama-debug"}, "unknown preset 'lama-debug'; did you mean 'llama-debug'?"),
    ({"preset": "llama-debug", "layer": 3}, "unknown key 'layer'; did you mean 'layers'?"),
    ({"preset": "llama-debug", "layers": "3"}, "model.layers: expected int, got '3'"),
    ({"family": "gpt3"}, "unknown family 'gpt3'; did you mean 'gpt2'?"),
    ({}, "give 'preset'"),
    ({"preset": "llama-debug", "kv_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
    ({"preset": "llama-debug", "head_dim": 5}, "head_dim=5 must be even"),
    ({"preset": "gpt2-debug", "heads": 5}, "d_model=32 is not a multiple of heads=5"),
    ({"preset": "gpt2-debug", "layers": 0}, "layers is 0; it must be at least 1"),
    ({"family": "llama", "vocab_size": 5}, "the key 'context' is missing"),
])
def test_a_wrong_model_is_one_clear_line(mapping, message):
    with pytest.raises(UserError) as error:
        model_config(mapping)
    assert message in str(error.value)


def test_learned_positions_end_and_rotary_ones_do_not():
    PRESETS["gpt2"].check_context(1024)
    with pytest.raises(UserError, match="context 1025: this gpt2 has learned 1024 positions"):
        PRESETS["gpt2"].check_context(1025)
    PRESETS["llama-7b"].check_context(4096)
    with pytest.raises(UserError, match="at least one token"):
        PRESETS["llama-7b"].check_context(0)


LLAMA = FAMILIES["llama"].config_to_hf(CONFIGS["llama"])
QWEN2 = FAMILIES["llama"].config_to_hf(CONFIGS["qwen2"])
GPT2 = FAMILIES["gpt2"].config_to_hf(CONFIGS["gpt2"])


@pytest.mark.parametrize(("mapping", "message"), [
    ({**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "rope type 'yarn' is not supported"),
    ({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 8.0}}, "rope type 'dynamic' is not supported"),
    ({**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}},
     "'mscale' is not supported for rope type 'linear'"),
    ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "the key 'low_freq_factor' is missing"),
    ({**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor is 0.5; rotary positions are"),
    ({**LLAMA, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
     "partial_rotary_factor=0.5 is not supported"),
    ({**LLAMA, "mlp_bias": True}, "mlp_bias=True is not supported"),
    ({**LLAMA, "model_type": "mistral", "attention_bias": True}, "attention_bias=True is not supported"),
    ({**LLAMA, "hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
    ({**LLAMA, "sliding_window": 16}, "sliding_window=16 is not supported for model_type 'llama'"),
    ({**QWEN2, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
     "sliding_window=16 in 1 of 2 layers is not supported"),
    ({**QWEN2, "use_sliding_window": True, "sliding_window": 16,
      "layer_types": ["sliding_attention", "full_attention"]}, "sliding_window=16 in 1 of 2 layers is not supported"),
    ({**QWEN2, "layer_types": ["full_attention", "linear_attention"]}, "layer_types='linear_attention' is not"),
    ({**QWEN2, "model_type": "mistral", "sliding_window": "16"}, "sliding_window='16' is not a number of tokens"),
    ({k: v for k, v in QWEN2.items() if k != "num_key_value_heads"}, "the key 'num_key_value_heads' is missing"),
    ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, "the key 'hidden_size' is missing"),
    ({**GPT2, "activation_function": "relu"}, "activation_function='relu' is not supported"),
    ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
    ({**GPT2, "model_type": "gpt_neo"}, "model_type 'gpt_neo' is not supported"),
])
def test_what_is_not_computed_is_refused(mapping, message):
    with pytest.raises(UserError) as error:
        hf_family(mapping["model_type"]).config_from_hf(mapping)
    assert message in str(error.value)


def test_rotary_positions_are_read_from_old_and_new_files():
    read = FAMILIES["llama"].config_from_hf
    new = {k: v for k, v in LLAMA.items() if k not in ("rope_theta", "rope_scaling")}
    assert read({**LLAMA, "rope_theta": 5e5}).rope_theta == 5e5
    assert read({**new, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}).rope_theta == 5e5
    assert read(new).rope_theta == 10000.0
    stretched = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_max_position_embeddings": 4096}
    wanted = RopeScaling("llama3", 8.0, original_context=4096)
    for mapping in ({**new, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **stretched}},
                    {**new, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **stretched}}):
        assert (read(mapping).rope_theta, read(mapping).rope_scaling) == (5e5, wanted)
    linear = read({**new, "rope_scaling": {"type": "linear", "factor": 4.0}})
    assert linear.rope_scaling == RopeScaling("linear", 4.0)


def test_windows_are_read_where_the_model_type_has_them():
    read = FAMILIES["llama"].config_from_hf
    mistral = {**LLAMA, "model_type": "mistral"}
    assert read({**mistral, "sliding_window": 16}).window == 16
    assert read({**mistral, "sliding_window": None}).window == 0
    assert read(mistral).window == 4096                 # as the class has it, when the file does not say
    assert read({**QWEN2, "sliding_window": 16}).window == 0
    in_use = {**QWEN2, "use_sliding_window": True, "sliding_window": 16}
    assert read({**in_use, "max_window_layers": 0}).window == 16
    assert read({**in_use, "max_window_layers": 2}).window == 0
    assert read({**in_use, "layer_types": ["sliding_attention"] * 2}).window == 16


def test_options_that_no_model_type_has_together_are_not_exported():
    config = dataclasses.replace(CONFIGS["qwen3"], qkv_bias=True)
    with pytest.raises(UserError, match="no Hugging Face model has qkv_bias=True, out_bias=False, qk_norm=True"):
        FAMILIES["llama"].config_to_hf(config)


def test_dropout_is_noted_once_and_nothing_else_is_said(capsys):
    say_once.cache_clear()
    for _ in range(2):
        FAMILIES["gpt2"].config_from_hf({**GPT2, "attn_pdrop": 0.1})
    assert capsys.readouterr().err.splitlines() == [
        "note: config.json asks for attn_pdrop=0.1 in training; dropout is not computed here"]
