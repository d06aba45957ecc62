"""`reproduce` in its smallest form, for continuous integration: every stage, sizes that take under two minutes.

    easylm-imitation reproduce --config configs/reproduce/ci.py --workdir runs/reproduce-ci
"""
from ml_collections import ConfigDict


def _training(steps, learning_rate, mesh):
    return {"steps": steps, "data": {"context": 128, "batch": 8}, "compute_dtype": "float32", "remat": "none",
            "mesh": mesh, "log_every": 50, "checkpoint_every": steps, "keep": 1,
            "optimizer": {"learning_rate": learning_rate, "warmup": 0.1, "final": 0.1, "weight_decay": 0.1}}


def get_config():
    return ConfigDict({
        "world": {"entities": 40, "attributes": 3, "values": 8, "chats": 600, "vocabulary": 512, "prompts": 120,
                  "style_prompts": 24},
        "model": {"family": "llama", "context": 160, "layers": 2, "d_model": 48, "heads": 2, "d_ff": 144,
                  "init_std": 0.1},
        "base": _training(250, 5e-3, "data:1"),
        "teacher": _training(450, 5e-3, "data:1"),
        "imitation": _training(80, 1e-3, "fsdp:-1"),
    })
