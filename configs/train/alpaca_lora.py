"""Alpaca-LoRA: LLaMA-7B's q and v projections on Alpaca's 52k instructions (github.com/tloen/alpaca-lora, finetune.py).

    easylm-imitation train --config configs/train/alpaca_lora.py --data DATA --init LLAMA_7B_HF_DIR --workdir RUN

DATA is Alpaca's file, built with that base's tokenizer and the template "alpaca". The published defaults: rank 8, alpha
16, dropout 0.05, 128 rows of 256 tokens, three epochs at 3e-4 after 100 updates of warm-up, torch's AdamW. Not the
same: theirs has loss on the instructions, too, and the frozen weights in int8. The adapters that the authors handed out
are of a later run: --config.lora.targets='layers/attention/.*/kernel' --config.lora.rank=16 --config.epochs=10.0
--config.data.context=512. Expected: 4,194,304 trained parameters; not run here for want of LLaMA's weights.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "alpaca-lora",
        "lora": {"targets": "layers/attention/(q|v)/kernel", "rank": 8, "alpha": 16.0, "dropout": 0.05},
        "epochs": 3.0,
        "mesh": "fsdp:-1",
        "data": {"context": 256, "batch": 128, "packing": "none", "too_long": "truncate"},
        "accumulate": 1,
        "optimizer": {"learning_rate": 3e-4, "warmup": 100.0, "schedule": "linear", "beta2": 0.999},
        "compute_dtype": "bfloat16",
        "remat": "full",
        "log_every": 10, "checkpoint_every": 200,
    })
