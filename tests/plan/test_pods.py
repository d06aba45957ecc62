"""Names of pods, as clouds give them."""
import pytest

from easylm_imitation.plan import find_pod
from easylm_imitation.schema import UserError


@pytest.mark.parametrize(("name", "chips", "devices", "topology"), [
    ("v5e-64", 64, 64, "v5e:8x8"), ("v5litepod-16", 16, 16, "v5e:4x4"), ("v4-128", 64, 64, "v4:4x4x4"),
    ("v5p-64", 32, 32, "v5p:2x4x4"), ("v6e-8", 8, 8, "v6e:2x4"), ("tpu7x-16", 8, 16, "tpu7x:2x2x2"),
    ("v5e-64x2", 128, 128, "v5e:8x8"), ("h100x8", 8, 8, ""), ("h200", 1, 1, ""), ("a100x16", 16, 16, "")])
def test_a_name_says_how_many_chips_there_are(name, chips, devices, topology):
    pod = find_pod(name)
    assert (pod.chips, pod.devices, pod.topology) == (chips, devices, topology)


@pytest.mark.parametrize(("name", "words"), [
    ("v5e-63", "comes in v5e-1, 4, 8, 16, 32, 64, 128, 256"), ("v4-64x0", "comes in"),
    ("v9-8", "did you mean|name a TPU pod"),
    ("h100x12", "a multiple of it"), ("h100-8", "written h100x8"), ("", "name a TPU pod"), ("v5e", "name a TPU pod")])
def test_another_name_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        find_pod(name)


def test_links_between_slices_and_machines_are_slow():
    assert find_pod("v5e-64x2").fast_devices == 64
    assert find_pod("h100x16").fast_devices == 8
    assert find_pod("h100x4").fast_devices == 4
