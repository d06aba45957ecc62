"""Named model sizes, and the reading of a model's config from a plain mapping."""
from collections.abc import Mapping
from typing import Any

from easylm_imitation.models import gpt2, llama, neox, opt
from easylm_imitation.models.family import Family, ModelConfig
from easylm_imitation.schema import UserError, build, nearest, plain

FAMILIES: dict[str, Family] = {file.FAMILY.name: file.FAMILY for file in (llama, gpt2, opt, neox)}
PRESETS: dict[str, ModelConfig] = {}
for _family in FAMILIES.values():
    PRESETS.update(_family.presets)


def model_config(mapping: Mapping[str, Any], where: str = "model") -> ModelConfig:
    """A config from `{"preset": name, ...overrides}` or `{"family": name, ...sizes}`; errors begin with `where`.

    An override of `d_model` or `heads` leaves `kv_heads` and `head_dim` as the preset has them: give them too. Raises
    UserError for an unknown preset, family or key, a wrong type, and sizes that do not go together.
    """
    mapping = dict(mapping)
    for key in ("preset", "family"):
        if not isinstance(mapping.get(key, ""), str):
            raise UserError(f"{where}.{key}: expected a name, got {mapping[key]!r}")
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
