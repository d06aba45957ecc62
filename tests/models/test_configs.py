import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params
from tiny_models import CONFIGS

from easylm_imitation.config import load
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
    unstack,
)
from easylm_imitation.schema import UserError
from easylm_imitation.train import TrainConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("config", [*CONFIGS.values(), *PRESETS.values()], ids=[*CONFIGS, *PRESETS])
def test_parameters_counts_what_there_is(config):
    assert config.parameters() == sum(leaf.size for leaf in jax.tree.leaves(create(config).abstract()))


@pytest.mark.parametrize(("preset", "published"), [
    ("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200),
    ("llama-7b", 6_738_415_616), ("llama-13b", 13_015_864_320), ("llama-30b", 32_528_943_616),
    ("llama-65b", 65_285_660_672), ("llama-2-7b", 6_738_415_616), ("llama-2-13b", 13_015_864_320),
    ("llama-2-70b", 68_976_648_192), ("llama-3-8b", 8_030_261_248), ("llama-3-70b", 70_553_706_496),
    ("llama-3.1-8b", 8_030_261_248), ("llama-3.1-70b", 70_553_706_496), ("llama-3.2-1b", 1_235_814_400),
    ("llama-3.2-3b", 3_212_749_824), ("tinyllama-1.1b", 1_100_048_384), ("open-llama-3b", 3_426_473_600),
    ("open-llama-7b", 6_738_415_616), ("open-llama-13b", 13_015_864_320), ("mistral-7b", 7_241_732_096),
    ("mistral-7b-v0.3", 7_248_023_552),
    ("qwen2-0.5b", 494_032_768), ("qwen2-1.5b", 1_543_714_304), ("qwen2-7b", 7_615_616_512),
    ("qwen2-72b", 72_706_203_648), ("qwen2.5-0.5b", 494_032_768), ("qwen2.5-1.5b", 1_543_714_304),
    ("qwen2.5-3b", 3_085_938_688), ("qwen2.5-7b", 7_615_616_512), ("qwen2.5-14b", 14_770_033_664),
    ("qwen2.5-32b", 32_763_876_352), ("qwen2.5-72b", 72_706_203_648), ("qwen3-0.6b", 596_049_920),
    ("qwen3-1.7b", 1_720_574_976), ("qwen3-4b", 4_022_468_096), ("qwen3-8b", 8_190_735_360),
    ("qwen3-14b", 14_768_307_200), ("qwen3-32b", 32_762_123_264),
    ("opt-125m", 125_239_296), ("opt-350m", 331_196_416), ("opt-1.3b", 1_315_758_080), ("opt-2.7b", 2_651_596_800),
    ("opt-6.7b", 6_658_473_984), ("opt-13b", 12_853_473_280), ("opt-30b", 29_974_540_288), ("opt-66b", 65_719_701_504),
    ("pythia-70m", 70_426_624), ("pythia-160m", 162_322_944), ("pythia-410m", 405_334_016),
    ("pythia-1b", 1_011_781_632), ("pythia-1.4b", 1_414_647_808), ("pythia-2.8b", 2_775_208_960),
    ("pythia-6.9b", 6_857_302_016), ("pythia-12b", 11_846_072_320), ("gpt-neox-20b", 20_554_567_680)])
def test_published_sizes(preset, published):
    assert PRESETS[preset].parameters() == published


def test_every_published_size_is_checked():
    (marks,) = (mark for mark in test_published_sizes.pytestmark if mark.name == "parametrize")
    own = {name for name in PRESETS if name.endswith(("-debug", "-10m"))}
    assert {name for name, _ in marks.args[1]} == PRESETS.keys() - own


@pytest.mark.parametrize("name", [n for n in PRESETS if not n.endswith(("-debug", "-10m"))])
def test_configs_carry_every_base_model_and_so_do_the_docs(name):
    config = load(TrainConfig, f"{ROOT}/configs/train/base.py:{name}")
    model = model_config(config.model)
    assert model == PRESETS[name]
    model.check_context(config.data.context)
    assert f"`{name}`" in (ROOT / "docs" / "models.md").read_text()


def test_a_base_model_that_there_is_not_is_one_clear_line():
    with pytest.raises(UserError) as error:
        load(TrainConfig, f"{ROOT}/configs/train/base.py:llama-7")
    assert str(error.value).endswith("'llama-7' is no base model; name one as in base.py:llama-2-7b; did you mean "
                                     "'llama-7b'?")


def multiplications(jaxpr):
    """FLOPs of all matrix products of a program, counted where they stand; a program within it counts as often."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        total += sum(multiplications(inner) for inner in jaxprs_in_params(equation.params))
    return total


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_per_token_are_those_of_the_program_of_a_training_step(name):
    config, tokens = CONFIGS[name], 32
    model = create(dataclasses.replace(config, window=0) if config.window else config)
    row = jnp.arange(tokens)[None]

    def loss(params):       # unrolled, so that every layer stands in the program; all scores at once
        hidden = model.hidden(params, row, row, dtype=jnp.float32, attention="reference")
        return jnp.sum(model.unembed(params, hidden))
    program = jax.make_jaxpr(jax.grad(loss))(jax.eval_shape(unstack, model.abstract()))
    # the reference multiplies every query with every key, of which a causal row needs half
    unseen = 6 * config.layers * config.attention_dim * tokens
    assert multiplications(program.jaxpr) / tokens == model.config.flops_per_token(tokens) + unseen


def test_flops_per_token_of_a_window_count_the_keys_it_leaves():
    full, tokens = dataclasses.replace(CONFIGS["mistral"], window=0), 4096
    per_key = 12 * full.layers * full.attention_dim
    for window in (1024, tokens, 2 * tokens):
        seen = sum(min(t + 0.5, window) for t in range(tokens)) / tokens    # half of its own, as causal rows count it
        counted = dataclasses.replace(full, window=window).flops_per_token(tokens) - 6 * full.matmul_weights()
        assert counted / per_key == pytest.approx(seen)


def test_flops_of_published_models():
    assert PRESETS["llama-7b"].flops_per_token(2048) == pytest.approx(42e9, rel=0.02)   # the usual figure at T = 2048
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
    ({"preset": ["a"]}, "preset: expected a name, got ['a']"),
    ({"family": 3}, "family: expected a name, got 3"),
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
    with pytest.raises(UserError, match="context 2049: this opt has learned 2048 positions"):
        PRESETS["opt-125m"].check_context(2049)
    for rotary in ("llama-7b", "pythia-70m"):
        PRESETS[rotary].check_context(4096)
    with pytest.raises(UserError, match="at least one token"):
        PRESETS["llama-7b"].check_context(0)


LLAMA = FAMILIES["llama"].config_to_hf(CONFIGS["llama"])
QWEN2 = FAMILIES["llama"].config_to_hf(CONFIGS["qwen2"])
OPT = FAMILIES["opt"].config_to_hf(CONFIGS["opt"])
NEOX = FAMILIES["neox"].config_to_hf(CONFIGS["pythia"])
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
    ({**OPT, "activation_function": "gelu"}, "activation_function='gelu' is not supported for model_type 'opt'"),
    ({**OPT, "enable_bias": False}, "enable_bias=False is not supported"),
    ({**OPT, "_remove_final_layer_norm": True}, "_remove_final_layer_norm=True is not supported"),
    ({**NEOX, "hidden_act": "relu"}, "hidden_act='relu' is not supported for model_type 'gpt_neox'"),
    ({**NEOX, "attention_bias": False}, "attention_bias=False is not supported"),
    ({**NEOX, "rotary_pct": 0.1}, "rotary_part=0.1 of a head dim of 8 is 0 dims"),
    ({**GPT2, "model_type": "gpt_neo"}, "model_type 'gpt_neo' is not supported"),
    ({**GPT2, "n_embd": {"a": 1}, "n_inner": None}, "config.json.d_model: expected int, got {'a': 1}"),
    ({**LLAMA, "num_hidden_layers": 10**12}, "layers is 1000000000000; no model has more than 10000"),
    ({**GPT2, "layer_norm_epsilon": -1}, "norm_eps is -1.0; it must be a number above 0"),
    ({**LLAMA, "rms_norm_eps": float("nan")}, "norm_eps is nan; it must be a number above 0"),
    *[({**LLAMA, "rope_theta": theta}, f"rope_theta={theta!r} is not a number above 0")
      for theta in (None, 0, -5, "1e4", True, float("inf"))],
    *[({**LLAMA, name: given}, f"{name}={given!r} is not a mapping such as {{'rope_type': 'linear', 'factor': 2.0}}")
      for name in ("rope_scaling", "rope_parameters") for given in ("linear", [2.0])],
    ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
     "rope_parameters has rope_type='default' where another key has 'linear'"),
    ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0, "rope_type": "llama3"}},
     "rope_scaling has rope_type='llama3' where another key has 'linear'"),
    ({**LLAMA, "rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
     "rope_theta=500000.0 and rope_parameters.rope_theta=10000.0 disagree; remove the wrong one"),
    ({**NEOX, "rotary_pct": 0.25, "partial_rotary_factor": 0.5}, "rotary_pct=0.25 and partial_rotary_factor=0.5 disag"),
    ({**NEOX, "rotary_pct": 2}, "rotary_part=2.0"),
    ({**QWEN2, "layer_types": 5}, "layer_types=5 is not a list of 2 layers' kinds"),
    ({**QWEN2, "layer_types": ["full_attention"]}, "layer_types=['full_attention'] is not a list of 2 layers' kinds"),
    ({**QWEN2, "max_window_layers": None}, "max_window_layers=None is not a number of layers"),
    ({**QWEN2, "model_type": "mistral", "sliding_window": True}, "sliding_window=True is not a number of tokens"),
    ({**QWEN2, "model_type": "mistral", "sliding_window": 0}, "sliding_window=0 is not a number of tokens"),
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


def test_the_turned_part_of_a_head_is_read_from_old_and_new_files():
    read = FAMILIES["neox"].config_from_hf
    bare = {k: v for k, v in NEOX.items() if k not in ("rotary_pct", "rotary_emb_base", "rope_scaling")}
    assert (read(bare).rotary_part, read(bare).rope_theta) == (0.25, 10000.0)
    old = read({**bare, "rotary_pct": 0.5, "rotary_emb_base": 5000})
    new = read({**bare, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 5000}})
    assert old == new == read({**bare, "partial_rotary_factor": 0.5, "rope_theta": 5000})
    assert (old.rotary_part, old.rope_theta, old.rotary_dims) == (0.5, 5000.0, 4)


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
