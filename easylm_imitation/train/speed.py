"""How much of the hardware a run uses: the model's FLOPs over the peak of the devices, and updates that took too long.

    MFU = tokens a second and device * flops_per_token(context) / peak

Tokens are those of real text, without padding. `flops_per_token` (models/family.py) counts forward and backward without
recomputation, and attention causally, as if each row were one conversation; nothing is counted twice because it is
computed twice. Peaks are those of dense bfloat16, whatever the run computes in (the makers' data sheets).
"""
import collections
import statistics

from jax.sharding import Mesh

from easylm_imitation import console
from easylm_imitation.models import ModelConfig
from easylm_imitation.sharding.devices import peak_flops

# updates; times the median; updates before anything is judged; seconds, below which nobody minds
_REMEMBERED, _TOO_LONG, _FEWEST, _SHORTEST = 50, 3.0, 5, 0.5


class Speed:
    """What tokens per second mean on one mesh."""

    def __init__(self, model: ModelConfig, context: int, mesh: Mesh, frozen: bool = False) -> None:
        self._devices, self._flops = mesh.size, flops_per_token(model, context, frozen)
        device = mesh.devices.flat[0]
        self._peak = peak_flops(device)
        if self._peak is None and device.platform != "cpu":
            console.say(f"no MFU: the peak of a '{device.device_kind}' is not known (sharding/devices.py has a table)")

    def of(self, tokens_per_second: float) -> dict[str, float]:
        """`tokens_per_second_per_device`, and `mfu` where the device's peak is known."""
        each = tokens_per_second / self._devices
        return {"tokens_per_second_per_device": each} | ({"mfu": each * self._flops / self._peak} if self._peak else {})


def flops_per_token(model: ModelConfig, context: int, frozen: bool) -> float:
    """What counts for MFU; frozen weights get no gradient of their own, which is a third of what theirs cost."""
    return model.flops_per_token(context) - (2.0 * model.matmul_weights() if frozen else 0.0)


class SlowUpdates:
    """Notices updates that take three times the median of the last fifty.

    >>> slow = SlowUpdates()
    >>> slow.times_median(0.1)      # at each update; None until five are known, and for usual ones
    """

    def __init__(self) -> None:
        self._recent: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)

    def times_median(self, seconds: float) -> float | None:
        """Takes in one update; how many medians it took, when that is too many."""
        median = statistics.median(self._recent) if len(self._recent) >= _FEWEST else None
        self._recent.append(seconds)
        return seconds / median if median and seconds > max(_TOO_LONG * median, _SHORTEST) else None
