"""Tülu's mixture of what people wrote: FLAN v2, chains of thought, Dolly, Open Assistant.

    easylm-imitation build --config configs/data/tulu_human.py --config.root=DIR --config.tokenizer=TOKENIZER --out DATA

DIR holds
    flan/{flan2021,t0,niv2,cot,dialog}/data/*.parquet   hf://datasets/DataProvenanceInitiative/NAME_submix_original
    dolly/databricks-dolly-15k.jsonl                    hf://datasets/databricks/databricks-dolly-15k
    oasst1/2023-04-12_oasst_ready.trees.jsonl.gz        hf://datasets/OpenAssistant/oasst1
Wordings and the treatment of paths are open-instruct's. Expected, by the paper's Table 1: 100,000 + 100,000 + 15,011 +
34,795 = 249,806 conversations (a path that ends in a question counts or not by its version of the code).
FLAN's files hold millions of rows of which 100,000 are drawn: count in hours.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import cot, flan_v2, public


def get_config():
    return ConfigDict({
        "name": "tulu-human",
        "root": "data/public",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "tulu",
        "seed": 42,
        "sources": [*flan_v2(100_000, {"like": "open-instruct"}), *cot(100_000, {"like": "open-instruct"}),
                    *public("dolly", options={"encoding": "tulu"}),
                    *public("oasst1", options={"like": "open-instruct"})],
        "clean": ["diversity"],
    })
