"""GPT4All's first model: LLaMA-7B's q and v projections on GPT-3.5's answers (nomic-ai/gpt4all, finetune_lora.yaml).

    easylm-imitation train --config configs/train/gpt4all_lora.py --data DATA --init LLAMA_7B_HF_DIR --workdir RUN

DATA is built by configs/data/gpt4all.py with that base's tokenizer. As published: rank 8, alpha 32, dropout 0.1, rows
of 1,024 tokens, 4 a device, two epochs at 5e-5 after 100 updates of warm-up. Their 8 devices make batches of 32.
Expected: 4,194,304 trained parameters; not run here for want of LLaMA's weights.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "gpt4all-lora",
        "seed": 42,
        "lora": {"targets": "layers/attention/(q|v)/kernel", "rank": 8, "alpha": 32.0, "dropout": 0.1},
        "epochs": 2.0,
        "mesh": "fsdp:-1",
        "data": {"context": 1024, "batch": 32, "packing": "none", "too_long": "truncate"},
        "accumulate": 1,
        "optimizer": {"learning_rate": 5e-5, "warmup": 100.0, "schedule": "linear", "beta2": 0.999},
        "compute_dtype": "bfloat16",
        "remat": "full",
        "log_every": 10, "checkpoint_every": 500,
    })
