"""Dialogues in Baize's manner: from a seed topic the teacher writes both sides, which are read into turns.

Command:
    easylm-imitation collect --config configs/collect/self_chat.py --teacher https://HOST/v1 --config.model=NAME \
        --prompts topics.jsonl --out self_chat.jsonl
topics.jsonl: a topic or question a line, {"id": "t0", "prompt": "..."}; Baize took questions of Quora, Stack Overflow
and MedQuAD, 210,000 dialogues of 3.1 rounds in all.
Result: self_chat.jsonl, a conversation of several rounds for each topic.
"""
import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.recipe = "self-chat"
    config.dataset = "self-chat"
    config.rounds = 1
    config.temperature = 1.0
    config.max_tokens = 2048
    config.tries = 3
    config.seed = 0
    return config
