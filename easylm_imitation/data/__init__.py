"""Data: raw files to conversations to shards of tokens (`build_dataset`), and shards to batches (`open_loader`)."""
from easylm_imitation.data.build import build_dataset, read_card
from easylm_imitation.data.config import BuildConfig, LoaderConfig, SourceConfig
from easylm_imitation.data.loader import (
    Batch,
    DataUse,
    Loader,
    batches_of_tokens,
    count_batches,
    data_use,
    open_loader,
)
from easylm_imitation.data.sources import MALFORMED

__all__ = ["MALFORMED", "Batch", "BuildConfig", "DataUse", "Loader", "LoaderConfig", "SourceConfig",
           "batches_of_tokens", "build_dataset", "count_batches", "data_use", "open_loader", "read_card"]
