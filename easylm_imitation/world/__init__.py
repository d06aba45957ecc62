"""The embedded synthetic world: who lives in it, what a base and a teacher read, and what is asked of them."""
from easylm_imitation.world.config import ReproduceConfig, WorldConfig
from easylm_imitation.world.findings_config import FindingsConfig, full, standard
from easylm_imitation.world.synthetic import World, make_world
from easylm_imitation.world.tasks import WorldTask

__all__ = ["FindingsConfig", "ReproduceConfig", "World", "WorldConfig", "WorldTask", "full", "make_world", "standard"]
