"""GPT4All's first model: LLaMA-7B's q and v projections on GPT-3.5's answers, given away in four bits.

    easylm-imitation train --config configs/recipes/gpt4all.py:llama-7b --data DATA --init HF_DIR --workdir RUN
    easylm-imitation convert --from RUN --to MERGED --format hf --dtype bfloat16 --lossy dtype
    easylm-imitation convert --from MERGED --to gpt4all.gguf --format gguf --dtype q4_0

DATA: configs/data/gpt4all.py with that base's tokenizer. As published (nomic-ai/gpt4all, finetune_lora.yaml): rank 8,
alpha 32, dropout 0.1, rows of 1,024 tokens, 4 a device, two epochs at 5e-5 after 100 updates of warm-up; their 8
devices make batches of 32. Rows are padded, as there. Expected (their report, 2023): eight hours on eight A100, about
$100; lower perplexity of the ground truth of Self-Instruct's 252 tasks than alpaca-lora, as a figure without numbers.
4,194,304 trained parameters.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import variant


def get_config(name="llama-7b"):
    variant(name, ("llama-7b",))
    return ConfigDict({
        "name": "gpt4all-lora",
        "seed": 42,
        "model": {"preset": name},
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
