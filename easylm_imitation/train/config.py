"""What a training run is: every choice that decides its numbers, and the few that do not.

The numbers of a run are decided by this config, the data and the initial weights. The keys of `free_keys` decide only
where and how the same sums are taken, or what is written down; they may differ when a run is continued.
"""
import dataclasses
from typing import Any, Literal

from easylm_imitation.data import LoaderConfig
from easylm_imitation.train.optimizer import OptimizerConfig

# Keys that a continued run may change: the mathematics stays, at most the rounding moves.
_FREE = ("mesh", "accumulate", "remat", "attention", "loss_chunk", "log_every", "checkpoint_every", "keep")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Give `steps` or `epochs`, not both; `data.batch` rows make one update, whatever `accumulate`.

    `model` is `{"preset": ...}` or `{"family": ...}` with overrides; a missing vocab_size is the tokenizer's. With
    initial weights it stays empty.
    """
    name: str = "run"
    seed: int = 0                           # of the fresh weights and of the data order
    mesh: str = "fsdp:-1"                   # axis:size, -1 takes the remaining devices
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: LoaderConfig = LoaderConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: int | None = None                # updates
    epochs: float | None = None             # passes over the data; the updates are counted from the packed rows
    accumulate: int = 1                     # micro-batches an update is summed over; saves memory, changes no number
    loss: Literal["token_mean", "row_mean"] = "token_mean"  # row_mean: mean over rows of each row's own mean (EasyLM's)
    z_loss: float = 0.0                     # weight of the squared log-partition; 1e-4 is usual
    loss_chunk: int = 4096                  # entries of the vocabulary whose logits exist at one time
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of activations and matmuls; master weights are float32
    remat: Literal["none", "full", "dots", "save-qkv", "offload"] = "full"      # what the backward pass recomputes
    attention: Literal["auto", "reference", "chunked", "splash", "cudnn"] = "auto"      # auto: by device and request
    checkpoint_every: int = 500             # updates between checkpoints; the last update always has one
    keep: int = 2                           # newest checkpoints kept
    log_every: int = 10                     # updates between lines of metrics.jsonl; the first and last always have one

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"give steps or epochs, one of the two (steps={self.steps}, epochs={self.epochs})")
        for key in ("steps", "epochs", "accumulate", "loss_chunk", "checkpoint_every", "keep", "log_every"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"{key} is {value}; it must be above 0")
        if self.data.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} does not divide data.batch={self.data.batch} rows")
        if self.z_loss < 0:
            raise ValueError(f"z_loss is {self.z_loss}; it must not be negative")


def free_keys(config: TrainConfig) -> tuple[str, ...]:
    """Keys that a continued run may change. `steps` is one where no learning rate depends on the length of the run."""
    whole_warmup = config.optimizer.warmup == 0 or config.optimizer.warmup >= 1
    may_extend = config.steps is not None and config.optimizer.schedule == "constant" and whole_warmup
    return (*_FREE, "steps") if may_extend else _FREE
