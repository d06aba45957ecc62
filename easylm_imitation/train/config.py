"""What a training run is: every choice that decides its numbers, and the few that do not.

The numbers of a run are decided by this config, the data and the initial weights. The keys of `free_keys` decide only
where and how the same sums are taken, or what is written down; they may differ when a run is continued.
"""
import dataclasses
from typing import Any, Literal

from easylm_imitation.data import LoaderConfig, TooLong
from easylm_imitation.models import LoraConfig
from easylm_imitation.train.optimizer_config import OptimizerConfig

# Keys that a continued run may change: the mathematics stays, at most the rounding moves.
_FREE = ("mesh", "accumulate", "remat", "attention", "overlap_sums", "loss_chunk", "validation", "log_every",
         "checkpoint_every", "keep", "keep_every", "max_skips", "wandb")


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """What a run says of itself on the way, about the conversations of `data.holdout`. It changes no number of the run.
    """
    every: int | None = None        # updates between validations, beside those at checkpoints; None: only there
    batches: int | None = 8         # of each dataset, at most; None: all
    keep_best: bool = False         # the checkpoint of the lowest loss so far stays; RUN@best names it
    samples: int = 4                # held-out questions that are answered, greedily
    sample_tokens: int = 64         # of an answer, at most

    def __post_init__(self) -> None:
        for key, least in (("every", 1), ("batches", 1), ("samples", 0), ("sample_tokens", 1)):
            if getattr(self, key) is not None and getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least {least}")


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """How much of the loss is the teacher's, and what it measures. The loss is that of `weight` * divergence +
    (1 - weight) * cross-entropy."""
    weight: float = 1.0             # 1: the teacher's distribution alone; the text decides only what is read
    divergence: Literal["forward", "reverse"] = "forward"
    temperature: float = 1.0        # logits are divided by it, the divergence multiplied by its square (Hinton)

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; it must be above 0 and at most 1")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """How much of each batch is of another dataset, such as text that the base was pre-trained on; `--mix` names it."""
    share: float = 0.25             # of a batch's rows
    weight: float = 1.0             # multiplies the loss of those rows
    too_long: TooLong = "error"     # as in `data`, of that dataset

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; it must be between 0 and 1")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight is {self.weight}; it must be above 0")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Give one of `steps`, `epochs` and `tokens`; `data.batch` rows make one update, whatever
    `accumulate`.

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
    tokens: int | None = None               # of the data, not of padding or the mix; the last update reaches them
    accumulate: int = 1                     # micro-batches an update is summed over; saves memory, changes no number
    loss: Literal["token_mean", "row_mean"] = "token_mean"  # row_mean: mean over rows of each row's own mean (EasyLM's)
    lora: LoraConfig | None = None          # train adapters beside the weights of `--init`, which stay as they are
    distil: DistilConfig | None = None      # learn from a local teacher's distribution, too; `--teacher` names it
    mix: MixConfig | None = None            # rows of another dataset in each batch; `--mix` names it
    z_loss: float = 0.0                     # weight of the squared log-partition; 1e-4 is usual
    loss_chunk: int = 4096                  # entries of the vocabulary whose logits exist at one time
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of activations and matmuls; master weights are float32
    remat: Literal["none", "full", "dots", "save-qkv", "offload"] = "full"      # what the backward pass recomputes
    attention: Literal["auto", "reference", "chunked", "splash", "cudnn"] = "auto"      # auto: by device and request
    overlap_sums: bool = False              # TPU v5e: gradients are summed over devices beside arithmetic
    checkpoint_every: int = 500             # updates between checkpoints; the last update always has one
    keep: int = 2                           # newest checkpoints kept
    keep_every: int | None = None           # updates; a checkpoint at a multiple of it stays for good (None: no other)
    max_skips: int = 10                     # updates in a row that may be skipped; one more ends the run
    validation: ValidationConfig = ValidationConfig()   # where data.holdout is above 0
    wandb: str | None = None                # a project of Weights & Biases that gets the scalars, too
    log_every: int = 10                     # updates between lines of metrics.jsonl; the first and last always have one

    def __post_init__(self) -> None:
        if [self.steps, self.epochs, self.tokens].count(None) != 2:
            raise ValueError(f"give steps, epochs or tokens, one of the three (steps={self.steps}, "
                             f"epochs={self.epochs}, tokens={self.tokens})")
        for key in ("steps", "epochs", "tokens", "accumulate", "loss_chunk", "checkpoint_every", "keep",
                    "keep_every", "log_every"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"{key} is {value}; it must be above 0")
        if self.data.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} does not divide data.batch={self.data.batch} rows")
        if self.validation.keep_best and not self.data.holdout:
            raise ValueError("validation.keep_best needs a validation; set data.holdout=0.02, say")
        if self.data.holdout and self.validation.samples and self.validation.sample_tokens >= self.data.context:
            raise ValueError(f"validation.sample_tokens={self.validation.sample_tokens} leaves no room for questions "
                             f"in data.context={self.data.context}")
        for key in ("z_loss", "max_skips"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must not be negative")
        if self.mix and not 0 < self.mixed_rows < self.data.batch:
            raise ValueError(f"mix.share={self.mix.share} of data.batch={self.data.batch} rows is {self.mixed_rows} "
                             "rows; both datasets need at least one, so take another share, or a larger batch")

    @property
    def mixed_rows(self) -> int:
        """Rows of each batch that are the mix's."""
        return round(self.mix.share * self.data.batch) if self.mix else 0

    @property
    def data_rows(self) -> LoaderConfig:
        """`data`, with the rows of each batch that are left to it."""
        return dataclasses.replace(self.data, batch=self.data.batch - self.mixed_rows)

    @property
    def mix_data(self) -> LoaderConfig:
        """As `data`, of what is mixed in."""
        return dataclasses.replace(self.data, batch=self.mixed_rows, too_long=self.mix.too_long)


def free_keys(config: TrainConfig) -> tuple[str, ...]:
    """Keys that a continued run may change. `steps` and `tokens` are, where no learning rate depends on the length
    of the run; `epochs` is none, because the data ends with them.
    """
    whole_warmup = config.optimizer.warmup == 0 or config.optimizer.warmup >= 1
    may_extend = config.epochs is None and config.optimizer.schedule == "constant" and whole_warmup
    return (*_FREE, "steps", "tokens") if may_extend else _FREE
