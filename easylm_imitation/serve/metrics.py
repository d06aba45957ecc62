"""The server's counters in Prometheus' text format."""
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.scheduler import Scheduler

_COUNTERS = {
    "answers": "answers completed", "prompt_tokens": "prompt tokens of completed answers",
    "reused_tokens": "prompt tokens that a free slot still held",
    "generated_tokens": "tokens generated for completed answers", "scored_tokens": "tokens read while scoring",
    "scored_cells": "cells computed while scoring, padding included", "cancelled": "jobs given up by their client",
    "rejected": "jobs refused because the queue was full"}


def exposition(engine: Engine, scheduler: Scheduler) -> str:
    """All metrics as text. `compilations_total` counts since the server was ready, and should stay 0."""
    lines = []

    def add(name: str, kind: str, about: str, value: float) -> None:
        name = f"easylm_imitation_{name}"
        lines.extend([f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name} {value}"])

    for name, about in _COUNTERS.items():
        add(f"{name}_total", "counter", about, scheduler.counts[name])
    add("compilations_total", "counter", "XLA compilations since the server was ready", engine.compilations)
    add("queue_depth", "gauge", "unfinished jobs", scheduler.queue_depth)
    add("slots_busy", "gauge", "slots that hold an answer", scheduler.slots_busy)
    add("slots", "gauge", "answers that can be generated side by side", engine.shapes.slots)
    return "\n".join(lines) + "\n"
