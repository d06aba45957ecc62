import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from kernels_elsewhere import TOPOLOGIES

SCRIPT = pathlib.Path(__file__).with_name("kernels_elsewhere.py")
ABSENT_POD = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
              "TPU_ACCELERATOR_TYPE": "v5litepod-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "XLA_FLAGS": ""}


def run(arguments, environment):
    root = str(SCRIPT.parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=600,
                          env={**os.environ, **environment, "PYTHONPATH": paths})
    assert done.stdout.rstrip().endswith("ok"), done.stdout + done.stderr[-3000:]
    return done


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install libtpu")
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_splash_compiles_for_tpus_that_are_not_there(topology):
    assert "attention: splash on tpu" in run([topology], ABSENT_POD).stderr


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU on this machine")
def test_cudnn_equals_the_reference_on_packed_rows():
    run([], {"JAX_PLATFORMS": "cuda", "XLA_FLAGS": ""})
