"""Tülu's whole mixture, people and GPT: its human mixture, GPT4-Alpaca, Code-Alpaca and ShareGPT.

    easylm-imitation build --config configs/data/tulu.py --config.root=DIR --config.tokenizer=TOKENIZER --out DATA

DIR holds what configs/data/tulu_human.py names, and
    gpt4_alpaca/alpaca_gpt4_data.json                  github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM
    code_alpaca/code_alpaca_20k.json                   github.com/sahil280114/codealpaca
    sharegpt/sg_90k_part{1,2}_html_cleaned.json        hf://datasets/anon8231489123/ShareGPT_Vicuna_unfiltered
Expected, by the paper: 249,806 + 52,002 + 20,022 + 168,864 = 490,694 conversations, with LLaMA's tokenizer. ShareGPT is
split to 2,048 tokens as open-instruct does, but the last rounds that it lost stay: somewhat more than 168,864.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import cot, flan_v2, public


def get_config():
    worded = {"encoding": "tulu"}
    split = ["roles", {"rule": "split", "tokens": 2048, "long_round": "drop"}]
    return ConfigDict({
        "name": "tulu",
        "root": "data/public",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "tulu",
        "seed": 42,
        "sources": [*flan_v2(100_000, {"like": "open-instruct"}), *cot(100_000, {"like": "open-instruct"}),
                    *public("dolly", options=worded), *public("oasst1", options={"like": "open-instruct"}),
                    *public("gpt4-alpaca", options=worded), *public("code-alpaca", options=worded),
                    *public("sharegpt", clean=split)],
        "clean": ["diversity"],
    })
