"""The second local imitation set of the paper's ICLR version: the teacher's summaries of given passages.

Command:
    easylm-imitation collect --config configs/collect/tldr_synthetic.py --teacher https://HOST/v1 --config.model=NAME \
        --prompts passages.jsonl --out tldr.jsonl
passages.jsonl holds a passage a line, {"id": "t0", "prompt": "..."}: the paper took 200,000 of the TL;DR set (Völske et
al. 2017, on the hub as webis/tldr-17). It does not print its prompt; the one below is this project's.
Result: tldr.jsonl, a conversation for each passage, in their order.
"""
import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.recipe = "answers"
    config.dataset = "tldr-synthetic"
    config.ask_as = "Summarize the following post in one or two sentences.\n\n{prompt}\n\nTL;DR:"
    config.temperature = 0.7
    config.max_tokens = 256
    config.tries = 3
    config.seed = 0
    return config
