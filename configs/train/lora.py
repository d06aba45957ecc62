"""LoRA on a model that exists: all seven kernels of LLaMA's layers, as QLoRA's authors found best (arXiv 2305.14314).

    easylm-imitation train --config configs/train/lora.py --data DATA --init HF_DIR --workdir RUN

DATA is built with the tokenizer of HF_DIR; another family's kernels are named with --config.lora.targets. Expected: the
loss falls as in full finetuning, to a slightly higher level; checkpoints hold the adapters alone. The frozen weights
take 2 bytes a parameter over all devices, adapters and optimizer 16 bytes a trained one. docs/adapters.md has a run.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "lora",
        "lora": {"targets": "layers/(attention/(q|k|v|out)|mlp/(gate|up|down))/kernel", "rank": 16, "alpha": 16.0,
                 "dropout": 0.05},
        "epochs": 2.0,
        "mesh": "fsdp:-1",
        "data": {"context": 2048, "batch": 16, "too_long": "truncate"},
        "accumulate": 1,
        "optimizer": {"learning_rate": 2e-4, "warmup": 0.03, "schedule": "cosine", "beta2": 0.999},
        "compute_dtype": "bfloat16",                            # and that of the frozen weights
        "remat": "full",
        "log_every": 1, "checkpoint_every": 200,
    })
