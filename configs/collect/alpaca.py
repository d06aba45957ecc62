"""Alpaca's data: 52,000 instructions with inputs and outputs, invented by the teacher from 175 seed tasks.

Command:
    easylm-imitation collect --config configs/collect/alpaca.py --teacher https://HOST/v1 --config.model=NAME \
        --prompts seed_tasks.jsonl --out alpaca.jsonl
seed_tasks.jsonl: data/seed_tasks.jsonl of github.com/yizhongw/self-instruct (Apache-2.0), or your own in its form. For
a model without chat, such as the davinci that Alpaca asked: --config.api=completions.
Result: alpaca.jsonl, 52,000 conversations; no instruction has a ROUGE-L above 0.7 with any before it. About 17 tasks an
answer, of which strong models lose a third or so to the filters: 4,500 requests.
"""
import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.recipe = "alpaca"
    config.dataset = "alpaca"
    config.rows = 52_000
    config.shots = 3
    config.tasks = 20
    config.rouge = 0.7
    config.temperature = 1.0
    config.top_p = 1.0
    config.max_tokens = 3072
    config.stop = ["\n21.", "21. Instruction"]
    config.seed = 0
    return config
