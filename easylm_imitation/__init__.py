"""Finetune an open model on a stronger model's outputs, and learn honestly how much of the gap that closed."""
