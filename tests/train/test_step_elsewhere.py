import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("step_elsewhere.py")
ABSENT_POD = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
              "TPU_ACCELERATOR_TYPE": "v5litepod-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "XLA_FLAGS": ""}


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install libtpu")
@pytest.mark.parametrize(("pod", "axes"), [
    ("v5e:2x4", "fsdp:8"), ("v4:2x2x2", "fsdp:4,tensor:2"), ("v5p:2x2x2", "fsdp:8")])
def test_the_step_compiles_for_pods_that_are_not_there(pod, axes):
    paths = os.pathsep.join([str(SCRIPT.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, str(SCRIPT), pod, axes], capture_output=True, text=True, timeout=1800,
                          env={**os.environ, **ABSENT_POD, "PYTHONPATH": paths})
    assert done.stdout.rstrip().endswith("ok"), done.stdout + done.stderr[-3000:]
    assert "attention: splash on tpu" in done.stderr
