"""The standard run of `reproduce` with everything as small as it goes: for tests, and for a look at the page.

    easylm-imitation reproduce --config configs/reproduce/tiny.py --workdir runs/findings-tiny

Expected: every stage and every contrast; docs/reproduce.md says how long that takes. Its models know next to nothing:
what it says of the findings means nothing.
"""
from easylm_imitation.schema import plain
from easylm_imitation.world import standard
from easylm_imitation.world.findings_config import findings, llama, train_settings

LESSONS = {"route": 30, "program": 30, "unsafe": 20, "lookalike": 10, "howto": 20, "short": 30}


def _model(steps, coverage):
    return {"model": llama(32, 1, 2), "train": train_settings(steps, 5e-3), "coverage": coverage, "passes": 3,
            "chats": 60, "lessons": LESSONS}


def get_config():
    made = plain(standard())
    made["world"] |= {"entities": 24, "attributes": 2, "values": 6, "vocabulary": 512, "items": 8, "style_prompts": 6,
                      "lesson_items": 6, "turns": 2}
    made["teacher"], made["bases"] = _model(40, 1.0), {"L": _model(20, 0.9), "S": _model(10, 0.6)}
    made["prompts"] = {"broad": {"facts": 24, "unsafe": 6, "lookalike": 6, "howto": 6}, "local": {"short": 16},
                       "route": {"route": 10}, "program": {"program": 10}}
    for name, budgets in (("broad", ["300", "600"]), ("again", ["300"]), ("local", ["100", "200"])):
        made["data"][name]["budgets"] = budgets
    made["data"]["mixture"]["cap"] = 150
    for given in made["data"].values():
        given["train"] = {"epochs": None, "steps": 2}
    made["imitation"] = train_settings(2, 1e-3, batch=2, mesh="fsdp:2")
    made["grid"] = {"seeds": [0], "cells": ["L-*", "S-broad-600", "S-mixture-all"]}
    made["contrasts"] = plain(tuple(findings({"small": "S", "large": "L"}, ("300", "600"), ("100", "200"))))
    made["collect"] |= {"max_tokens": 16, "truncated": "keep"}
    made |= {"answer_tokens": 16, "slots": 4}
    made["rater"] |= {"pairs": 200}
    return made
