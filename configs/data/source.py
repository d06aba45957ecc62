r"""One public dataset alone, by its name in easylm_imitation/data/public.py, as it is: no rules, nothing drawn.

    easylm-imitation build --config configs/data/source.py:dolly --config.root=DIR --config.tokenizer=TOKENIZER \
        --out DATA

DIR holds its files under the paths of that table (dolly/databricks-dolly-15k.jsonl); when they are missing, the error
says where they come from. Names: sharegpt, sharegpt-html, hc3, discord, alpaca, gpt4-alpaca, code-alpaca,
self-instruct, unnatural, dolly, oasst1, baize, superni, flan, flan-cot, gpt4all, openorca-gpt3.5, openorca-gpt4, lima,
oig, hh, webgpt, summaries, koala-identity. Expected: a conversation for each record (dolly: 15,011), more where a
record holds several.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import public


def get_config(name="dolly"):
    return ConfigDict({
        "name": name,
        "root": "data/public",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "plain",
        "sources": public(name),
    })
