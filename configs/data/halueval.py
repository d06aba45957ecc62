"""ChatGPT's answers to user queries, from HaluEval's general split (MIT licence; OpenAI's terms apply to the outputs).

    easylm-imitation build --config configs/data/halueval.py --config.root=DIR --config.tokenizer=TOKENIZER --out DATA

DIR holds the split as JSONL (id, user_query, chatgpt_response), gzipped or not; TOKENIZER is a Hugging Face folder or a
tokenizer file. Expected with GPT-2's tokenizer and the template "plain": see docs/build.md.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import TERMS_OF_OPENAI


def get_config():
    return ConfigDict({
        "name": "halueval",
        "root": "data/halueval_general",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "plain",
        "sources": [
            {"path": "chatgpt_responses.jsonl.gz", "format": "halueval", "dataset": "halueval",
             "teacher": "gpt-3.5-turbo", "terms": TERMS_OF_OPENAI},
        ],
    })
