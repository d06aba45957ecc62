"""Vicuna v1.1: shared ChatGPT dialogues, LLaMA in full.

    easylm-imitation train --config configs/recipes/vicuna.py:llama-7b --data DATA --init HF_DIR --workdir RUN

DATA: configs/data/source.py:sharegpt with --config.template=vicuna. As published: dialogues split to 2,048 tokens,
128 rows an update, 3 epochs at 2e-5, cosine after 3 % of warm-up, no weight decay. Expected: more than 90 % of
ChatGPT's points by GPT-4 on 80 questions (the authors' post), which is what the paper doubts; AlpacaEval of ShareGPT
alone 70.5, MMLU 49.3 from 42.3 (13B; Tülu, arXiv 2306.04751).
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import variant


def get_config(name="llama-7b"):
    variant(name, ("llama-7b", "llama-13b"))
    return ConfigDict({
        "name": f"vicuna-{name}",
        "model": {"preset": name},
        "epochs": 3.0,
        "mesh": "fsdp:-1",
        "data": {"context": 2048, "batch": 128, "too_long": "truncate"},
        "optimizer": {"learning_rate": 2e-5, "beta2": 0.999, "warmup": 0.03, "schedule": "cosine", "weight_decay": 0.0},
        "compute_dtype": "bfloat16", "remat": "full", "log_every": 1, "checkpoint_every": 200,
    })
