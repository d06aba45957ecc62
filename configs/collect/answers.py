"""Answers of a stronger model to a file of prompts: the paper's broad imitation data, one sample each.

Command:
    easylm-imitation collect --config configs/collect/answers.py --teacher https://HOST/v1 \
        --config.model=NAME --prompts prompts.jsonl --out answers.jsonl
The key of the endpoint is read from $OPENAI_API_KEY. Set the prices of your teacher and a ceiling before a long run:
    --config.price_in=2.5 --config.price_out=10 --config.budget_cost=20
Result: answers.jsonl, a conversation a line in the order of the prompts, and answers.jsonl.ledger.jsonl, every request
with its tokens and cost. The same command after an interruption asks only what is missing.
"""
import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.recipe = "answers"
    config.dataset = "answers"
    config.samples = 1
    config.temperature = 0.7
    config.max_tokens = 1024
    config.tries = 3
    config.empty = "drop"
    config.truncated = "drop"
    config.concurrency = 8
    return config
