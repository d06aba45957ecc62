"""Koala: dialogues of ChatGPT and human preferences with a marker of bad answers; EasyLM's loss.

    easylm-imitation train --config configs/recipes/koala.py --data DATA --init HF_DIR --workdir RUN

DATA: configs/data/koala.py (Koala-All) or configs/data/koala.py:distill. Published: LLaMA-13B, 2 epochs, 6 hours on
eight A100, under $100; the mean over rows of each row's mean. Optimizer, learning rate and batch are not published:
AdamW, 2e-5 and 64 rows here. Expected: raters found Koala-All as good as ChatGPT or better on half of the 180 prompts
of its own test set (the authors' post).
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import variant


def get_config(name="llama-13b"):
    variant(name, ("llama-7b", "llama-13b"))
    return ConfigDict({
        "name": f"koala-{name}",
        "model": {"preset": name},
        "epochs": 2.0,
        "mesh": "fsdp:-1",
        "data": {"context": 2048, "batch": 64, "too_long": "truncate"},
        "optimizer": {"learning_rate": 2e-5, "warmup": 0.03, "schedule": "cosine", "weight_decay": 0.0},
        "loss": "row_mean",
        "compute_dtype": "bfloat16", "remat": "full", "log_every": 1, "checkpoint_every": 200,
    })
