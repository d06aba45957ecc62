"""What devices can do at most, from their makers' data sheets. `device_kind` begins with the names; the first that fits
counts. For a kind that is in no table there is None: no share of a peak is better than a wrong one."""
import jax

# FLOP/s in bfloat16 of one jax device
_PEAKS = {
    "TPU v2": 22.5e12, "TPU v3": 61.5e12,       # a device is half a chip
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v6": 918e12,
    "TPU7x": 1153.5e12, "TPU v7": 1153.5e12,    # half a chip again
    "NVIDIA A100": 312e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H100 NVL": 835e12, "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12, "NVIDIA GH200": 989e12, "NVIDIA B200": 2250e12}
# bytes a second from the memory of one jax device
_BANDWIDTHS = {
    "TPU v2": 350e9, "TPU v3": 450e9,           # a device is half a chip
    "TPU v4": 1228e9, "TPU v5 lite": 819e9, "TPU v5e": 819e9, "TPU v5": 2765e9, "TPU v6": 1640e9,
    "TPU7x": 3690e9, "TPU v7": 3690e9,          # half a chip again
    "NVIDIA A100-SXM4-40GB": 1555e9, "NVIDIA A100-PCIE-40GB": 1555e9, "NVIDIA A100": 1935e9,
    "NVIDIA H100 PCIe": 2000e9, "NVIDIA H100 NVL": 3900e9, "NVIDIA H100": 3350e9, "NVIDIA H200": 4800e9,
    "NVIDIA GH200": 4000e9, "NVIDIA B200": 8000e9}


def peak_flops(device: jax.Device) -> float | None:
    """FLOP/s of one device in bfloat16."""
    return next((peak for kind, peak in _PEAKS.items() if device.device_kind.startswith(kind)), None)


def peak_bandwidth(device: jax.Device) -> float | None:
    """Bytes a second that one device reads from its memory."""
    return next((peak for kind, peak in _BANDWIDTHS.items() if device.device_kind.startswith(kind)), None)
