"""The full run of `reproduce`: every cell of the grid with five seeds, and the ablations.

    easylm-imitation reproduce --full --workdir runs/findings-full
    easylm-imitation reproduce --config configs/reproduce/full.py --workdir runs/findings-full

Both are the same. Expected: as the standard run, and how the warm-up, the optimizer, the loss, mixed-in pre-training
text, logits instead of text and contamination change held-out knowledge and style; about three hours on two cores.
"""
from easylm_imitation.schema import plain
from easylm_imitation.world import full


def get_config():
    return plain(full())
