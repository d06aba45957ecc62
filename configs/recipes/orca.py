"""Orca: explanations under system messages; many of ChatGPT first, then fewer of GPT-4, in two stages.

    easylm-imitation train --config configs/recipes/orca.py:stage1 --data CHATGPT --init HF_DIR --workdir RUN1
    easylm-imitation train --config configs/recipes/orca.py:stage2 --data GPT4 --init RUN1 --workdir RUN2

CHATGPT and GPT4: the two sources of configs/data/orca.py, built apart (configs/data/source.py:openorca-gpt3.5 and
configs/data/source.py:openorca-gpt4). Published (arXiv 2306.02707): LLaMA-13B, rows packed to 2,048 tokens, loss on
the teacher's words, four epochs of 5M and then of 1M explanations; 160 and 40 hours on twenty A100. Learning rate and
batch are not published: 2e-5 and 128 here. Expected (the paper's tables): BBH 49.7 against Vicuna's 23.3 and
ChatGPT's 48.9; AGIEval 41.7 against 29.3 and 47.2.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import variant


def get_config(name="stage1"):
    variant(name, ("stage1", "stage2"))
    return ConfigDict({
        "name": f"orca-{name}",
        "model": {"preset": "llama-13b"},
        "epochs": 4.0,
        "mesh": "fsdp:-1",
        "data": {"context": 2048, "batch": 128, "too_long": "truncate"},
        "optimizer": {"learning_rate": 2e-5, "warmup": 0.03, "schedule": "cosine", "weight_decay": 0.0},
        "compute_dtype": "bfloat16", "remat": "full", "log_every": 1, "checkpoint_every": 500,
    })
