"""Full finetuning of any published base model on imitation data; the base's name follows the file's.

    easylm-imitation train --config configs/train/base.py:llama-2-7b --data DATA --init HF_DIR --workdir RUN

HF_DIR holds that base, or a finetune of its shape (Vicuna, Alpaca, Koala, Tülu): another model is refused before any
work; one that reads rows of another length (longer finetunes, Qwen3's Base) needs its own, as in
--config.model.context=32768. Without --init the model starts from nothing. docs/models.md lists the names. Expected:
the loss falls by a few tenths within the first tens of updates, then slowly. Weights, gradients and optimizer take 16
bytes a parameter over all devices.
"""
from ml_collections import ConfigDict

from easylm_imitation.models import PRESETS
from easylm_imitation.schema import UserError, nearest


def get_config(name=""):
    if name not in PRESETS:
        raise UserError(f"'{name}' is no base model; name one as in base.py:llama-2-7b{nearest(name, PRESETS)}")
    size = PRESETS[name].parameters()
    return ConfigDict({
        "name": name,
        "model": {"preset": name},
        "epochs": 2.0,
        "mesh": "fsdp:-1",
        "data": {"context": min(2048, PRESETS[name].context), "batch": 128, "too_long": "truncate"},
        "accumulate": 1,                                        # raise it until a micro-batch fits
        # the published recipes: 2e-5 for 7B and 13B (Alpaca, Vicuna, Tülu), 1e-5 for larger ones (Tülu)
        "optimizer": {"learning_rate": 5e-5 if size < 1e9 else 2e-5 if size < 2e10 else 1e-5, "warmup": 0.03,
                      "schedule": "linear", "weight_decay": 0.0},
        "compute_dtype": "bfloat16",
        "remat": "full",
        "log_every": 1, "checkpoint_every": 200,
    })
