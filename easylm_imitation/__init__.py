"""Finetune an open model on a stronger model's outputs, and learn honestly how much of the gap that closed.

From Python: `from easylm_imitation import api`; from a shell: `easylm-imitation VERB`.
"""
