"""Koala's mixture: ShareGPT, HC3, Alpaca, five sets of OIG, and human preferences with a marker of bad answers.

    easylm-imitation build --config configs/data/koala.py --config.root=DIR --config.tokenizer=TOKENIZER --out DATA

DIR holds
    sharegpt/sg_90k_part{1,2}.json   hf://datasets/RyokoAI/ShareGPT52K
    hc3/all.jsonl                    hf://datasets/Hello-SimpleAI/HC3
    alpaca/alpaca_data.json          github.com/tatsu-lab/stanford_alpaca
    oig/unified_*.jsonl              hf://datasets/laion/OIG (basic, grade_school_math_instructions,
                                     plot_screenplay_books_dialog, poetry_2_song, hc3_human)
    hh/*/train.jsonl.gz              hf://datasets/Anthropic/hh-rlhf (four folders)
    webgpt/*.parquet                 hf://datasets/openai/webgpt_comparisons
    summaries/*.json                 OpenAI's summarize-from-feedback comparisons
    koala/hard_coded_train.jsonl     written by process_hard_coded_data.py of github.com/young-geng/koala_data_pipeline,
                                     each identity dialogue five times
`:distill` takes what teachers wrote alone (ShareGPT, HC3, Alpaca). Expected: about 30K dialogues of ShareGPT after the
rules, 27K answers of ChatGPT in HC3 (Koala's blog counts 60K of people beside them), 52,002 of Alpaca. Dialogues that
name OpenAI's models are dropped as in the pipeline; what it meant to replace in OIG and did not, is replaced here.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import public, variant


def get_config(which="all"):
    variant(which, ("all", "distill"))
    dialogues = ["html", "roles", "language", {"rule": "identity", "like": "koala"}, "same-query"]
    teachers = [*public("sharegpt-html", clean=dialogues), *public("hc3", options={"human": which == "all"}),
                *public("alpaca")]
    people = [*public("oig"), *public("hh"), *public("webgpt"), *public("summaries"), *public("koala-identity")]
    return ConfigDict({
        "name": "koala",
        "root": "data/public",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "koala",
        "seed": 0,
        "sources": teachers + (people if which == "all" else []),
        "clean": [{"rule": "split", "tokens": 2048}, "diversity"],
    })
