"""Batches that the training tests share."""
import numpy as np

VOCAB, LENGTH = 97, 24


def make_batch(rows: int, seed: int = 0, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Packed rows [rows, length] of two or three conversations and some padding, with uneven masks."""
    random = np.random.default_rng(seed)
    batch = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "segment_ids", "positions")}
    batch["loss_weights"] = np.zeros((rows, length), np.float32)
    for row in range(rows):
        ends = np.sort(random.choice(np.arange(3, length), size=random.integers(2, 4), replace=False))
        for segment, (start, end) in enumerate(zip([0, *ends[:-1]], ends), 1):
            batch["tokens"][row, start:end] = random.integers(1, VOCAB, end - start)
            batch["segment_ids"][row, start:end] = segment
            batch["positions"][row, start:end] = np.arange(end - start)
            batch["loss_weights"][row, start + 1:end] = random.random(end - start - 1) < (row + 1) / rows
    return batch
