"""Serving: an OpenAI-compatible server over a batched engine, and scoring of given texts. See docs/serve.md.

    api, completions ─► service ─► scheduler (one thread) ─► engine ─► programs (compiled ahead)
                                        └► scoring ─────────────┘
"""
from easylm_imitation.serve.config import BesideConfig, Limits, ServeConfig
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.scoring import Score, Scorer
from easylm_imitation.serve.server import RunningServer, listen, open_server

__all__ = ["BesideConfig", "Engine", "Limits", "RunningServer", "Score", "Scorer", "ServeConfig", "listen",
           "open_server"]
