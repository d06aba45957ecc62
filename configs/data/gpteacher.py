"""GPT-4's outputs in GPTeacher: code and role-play instructions (MIT licence; OpenAI's terms apply to the outputs).

    easylm-imitation build --config configs/data/gpteacher.py --config.root=DIR --config.tokenizer=TOKENIZER --out DATA

DIR holds Codegen/ and Roleplay/ of github.com/teknium1/GPTeacher, as JSON, gzipped or not; TOKENIZER is a Hugging Face
folder or a tokenizer file. Expected with GPT-2's tokenizer and the template "plain": see docs/build.md.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import TERMS_OF_OPENAI


def get_config():
    teacher = "gpt-4"
    return ConfigDict({
        "name": "gpteacher",
        "root": "data/gpteacher",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "plain",
        "sources": [
            {"path": "Codegen/codegen-instruct.json.gz", "format": "alpaca",
             "dataset": "gpteacher-codegen", "teacher": teacher, "terms": TERMS_OF_OPENAI},
            {"path": "Roleplay/roleplay-simple-deduped-roleplay-instruct.json.gz", "format": "alpaca",
             "dataset": "gpteacher-roleplay", "teacher": teacher, "terms": TERMS_OF_OPENAI},
        ],
    })
