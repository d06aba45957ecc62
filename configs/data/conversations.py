"""One file of conversations, such as `collect` writes, under the template `plain`; made to be overridden.

    easylm-imitation build --config configs/data/conversations.py --config.tokenizer=TOKENIZER --out DATA

reads ./answers.jsonl. --config.root=DIR is the folder that it stands in, --config.template=chatml another template.
Expected: a table of what was read, kept and dropped; DATA/card.json with counts of conversations and tokens.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "answers",
        "root": ".",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "plain",
        "sources": [{"path": "answers.jsonl", "format": "conversations"}],
    })
