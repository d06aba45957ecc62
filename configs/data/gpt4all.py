"""GPT4All: pairs of GPT-3.5-Turbo, without P3 and without refusals.

    easylm-imitation build --config configs/data/gpt4all.py --config.root=DIR --config.tokenizer=TOKENIZER --out DATA

DIR holds gpt4all/data/*.parquet of hf://datasets/nomic-ai/gpt4all_prompt_generations. Expected: 437,605 pairs read (the
published file has no P3 any more; of the raw one with 806K, the option `without` leaves it out). The rule is that of
GPT4All-J v1.1 (breezy) and v1.2 (jazzy), which dropped answers with "AI language model", and then those with
"I'm sorry, I can't answer" too. More refusals go with `"clean": ["refusals", "identity", "diversity"]`.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import public


def get_config():
    return ConfigDict({
        "name": "gpt4all",
        "root": "data/public",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "gpt4all",
        "seed": 0,
        "sources": public("gpt4all", options={"without": ["bigscience/p3"]}),
        "clean": [{"rule": "refusals", "like": "gpt4all"}, "diversity"],
    })
