"""SIGTERM during a training stage: the flow ends there, and does not go on with a model that is half trained."""
import types

import pytest

from easylm_imitation.world import ReproduceConfig, WorldConfig
from easylm_imitation.world.reproduce import reproduce


def test_an_interrupted_training_ends_the_flow(tmp_path, monkeypatch):
    asked = []

    def interrupted(config, **places):
        asked.append(config.name)
        return types.SimpleNamespace(interrupted=True)
    monkeypatch.setattr("easylm_imitation.world.stages.train", interrupted)
    config = ReproduceConfig(WorldConfig(entities=6, attributes=2, values=4, passes=2, chats=12, vocabulary=400))
    with pytest.raises(KeyboardInterrupt):
        reproduce(config, tmp_path / "work")
    assert asked == ["base"]
