"""What the networks compute: one file a family, shared layers, attention, key-value cache, one generic `Model`.

Flax NNX stays in here; outside, a model is `(Model, params)` with `params` a plain nested dict.
"""
from easylm_imitation.models.attention import BACKENDS, attention
from easylm_imitation.models.cache import Cache, put_rows
from easylm_imitation.models.family import ModelConfig
from easylm_imitation.models.gpt2 import GPT2Config
from easylm_imitation.models.kernels import Adapted, Quantised, merged
from easylm_imitation.models.layers import turned_kernels
from easylm_imitation.models.llama import LlamaConfig
from easylm_imitation.models.lora import Adapters, LoraConfig
from easylm_imitation.models.model import Model, Params, create, stack, unstack
from easylm_imitation.models.names import Entry, NameMap
from easylm_imitation.models.neox import NeoXConfig
from easylm_imitation.models.opt import OPTConfig
from easylm_imitation.models.presets import (
    FAMILIES,
    PRESETS,
    config_mapping,
    difference,
    family_of,
    hf_family,
    model_config,
)
from easylm_imitation.models.rope import RopeScaling

__all__ = ["BACKENDS", "FAMILIES", "PRESETS", "Adapted", "Adapters", "Cache", "Entry", "GPT2Config", "LlamaConfig",
           "LoraConfig", "Model", "ModelConfig", "NameMap", "NeoXConfig", "OPTConfig", "Params", "Quantised",
           "RopeScaling", "attention", "config_mapping", "create", "difference", "family_of", "hf_family", "merged",
           "model_config", "put_rows", "stack", "turned_kernels", "unstack"]
