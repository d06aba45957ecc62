"""Full finetuning of a model that exists, on imitation data: the recipe of Vicuna and Tülu at 7B.

    easylm-imitation train --config configs/train/finetune.py --data DATA --init HF_DIR --workdir RUN

DATA is built with the tokenizer of HF_DIR. Expected: the loss falls by a few tenths within the first tens of updates,
then slowly; RUN is a model for `serve`, `evaluate` and `convert`. Weights and optimizer take 12 bytes a parameter over
all devices.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "finetune",
        "epochs": 2.0,
        "mesh": "fsdp:-1",
        "data": {"context": 2048, "batch": 128, "too_long": "truncate"},
        "accumulate": 1,                                        # raise it until a micro-batch fits
        "optimizer": {"learning_rate": 2e-5, "warmup": 0.03, "schedule": "linear", "weight_decay": 0.0},
        "compute_dtype": "bfloat16",
        "remat": "full",
        "log_every": 1, "checkpoint_every": 200,
    })
