"""Figure 4 of "The False Promise": three bases, four amounts of ShareGPT-like data, and local imitation beside it.

    easylm-imitation study --config configs/study/figure4.py --workdir STUDY --dry-run
    easylm-imitation study --config configs/study/figure4.py --workdir STUDY

Bases are Hugging Face dirs below bases/ (gpt2-xl, llama-7b, llama-13b); data/public holds what
configs/data/sharegpt_mix.py asks for, nq.jsonl is what configs/collect/nq_synthetic.py made. The teacher answers the
style prompts through its API (OPENAI_API_KEY). `vary` "one" keeps the cells that differ from the first in one axis: the
budgets with the largest base, the other bases with the largest budget, local imitation; --config.vary=grid takes all.
Several seeds: --config.seeds=[0,1,2,3,4]. Expected, as in the paper: style and preference rise at once and stay;
substance does not rise with the budget, and rises with the base.
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "name": "figure4",
        "bases": {"llama13b": "bases/llama-13b", "llama7b": "bases/llama-7b", "gpt2xl": "bases/gpt2-xl"},
        "data": {
            "sharegpt": {"config": "configs/data/sharegpt_mix.py", "set": {"root": "data/public"}},
            "nq": {"config": "configs/data/conversations.py",
                   "set": {"name": "nq-synthetic", "sources": [{"path": "nq.jsonl"}], "template": "paper", "seed": 0},
                   "inside": ("nq_open*",)},
        },
        "budgets": ("150M", "80M", "20M", "0.3M"),
        "train": "configs/train/finetune.py",
        # the paper: blocks of 2,048 tokens (GPT-2: 1,024), one epoch, 32 rows an update
        "set": {"epochs": 1.0, "data": {"context": 2048, "batch": 32}},
        "set_by_base": {"gpt2xl": {"data": {"context": 1024}}},
        "teacher": "https://api.openai.com/v1",
        "measure": {"suite": "paper", "task_data": "data/benchmarks", "prompt": "both",
                    "style_prompts": "prompts.jsonl"},
        "vary": "one",
    })
