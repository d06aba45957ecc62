"""A real verdict on a CPU: a 0.5B model with LoRA, and one of 8M parameters that was trained from scratch with all its
weights, on ChatGPT's answers at three nested budgets; the teacher's held-out answers are the measure of style.

    easylm-imitation study --config configs/study/real_small.py --workdir STUDY --dry-run
    easylm-imitation study --config configs/study/real_small.py --workdir STUDY

bases/qwen2.5-coder-0.5b is Qwen2.5-Coder-0.5B-Instruct, converted with --template chatml: it is instruction-tuned
already, so a small change in style is to be expected, and none in substance. bases/scratch is trained as docs/study.md
says. data/halueval_general is HaluEval's general split, data/benchmarks holds mmlu/, gsm8k/, human_eval/ and nq_open/.
Nobody answers for the teacher: its style is by definition like its own (100 %), and its scores are published ones, on
the whole tests. With --config.measure.limit=30 two quiet cores take about two hours; 5 and fewer budgets take less,
more seeds (--config.seeds=[0,1,2,3,4]) more.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "real-small",
        "bases": {"qwen05b": "bases/qwen2.5-coder-0.5b", "scratch": "bases/scratch"},
        "set_by_base": {"scratch": {"lora": None, "optimizer": {"learning_rate": 5e-4}}},
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
