"""Where tensors live: a mesh from a string, ordered rules from parameter path to mesh axes, process start-up."""
from easylm_imitation.sharding.company import agree, code_digest, together
from easylm_imitation.sharding.mesh import (
    AXES,
    BATCH,
    across_slices,
    axis_size,
    constrain,
    make_mesh,
    mesh_sizes,
    one_device,
    platform,
)
from easylm_imitation.sharding.processes import cond, coordinator_host, scan, start_processes
from easylm_imitation.sharding.rules import Rule, leaf_paths, like_params, map_paths, shardings, specs

__all__ = ["AXES", "BATCH", "Rule", "across_slices", "agree", "axis_size", "code_digest", "cond", "constrain",
           "coordinator_host", "leaf_paths", "like_params", "make_mesh", "map_paths", "mesh_sizes", "one_device",
           "platform", "scan", "shardings", "specs", "start_processes", "together"]
