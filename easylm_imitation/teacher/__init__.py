"""Recipes that ask a stronger model, over the one client: `collect_answers` turns prompts into conversations."""
from easylm_imitation.teacher.answers import CollectConfig, CollectResult, collect_answers

__all__ = ["CollectConfig", "CollectResult", "collect_answers"]
