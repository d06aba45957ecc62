"""The standard run of `reproduce`: the eight findings in miniature (easylm_imitation/world/findings_config.py).

    easylm-imitation reproduce --workdir runs/findings
    easylm-imitation reproduce --config configs/reproduce/standard.py --workdir runs/findings

Both are the same; the second may override a leaf (--config.world.seed=1). Expected: a table of contrasts with their
intervals, and which of the findings appear; 45 minutes on two cores. Sizes, budgets and bounds stand in that file.
"""
from easylm_imitation.schema import plain
from easylm_imitation.world import standard


def get_config():
    return plain(standard())
