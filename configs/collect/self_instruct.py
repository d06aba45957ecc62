"""Self-Instruct's data: instructions from seeds and from earlier inventions, then instances of each.

Command:
    easylm-imitation collect --config configs/collect/self_instruct.py --teacher https://HOST/v1 --config.model=NAME \
        --prompts seed_tasks.jsonl --out self_instruct.jsonl
seed_tasks.jsonl: data/seed_tasks.jsonl of github.com/yizhongw/self-instruct (Apache-2.0), or your own in its form.
Result: self_instruct.jsonl, 82,000 instances of about 52,000 instructions; two requests for each instruction and one
for every eight. Here a request shows what was answered before, so `window` belongs to the recipe: it cannot be changed
between the parts of one collection.
"""
import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.recipe = "self-instruct"
    config.dataset = "self-instruct"
    config.rows = 82_000
    config.window = 16
    config.seeds_shown = 6
    config.invented_shown = 2
    config.instructions = 8
    config.instances = 5
    config.rouge = 0.7
    config.temperature = 0.7
    config.max_tokens = 1024
    config.seed = 0
    return config
