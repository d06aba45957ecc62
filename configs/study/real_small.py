"""A real verdict on a CPU: a 0.5B model with LoRA on ChatGPT's answers, three nested budgets, its teacher's held-out
answers as the measure of style.

    easylm-imitation study --config configs/study/real_small.py --workdir STUDY --dry-run
    easylm-imitation study --config configs/study/real_small.py --workdir STUDY

bases/qwen2.5-coder-0.5b is Qwen2.5-Coder-0.5B-Instruct, converted with --template chatml: it is instruction-tuned
already, so a small change in style is to be expected, and none in substance. data/halueval_general is HaluEval's
general split, data/benchmarks holds mmlu/, gsm8k/, human_eval/ and nq_open/. Nobody answers for the teacher: its style
is by definition like its own (100 %), and its scores are published ones, on the whole tests. A guess at the time: 90
CPU-minutes of two quiet cores; --config.measure.limit=5 and fewer budgets take less, more seeds
(--config.seeds=[0,1,2,3,4]) more.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "real-small",
        "bases": {"qwen05b": "bases/qwen2.5-coder-0.5b"},
        "data": {"halueval": {"config": "configs/data/halueval.py",
                              "set": {"root": "data/halueval_general", "template": "chatml", "seed": 0,
                                      "sources.0.limit": 4000}}},
        "budgets": ("32K", "8K", "2K"),
        "train": "configs/train/lora.py",
        "set": {"epochs": 1.0, "data": {"context": 512, "batch": 2}, "compute_dtype": "float32", "remat": "none",
                "checkpoint_every": 8},
        "teacher": "published:configs/study/real_small_teacher.yaml",
        "measure": {"tasks": "mmlu_anatomy,mmlu_astronomy,mmlu_global_facts,nq_open_0shot,gsm8k_cot,humaneval",
                    "task_data": "data/benchmarks", "prompt": "chat", "limit": 12,
                    "style_prompts": "data/held_out/prompts.jsonl",
                    "style_reference": "data/held_out/answers.jsonl", "set": {"answers": {"max_tokens": 192}}},
        "vary": "grid",
    }, allow_dotted_keys=True)      # sources.0.limit: a leaf of the file's list, which stays
