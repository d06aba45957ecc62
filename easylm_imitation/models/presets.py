"""Named model sizes, and the reading of a model's config from a plain mapping."""
from collections.abc import Mapping
from typing import Any

from easylm_imitation.models import gpt2, llama
from easylm_imitation.models.family import Family, ModelConfig
from easylm_imitation.models.gpt2 import GPT2Config
from easylm_imitation.models.llama import LlamaConfig
from easylm_imitation.schema import UserError, build, nearest, plain

FAMILIES: dict[str, Family] = {family.name: family for family in (llama.FAMILY, gpt2.FAMILY)}

PRESETS: dict[str, ModelConfig] = {
    # for tests and trials; override vocab_size with the tokenizer's
    "llama-debug": LlamaConfig(256, 128, layers=2, d_model=32, heads=4, d_ff=64, kv_heads=2),
    "gpt2-debug": GPT2Config(256, 128, layers=2, d_model=32, heads=4, d_ff=128),
    "llama-10m": LlamaConfig(16384, 1024, layers=8, d_model=256, heads=8, d_ff=704, kv_heads=4, tie_embeddings=True),
    "gpt2-10m": GPT2Config(16384, 1024, layers=8, d_model=256, heads=8, d_ff=1024),
    # published sizes
    "gpt2": GPT2Config(50257, 1024, layers=12, d_model=768, heads=12, d_ff=3072),
    "gpt2-xl": GPT2Config(50257, 1024, layers=48, d_model=1600, heads=25, d_ff=6400),
    "llama-7b": LlamaConfig(32000, 2048, layers=32, d_model=4096, heads=32, d_ff=11008, norm_eps=1e-6),
    "llama-13b": LlamaConfig(32000, 2048, layers=40, d_model=5120, heads=40, d_ff=13824, norm_eps=1e-6),
    "qwen2.5-0.5b": LlamaConfig(151936, 32768, layers=24, d_model=896, heads=14, d_ff=4864, kv_heads=2,
                                tie_embeddings=True, qkv_bias=True, rope_theta=1e6, norm_eps=1e-6),
}


def model_config(mapping: Mapping[str, Any], where: str = "model") -> ModelConfig:
    """A config from `{"preset": name, ...overrides}` or `{"family": name, ...sizes}`; errors begin with `where`.

    An override of `d_model` or `heads` leaves `kv_heads` and `head_dim` as the preset has them: give them too. Raises
    UserError for an unknown preset, family or key, a wrong type, and sizes that do not go together.
    """
    mapping = dict(mapping)
    if "preset" in mapping:
        name = mapping.pop("preset")
        if name not in PRESETS:
            raise UserError(f"{where}: unknown preset '{name}'{nearest(str(name), PRESETS)}")
        mapping = {**config_mapping(PRESETS[name]), **mapping}
    if "family" not in mapping:
        raise UserError(f"{where}: give 'preset' ({', '.join(PRESETS)}) or 'family' ({', '.join(FAMILIES)}) and sizes")
    family = mapping.pop("family")
    if family not in FAMILIES:
        raise UserError(f"{where}: unknown family '{family}'{nearest(str(family), FAMILIES)}")
    return build(FAMILIES[family].config, mapping, where)


def config_mapping(config: ModelConfig) -> dict[str, Any]:
    """The JSON-able mapping that `model_config` reads back into an equal config."""
    return {"family": config.family, **plain(config)}


def family_of(config: ModelConfig) -> Family:
    """The family of a config."""
    return FAMILIES[config.family]


def hf_family(model_type: str) -> Family:
    """The family that reads a config.json of this model_type. Raises UserError naming the known ones."""
    for family in FAMILIES.values():
        if model_type in family.hf_types:
            return family
    known = [kind for family in FAMILIES.values() for kind in family.hf_types]
    raise UserError(f"config.json: model_type '{model_type}' is not supported{nearest(model_type, known)}")


def difference(one: ModelConfig, other: ModelConfig) -> str:
    """The first key in which two configs differ, as `key: x here, y there`; "" when they are equal."""
    a, b = config_mapping(one), config_mapping(other)
    key = next((k for k in [*a, *b] if a.get(k) != b.get(k)), None)
    return "" if key is None else f"{key}: {a.get(key)} here, {b.get(key)} there"
