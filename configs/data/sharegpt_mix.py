r"""ShareGPT-Mix, the paper's broad imitation set: user-shared ChatGPT dialogues, HC3's ChatGPT answers, Discord pairs.

    easylm-imitation build --config configs/data/sharegpt_mix.py --config.root=DIR --config.tokenizer=TOKENIZER \
        --out DATA

DIR holds
    sharegpt/sg_90k_part{1,2}.json   hf://datasets/RyokoAI/ShareGPT52K (raw HTML)
    hc3/all.jsonl                    hf://datasets/Hello-SimpleAI/HC3
    discord/pairs.jsonl              nowhere public; {"prompt", "completion"} lines of your own, 10,000 are drawn;
                                     `configs/data/sharegpt_mix.py:public` leaves the source out
Missing files are named, all at once. Budgets of the paper's scaling axis: --config.budget=20M, 80M or 150M, each the
beginning of the next (0.3M is its NQ-synthetic, 6,000 rows that `collect` makes). Expected, by the paper's figures: of
about 90K dialogues some 50K stay after the same-query and language rules, 27K answers of HC3, 10K pairs; all three some
150M tokens; the mean BLEU of a query to its nearest other one (on the card) was 8 %. The paper names neither
its language detector nor what it did to HTML.
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import public, variant


def get_config(which="all"):
    variant(which, ("all", "public"))
    dialogues = public("sharegpt-html", clean=["html", "roles", "language", "same-query"])
    pairs = public("discord", sample=10_000) if which == "all" else []
    return ConfigDict({
        "name": "sharegpt-mix",
        "root": "data/public",
        "tokenizer": "data/tokenizers/gpt2",
        "template": "vicuna",
        "seed": 0,
        "sources": [*dialogues, *public("hc3"), *pairs],
        "clean": [{"rule": "split", "tokens": 2048}, "diversity"],
    })
