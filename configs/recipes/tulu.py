"""Tülu (arXiv 2306.04751): twelve datasets and two mixtures, LLaMA, OPT and Pythia, in full.

    easylm-imitation train --config configs/recipes/tulu.py:llama-7b --data DATA --init HF_DIR --workdir RUN

Names: llama-7b, llama-13b, llama-30b, llama-65b, opt-6.7b, pythia-6.9b. DATA: configs/data/tulu.py,
configs/data/tulu_human.py, or one dataset by configs/data/source.py:NAME with --config.template=tulu. As published: 2
epochs, 128 rows an update, 2e-5 (30B and 65B: 1e-5), linear decay after 3 % of warm-up, no weight decay, 2,048 tokens
(30B and 65B: 1,024). Rows are packed here and were padded there. Expected, mean of six benchmarks: 38.3 (7B), 45.2
(13B), 54.1 (30B), 56.7 (65B); ChatGPT 72.3, GPT-4 86.9.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import variant

LARGE = ("llama-30b", "llama-65b")


def get_config(name="llama-7b"):
    variant(name, ("llama-7b", "llama-13b", *LARGE, "opt-6.7b", "pythia-6.9b"))
    large = name in LARGE
    return ConfigDict({
        "name": f"tulu-{name}",
        "model": {"preset": name},
        "epochs": 2.0,
        "mesh": "fsdp:-1",
        "data": {"context": 1024 if large else 2048, "batch": 128, "too_long": "truncate"},
        "optimizer": {"learning_rate": 1e-5 if large else 2e-5, "beta2": 0.999, "warmup": 0.03, "schedule": "linear",
                      "weight_decay": 0.0},
        "compute_dtype": "bfloat16", "remat": "full", "log_every": 1, "checkpoint_every": 200,
    })
