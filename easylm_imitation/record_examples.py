"""A golden example of every schema in records.py: what a file of it holds. Tests read each and write it back."""
from typing import Any

from easylm_imitation.records import (
    Answer,
    CollectionCard,
    Conversation,
    DataCard,
    LedgerEntry,
    Lineage,
    Prompt,
    Results,
)

EXAMPLES: dict[type, dict[str, Any]] = {
    Conversation: {
        "dataset": "answers", "id": "answers_0", "teacher": "gpt-4", "meta": {"source": "broad"},
        "messages": [{"role": "user", "content": "Where is Oslo?"},
                     {"role": "assistant", "content": "Oslo is in Norway."}]},
    Prompt: {"id": "p0", "messages": [{"role": "user", "content": "Where is Oslo?"}], "dataset": "broad", "meta": {}},
    LedgerEntry: {
        "prompt_id": "p0", "sample": 0, "status": "ok", "model": "gpt-4", "prompt_tokens": 5, "completion_tokens": 6,
        "cost": 0.0005, "seconds": 0.8, "finish_reason": "stop", "error": "", "response": "Oslo is in Norway.",
        "request": "9999999999999999", "attempt": 0, "time": "2026-01-01T00:00:00Z"},
    CollectionCard: {
        "recipe": "nq-synthetic", "dataset": "nq-synthetic", "teachers": ["gpt-4"], "terms": "ask the provider",
        "first": "2026-01-01T00:00:00Z", "last": "2026-01-01T01:00:00Z", "rows": 60, "wanted": 60,
        "dropped": {"duplicate": 3}, "requests": 6, "failures": 1, "prompt_tokens": 900, "completion_tokens": 2000,
        "cost": 0.02, "others": {"Vicuna": 300.0}, "config": "cccccccccccccccc", "input": "00", "lineages": [],
        "code": "0.1.0", "uncounted": 0},
    Lineage: {
        "id": "0f0f0f0f0f0f0f0f", "name": "imitation", "base": "aaaaaaaaaaaaaaaa", "base_name": "base",
        "init": "aaaaaaaaaaaaaaaa", "teachers": ["gpt-4"], "data_card": "bbbbbbbbbbbbbbbb", "tokens": 20000,
        "template": "chatml@cccccccc", "tokenizer": "dddddddddddddddd", "seed": 0, "step": 100, "code": "0.1.0",
        "mixed": ""},
    DataCard: {
        "name": "answers", "hash": "bbbbbbbbbbbbbbbb", "conversations": 2, "tokens": 40, "loss_tokens": 14,
        "longest": 21,
        "sources": [{"path": "answers.jsonl", "dataset": "answers", "sha256": "00", "read": 3, "kept": 2,
                     "dropped": {"refusals": 1}, "added": 0, "left": 0, "copies": 0, "tokens": 40, "loss_tokens": 14,
                     "files": 1, "licence": "MIT", "origin": "hf://datasets/me/answers", "cut_turns": 1,
                     "undrawn": 7}],
        "tokenizer": "dddddddddddddddd", "template": "chatml@cccccccc", "teachers": ["gpt-4"], "seed": 0,
        "code": "0.1.0", "budget": 100, "diversity": {"bleu": 0.08, "error": 0.01, "queries": 2, "sampled": 2},
        "held_out": {"koala": {"prompts": 180, "too_near": 4, "most": 0.2, "mean_bleu": 0.05}},
        "taught": [{"dataset": "answers", "teacher": "gpt-4", "first": "2026-01-02T03:04:05Z",
                    "last": "2026-01-02T04:04:05Z", "terms": "not noted"}],
        "index": {"lengths.npy": "00", "datasets.npz": "11"},
        "overlaps": {"nq": {"items": 10, "items_found": 1, "rows_found": 1, "removed": True}},
        "rules": [{"rule": "refusals", "options": {"where": "start"}, "dataset": "", "seen": 3, "changed": 0,
                   "dropped": 1, "added": 0, "samples": [{"id": "answers_2", "before": "[user] Where is Oslo?",
                                                          "after": "", "detail": "I'm sorry, but I cannot"}],
                   "cut_turns": 0}]},
    Answer: {"prompt_id": "p0", "prompt": "Where is Oslo?", "answer": "In Norway.", "model": "imitation",
             "dataset": "broad", "finish_reason": "stop", "request": "9999999999999999"},
    Results: {
        "model": {"id": "0f0f0f0f0f0f0f0f", "name": "imitation", "base": "aaaaaaaaaaaaaaaa", "base_name": "base",
                  "init": "", "teachers": ["gpt-4"], "data_card": "", "tokens": 0, "template": "", "tokenizer": "",
                  "seed": None, "step": None, "code": "0.1.0", "mixed": ""},
        "tasks": [{"task": "facts", "prompt": "raw", "form": "choices", "metric": "acc", "score": 0.5, "shots": 3,
                   "items": [{"id": "0", "score": 1.0, "prediction": "A", "target": "A"},
                             {"id": "1", "score": 0.0, "prediction": "B", "target": "A"}],
                   "protocol": "eeeeeeeeeeeeeeee", "data": "full", "group": "substance"}],
        "role": "imitation", "command": "easylm-imitation evaluate", "date": "2026-01-01T00:00:00Z", "code": "0.1.0",
        "meta": {}},
}
