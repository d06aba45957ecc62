"""Which optimizer and schedule a run has. An option that the chosen one does not know is refused by name."""
import dataclasses
from typing import Any, Literal, get_args

Name = Literal["adamw", "scaled_adamw", "adafactor", "lion", "muon"]

# What each optimizer understands, with the values that its source uses; docs/train.md names the sources.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "moment_dtype": "float32"},
    "scaled_adamw": {"beta1": 0.9, "beta2_exponent": 0.95, "moment_dtype": "bfloat16", "weight_decay": 1e-4,
                     "decay_norms_and_biases": True},
    "adafactor": {"beta2_exponent": 0.8},
    "lion": {"beta1": 0.9, "beta2": 0.99, "moment_dtype": "float32"},
    "muon": {"momentum": 0.95, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "moment_dtype": "float32"},
}
_ALWAYS = {"weight_decay": 0.0, "decay_norms_and_biases": False}
_OPTIONS = ("beta1", "beta2", "beta2_exponent", "eps", "momentum", "moment_dtype", *_ALWAYS)
_DECAY = 0.2        # share of the run; Hägele et al. 2024 (arXiv 2405.18392) find 10 to 20 % to be enough


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its learning rate. Options left at None become the optimizer's own values, and stay None where
    it has no such option. Weight decay is multiplied by the learning rate, as torch does.
    """
    name: Name = "adamw"
    learning_rate: float = 3e-4                 # the peak; relative to a tensor's RMS in scaled_adamw and adafactor
    warmup: float = 0.03                        # below 1: share of all updates; from 1: updates
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "cosine"     # wsd: warm-up, stable, decay
    decay: float | None = None                  # wsd's last part. Below 1: share of all updates; from 1: updates
    final: float = 0.0                          # share of the peak that the decay ends at; constant never decays
    weight_decay: float | None = None
    decay_norms_and_biases: bool | None = None
    beta1: float | None = None                  # of the first moment
    beta2: float | None = None                  # of the second moment; in lion, of the momentum that is kept
    beta2_exponent: float | None = None         # beta2 of update t (from 1) is 1 - t^-beta2_exponent
    eps: float | None = None
    momentum: float | None = None               # Nesterov's, of muon's matrices; the betas are those of all else
    moment_dtype: Literal["float32", "bfloat16"] | None = None      # that the first moment or momentum is kept in
    clip: float | None = 1.0                    # largest global norm of the gradient; None does not clip
    spike_factor: float | None = None           # skip gradients of more than so many times the usual norm; None: never

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ValueError(f"name is '{self.name}', not one of {', '.join(get_args(Name))}")
        self._fill_in()
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        for key, least in (("clip", 0), ("eps", 0), ("beta2_exponent", 0), ("decay", 0), ("spike_factor", 1)):
            value = getattr(self, key)
            if value is not None and not value > least:
                raise ValueError(f"{key} is {value}; it must be above {least}")
        for key in ("warmup", "weight_decay"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must not be negative")
        for key in ("beta1", "beta2", "momentum"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{key} is {value}; it must be at least 0 and below 1")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is {self.final}; it must lie between 0 and 1")

    def _fill_in(self) -> None:
        known = _ALWAYS | _DEFAULTS[self.name]
        for key in _OPTIONS:
            if getattr(self, key) is None:
                object.__setattr__(self, key, known.get(key))
            elif key not in known:
                raise ValueError(f"{key} is {getattr(self, key)}, which {self.name} has no use for; leave it out "
                                 f"({self.name} knows {', '.join(known)})")
        if self.schedule == "wsd":
            object.__setattr__(self, "decay", _DECAY if self.decay is None else self.decay)
        elif self.decay is not None:
            raise ValueError(f"decay is {self.decay}, which the schedule '{self.schedule}' has no use for; leave it "
                             "out, or set schedule to wsd")
        if self.schedule == "constant" and self.final:
            raise ValueError(f"final is {self.final}, which a constant schedule never falls to; leave it out")
