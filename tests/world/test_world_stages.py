"""What both runs of `reproduce` share: whose work a folder holds."""
import dataclasses

import pytest

from easylm_imitation.schema import UserError, build, plain
from easylm_imitation.world import FindingsConfig, ReproduceConfig, WorldConfig, standard
from easylm_imitation.world.stages import claim


@pytest.mark.parametrize(("kind", "config"), [(ReproduceConfig, ReproduceConfig()), (FindingsConfig, standard())],
                         ids=["quick", "standard"])
def test_a_folder_is_of_one_config(tmp_path, kind, config):
    work = tmp_path / "work"
    claim(work, config, kind)
    claim(work, build(kind, plain(config), "read"), kind)
    with pytest.raises(UserError, match="holds the work of another config"):
        claim(work, dataclasses.replace(config, world=WorldConfig(seed=9)), kind)
    (tmp_path / "note.txt").touch()
    with pytest.raises(UserError, match="is not empty and no work of `reproduce`"):
        claim(tmp_path, config, kind)
