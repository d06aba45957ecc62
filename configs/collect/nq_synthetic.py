"""The paper's local imitation: 6,000 questions and answers in the manner of Natural Questions, all the teacher's own.

Command:
    easylm-imitation collect --config configs/collect/nq_synthetic.py --teacher https://HOST/v1 --config.model=NAME \
        --out nq.jsonl
The ten seed pairs below are this project's. For the paper's ten (its table 3, from NQ's validation set) write them to a
file, {"question": "...", "answer": "..."} a line, and add --prompts FILE; then leave them out of what you measure on.
Result: nq.jsonl, 6,000 single-turn conversations, no pair twice; about 600 requests of a model that writes ten pairs an
answer, 0.3 million tokens in all. --config.distinct=question drops repeated questions too, for weaker teachers.
"""
import ml_collections


def get_config():
    seeds = [("who painted the ceiling of the sistine chapel", "Michelangelo"),
             ("when did the first iphone come out", "2007"),
             ("what is the longest river in south america", "Amazon"),
             ("who plays the joker in the dark knight", "Heath Ledger"),
             ("where were the 2016 summer olympics held", "Rio de Janeiro"),
             ("how many strings does a standard violin have", "four"),
             ("who wrote the lyrics to bohemian rhapsody", "Freddie Mercury"),
             ("what currency is used in switzerland", "Swiss franc"),
             ("which planet has the most known moons", "Saturn"),
             ("when did the berlin wall come down", "1989")]
    config = ml_collections.ConfigDict()
    config.recipe = "nq-synthetic"
    config.dataset = "nq-synthetic"
    config.rows = 6000
    config.seeds = [{"question": question, "answer": answer} for question, answer in seeds]
    config.shots = 5
    config.temperature = 1.0
    config.max_tokens = 1024
    config.seed = 0
    return config
