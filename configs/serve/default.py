"""The server's sizes, for any model.

    easylm-imitation serve --model RUN --port 8000 --config configs/serve/default.py --config.slots=32

Expected: a line "NAME is ready at http://127.0.0.1:8000/v1"; from then on nothing compiles. Cache memory is (slots +
prefixes) x context x layers x 2 x kv_heads x head_dim x 4 bytes (2 in bfloat16): 1 GB for a 0.5B Qwen2.5 in float32.
"""
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({
        "slots": 16,            # answers generated side by side
        "prefixes": 4,          # beginnings of scored texts that are kept
        "decode_steps": 8,      # tokens between two looks at the queue at most; 1 while somebody streams
        "limits": {"queue": 512, "drain_seconds": 30.0},
    })
