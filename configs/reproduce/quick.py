"""The sizes of `reproduce --quick`: the defaults of ReproduceConfig (easylm_imitation/world/config.py), by name.

    easylm-imitation reproduce --config configs/reproduce/quick.py --workdir runs/reproduce
"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({})
