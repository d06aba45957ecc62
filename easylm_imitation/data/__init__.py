"""Data: raw files to conversations to shards of tokens (`build_dataset`), and shards to batches (`open_loader`)."""
from easylm_imitation.data.build import build_dataset, read_card
from easylm_imitation.data.config import BuildConfig, LoaderConfig, SourceConfig, TooLong
from easylm_imitation.data.holdout import held_out_datasets, held_out_examples
from easylm_imitation.data.loader import (
    Batch,
    DataUse,
    Loader,
    batch_kinds,
    batches_of_tokens,
    count_batches,
    data_use,
    open_loader,
    planned_batches,
)
from easylm_imitation.data.mixing import MixedLoader, mixed_rows, open_mixed
from easylm_imitation.data.runner import Runner
from easylm_imitation.data.sources import MALFORMED
from easylm_imitation.data.teacher_cache import (
    IDS,
    LOGPROBS,
    CacheCard,
    CacheWriter,
    TeacherCache,
    is_cache,
    starts_of,
)

__all__ = ["IDS", "LOGPROBS", "MALFORMED", "Batch", "BuildConfig", "CacheCard", "CacheWriter", "DataUse", "Loader",
           "LoaderConfig", "MixedLoader", "Runner", "SourceConfig", "TeacherCache", "TooLong", "batch_kinds",
           "batches_of_tokens", "build_dataset", "count_batches", "data_use", "held_out_datasets", "held_out_examples",
           "is_cache", "mixed_rows", "open_loader", "open_mixed", "planned_batches", "read_card", "starts_of"]
