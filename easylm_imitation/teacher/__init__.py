"""Recipes that ask a stronger model, over the one client. `RECIPES` names them; `collect_from` carries one out.

A recipe (recipe.py) makes requests and reads answers; the runner (runner.py) asks them: within the limits, each answer
journalled first, nothing asked twice.
"""
from easylm_imitation.teacher.answers import CollectConfig, collect_answers
from easylm_imitation.teacher.recipes import RECIPES, collect_from
from easylm_imitation.teacher.runner import CollectResult, collect

__all__ = ["RECIPES", "CollectConfig", "CollectResult", "collect", "collect_answers", "collect_from"]
