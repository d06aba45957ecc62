"""Serving: an OpenAI-compatible server over a batched engine, and scoring of given texts. See docs/serve.md.

    api, completions ─► service ─► scheduler (one thread) ─► engine ─► programs (compiled ahead)
                                        └► scoring ─────────────┘
"""
from easylm_imitation.serve.config import BesideConfig, Limits, ServeConfig
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.local import LocalModel
from easylm_imitation.serve.opened import Served, own_server, served, serving
from easylm_imitation.serve.place import mesh_of
from easylm_imitation.serve.processes import Leader, Lost, connect
from easylm_imitation.serve.scoring import Score, Scorer
from easylm_imitation.serve.server import Front, RunningServer, follow, listen, open_server, open_weights

__all__ = ["BesideConfig", "Engine", "Front", "Leader", "Limits", "LocalModel", "Lost", "RunningServer", "Score",
           "Scorer", "ServeConfig", "Served", "connect", "follow", "listen", "mesh_of", "open_server", "open_weights",
           "own_server", "served", "serving"]
