"""Machines made, prepared, watched and given back; what the scripts of launch/ call.

Needs nothing but Python and the cloud's own command, so that it runs on a laptop without the rest installed.
"""
from easylm_imitation.pods.commands import Commands, Failed
from easylm_imitation.pods.local import local_pod
from easylm_imitation.pods.tpu import PodSpec, TpuPod
from easylm_imitation.pods.watch import up

__all__ = ["Commands", "Failed", "PodSpec", "TpuPod", "local_pod", "up"]
