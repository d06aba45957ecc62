"""Peaks by device kind, and updates that take too long."""
import types

import jax
import pytest

from easylm_imitation.train.speed import SlowUpdates, peak_flops


@pytest.mark.parametrize(("kind", "teraflops"), [
    ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5p", 459), ("TPU v5", 459), ("TPU v6 lite", 918),
    ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA A100-SXM4-80GB", 312)])
def test_peaks_are_the_makers(kind, teraflops):
    assert peak_flops(types.SimpleNamespace(device_kind=kind)) == teraflops * 1e12


def test_an_unknown_device_has_no_peak():
    assert peak_flops(jax.devices()[0]) is None
    assert peak_flops(types.SimpleNamespace(device_kind="NVIDIA GeForce RTX 4090")) is None


def test_an_update_of_three_medians_is_noticed():
    slow = SlowUpdates()
    assert [slow.times_median(seconds) for seconds in (60, 1, 1, 1, 1)] == [None] * 5      # the first compiles
    assert slow.times_median(2.9) is None
    assert slow.times_median(8.0) == 8.0
    assert slow.times_median(1.0) is None
    for _ in range(60):
        slow.times_median(10.0)
    assert slow.times_median(10.0) is None      # what is usual is what the last fifty were
