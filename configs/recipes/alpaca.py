"""Stanford Alpaca: 52,002 instructions of text-davinci-003, LLaMA in full.

    easylm-imitation train --config configs/recipes/alpaca.py:llama-7b --data DATA --init HF_DIR --workdir RUN

DATA: configs/data/source.py:alpaca with --config.template=alpaca --config.sources.0.options.encoding=alpaca (two
prompts, with an input and without, as published), or data of your own made by configs/collect/alpaca.py. As published:
512 tokens, 128 rows an update, 3 epochs at 2e-5 (13B: 5 epochs at 1e-5), cosine after 3 % of warm-up, no weight decay.
Rows are packed here and were padded there, so an update reads more examples; --config.data.packing=none pads.
Expected: MMLU of llama-13b 42.3 before, 45.0 after; AlpacaEval 21.9 (Tülu,
arXiv 2306.04751, which trained it by its own recipe).
"""
from ml_collections import ConfigDict

from easylm_imitation.data.public import variant


def get_config(name="llama-7b"):
    variant(name, ("llama-7b", "llama-13b"))
    large = name == "llama-13b"
    return ConfigDict({
        "name": f"alpaca-{name}",
        "model": {"preset": name},
        "epochs": 5.0 if large else 3.0,
        "mesh": "fsdp:-1",
        "data": {"context": 512, "batch": 128, "too_long": "truncate"},
        "optimizer": {"learning_rate": 1e-5 if large else 2e-5, "beta2": 0.999, "warmup": 0.03, "schedule": "cosine",
                      "weight_decay": 0.0},
        "compute_dtype": "bfloat16", "remat": "full", "log_every": 1, "checkpoint_every": 200,
    })
