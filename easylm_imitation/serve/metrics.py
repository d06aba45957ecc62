"""The server's counters in Prometheus' text format."""
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.scheduler import Scheduler

_COUNTERS = {
    "answers": "answers completed", "prompt_tokens": "prompt tokens of completed answers",
    "reused_tokens": "prompt tokens that a slot held already",
    "generated_tokens": "tokens generated for completed answers", "scored_tokens": "tokens read while scoring",
    "scored_cells": "cells computed while scoring, padding included", "cancelled": "jobs given up by their client",
    "expired": "jobs ended because they took longer than a request may",
    "rejected": "jobs refused because the queue was full"}


def exposition(engine: Engine, scheduler: Scheduler) -> str:
    """All metrics as text. `compilations_total` counts since the server was ready, and should stay 0. A gauge without
    a value yet, or for a device whose peak is not known, is left out."""
    counts, meter = scheduler.counts, scheduler.meter
    lines: list[str] = []
    for name, about in _COUNTERS.items():
        _add(lines, f"{name}_total", "counter", about, counts[name])
    _add(lines, "compilations_total", "counter", "XLA compilations since the server was ready", engine.compilations)
    _add(lines, "queue_depth", "gauge", "unfinished jobs", scheduler.queue_depth)
    _add(lines, "slots_busy", "gauge", "slots that hold an answer", scheduler.slots_busy)
    _add(lines, "slots", "gauge", "answers that can be generated side by side", engine.shapes.slots)
    shares = {
        "padding_efficiency": ("share of the scored cells that are no padding",
                               counts["scored_tokens"] / counts["scored_cells"] if counts["scored_cells"] else None),
        "decode_bandwidth_share": ("bytes a second that decoding had to read, over the peak of the memory",
                                   meter.bandwidth_share()),
        "score_flops_share": ("FLOPs a second of the scored tokens, over the peak", meter.flops_share())}
    for name, (about, value) in shares.items():
        if value is not None:
            _add(lines, name, "gauge", about, value)
    for name, about, histogram in (
            ("time_to_first_token_seconds", "from a request's arrival to its first token", meter.first_token),
            ("inter_token_seconds", "between two tokens of an answer", meter.between_tokens)):
        buckets = histogram.buckets()
        _head(lines, name, "histogram", about)
        lines.extend(f'easylm_imitation_{name}_bucket{{le="{bound}"}} {count}' for bound, count in buckets)
        lines.append(f"easylm_imitation_{name}_sum {histogram.sum}")
        lines.append(f"easylm_imitation_{name}_count {buckets[-1][1]}")
    return "\n".join(lines) + "\n"


def _add(lines: list[str], name: str, kind: str, about: str, value: float) -> None:
    _head(lines, name, kind, about)
    lines.append(f"easylm_imitation_{name} {value}")


def _head(lines: list[str], name: str, kind: str, about: str) -> None:
    lines.extend([f"# HELP easylm_imitation_{name} {about}", f"# TYPE easylm_imitation_{name} {kind}"])
