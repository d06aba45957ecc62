"""How much of the hardware a run uses: the model's FLOPs over the peak of the devices, and updates that took too long.

    MFU = tokens a second and device * flops_per_token(context) / peak

Tokens are those of real text, without padding. `flops_per_token` (models/family.py) counts forward and backward without
recomputation, and attention causally, as if each row were one conversation; nothing is counted twice because it is
computed twice. Peaks are those of dense bfloat16, whatever the run computes in (the makers' data sheets).
"""
import collections
import statistics

import jax
from jax.sharding import Mesh

from easylm_imitation import console
from easylm_imitation.models import ModelConfig

# device_kind begins with -> FLOP/s in bfloat16 of one jax device; the first that fits counts
_PEAKS = {
    "TPU v2": 22.5e12, "TPU v3": 61.5e12,       # a device is half a chip
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v6": 918e12,
    "TPU7x": 1153.5e12, "TPU v7": 1153.5e12,    # half a chip again
    "NVIDIA A100": 312e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H100 NVL": 835e12, "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12, "NVIDIA GH200": 989e12, "NVIDIA B200": 2250e12}
# updates; times the median; updates before anything is judged; seconds, below which nobody minds
_REMEMBERED, _TOO_LONG, _FEWEST, _SHORTEST = 50, 3.0, 5, 0.5


def peak_flops(device: jax.Device) -> float | None:
    """FLOP/s of one device in bfloat16; None for a kind that is not in the table: no MFU is better than a wrong one."""
    return next((peak for kind, peak in _PEAKS.items() if device.device_kind.startswith(kind)), None)


class Speed:
    """What tokens per second mean on one mesh."""

    def __init__(self, model: ModelConfig, context: int, mesh: Mesh) -> None:
        self._devices, self._flops = mesh.size, model.flops_per_token(context)
        device = mesh.devices.flat[0]
        self._peak = peak_flops(device)
        if self._peak is None and device.platform != "cpu":
            console.say(f"no MFU: the peak of a '{device.device_kind}' is not known (train/speed.py has a table)")

    def of(self, tokens_per_second: float) -> dict[str, float]:
        """`tokens_per_second_per_device`, and `mfu` where the device's peak is known."""
        each = tokens_per_second / self._devices
        return {"tokens_per_second_per_device": each} | ({"mfu": each * self._flops / self._peak} if self._peak else {})


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
