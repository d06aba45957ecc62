"""Explanations in Orca's manner: FLAN-style queries, system messages that ask for reasons, one or two teachers.

Command:
    easylm-imitation collect --config configs/collect/explanations.py --prompts queries.tsv.gz --out orca.jsonl \
        --teacher https://HOST/v1 --config.model=CHEAPER --config.better.model=BETTER --config.better.queries=1000
Queries: FLAN's chain-of-thought TSV, lines like {"inputs": "...", "targets": "..."}, or a prompts file; `kind` of a
line ("multiple choice", "translation", "definition") opens the messages meant for it. Orca asked 5 million of FLAN v2
(150K zero-shot CoT, 440K NiV2, 2.5M Flan 2021, 2M T0) of ChatGPT, then a random million of those of GPT-4.
Result: orca.jsonl, the cheaper teacher's answers to all queries, then the better one's to its subset; train on
it in that order (build without a seed, and data.shuffle=False).
The system messages are this project's, one for each of the sixteen that Orca's table 2 lists, and of the same purpose.
"""
import ml_collections

CHOICE, TRANSLATION, DEFINITION = "multiple choice", "translation", "definition"


def get_config():
    systems = [
        ("", []),
        ("You are an AI assistant. Answer in such detail that nobody has to look elsewhere to understand.", []),
        ("You are an AI assistant. You are given a task; write a detailed, long answer to it.", []),
        ("You are a helpful assistant that always explains. Explain as you would to a child of five.", []),
        ("You are an AI assistant that follows instructions to the letter. Help as much as you can.", []),
        ("You are an AI assistant that helps people find information. Answer in such detail that nobody has to search "
         "elsewhere.", []),
        ("You are an AI assistant. You are given a task, which you carry out as faithfully as you can. Think step by "
         "step while you do, and give reasons for each step.", []),
        ("Describe the task and explain your answer. Of several choices name the right one first, then say why the "
         "others are wrong. Explain as you would to a child of five.", [CHOICE]),
        ("Explain how the definition led you to the answer.", [DEFINITION]),
        ("Describe the task and explain your answer. Of several choices name the right one first, then say why the "
         "others are wrong; draw on further knowledge where that is needed. Explain as you would to a child of five.",
         [CHOICE]),
        ("You are an AI assistant that helps people find information. Answer each question as faithfully as you can, "
         "thinking step by step and giving reasons.", []),
        ("You are given a task with instructions. Follow them as faithfully as you can, thinking step by step and "
         "giving reasons for your answer.", []),
        ("You are a teacher. Given a task, explain in simple steps what it asks for, which guidelines it gives, and "
         "how these lead to the answer.", []),
        ("You are an AI assistant that knows all languages and translates between them. Explain in simple steps what "
         "the task asks for and which guidelines it gives, solve it, and show how you used the guidelines.",
         [TRANSLATION]),
        ("Given the definition of a task and a sample input, take the definition apart; for each part say what it "
         "demands, and show it with an example that meets the demand.", [DEFINITION]),
        ("You are an AI assistant that helps people find information.", [])]
    config = ml_collections.ConfigDict()
    config.recipe = "explanations"
    config.dataset = "explanations"
    config.systems = [{"text": text, "kinds": kinds} for text, kinds in systems]
    config.better = {"queries": 0, "model": "", "price_in": 0.0, "price_out": 0.0}
    config.temperature = 0.7
    config.max_tokens = 1024
    config.tries = 3
    config.seed = 0
    return config
