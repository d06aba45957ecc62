"""Orca-style: explanations with system messages, many of ChatGPT first, then those of GPT-4, in that order.

    easylm-imitation build --config configs/data/orca.py --config.root=DIR --config.tokenizer=TOKENIZER --out DATA

DIR holds openorca/3_5M-GPT3_5-Augmented.parquet and openorca/1M-GPT4-Augmented.parquet of
hf://datasets/Open-Orca/OpenOrca. Each part is shuffled, the first stands before the second; train with
data.shuffle=False to keep that curriculum. Expected: 1,000,000 conversations, drawn 4 to 1 (Orca's own are 5M and 1M,
four epochs of the first, then four of the second).
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import public


def get_config():
    return ConfigDict({
        "name": "orca",
        "root": "data/public",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "vicuna",
        "seed": 0,
        "order": "sources",
        "sources": [*public("openorca-gpt3.5", sample=800_000), *public("openorca-gpt4", sample=200_000)],
        "clean": ["diversity"],
    })
