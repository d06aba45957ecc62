"""A LLaMA of 19M parameters on any dataset built with GPT-2's tokenizer, for trying things on a laptop.

    easylm-imitation train --config configs/train/llama_10m.py --data DATA --workdir RUN

On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8 shards it over eight virtual devices. Expected: the loss
starts near ln(vocabulary), 10.8, and falls; docs/measurements.md has a dated run.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "llama-10m",
        "model": {"preset": "llama-10m", "vocab_size": 50264},   # GPT-2's 50,257, rounded up so that axes divide it
        "steps": 200,
        "mesh": "fsdp:-1",
        "data": {"context": 256, "batch": 8, "too_long": "truncate"},
        "optimizer": {"learning_rate": 1e-3, "warmup": 20.0, "schedule": "cosine", "weight_decay": 0.1},
        "compute_dtype": "float32",                             # on a CPU; bfloat16 on accelerators
        "log_every": 5, "checkpoint_every": 100,
    })
