"""Weights in and out: run dirs, Hugging Face dirs, and the identity of whatever is loaded."""
from easylm_imitation.weights.adapter import write_adapter_note
from easylm_imitation.weights.gguf_export import export_gguf
from easylm_imitation.weights.hf_export import export_hf
from easylm_imitation.weights.hf_extras import HFExtras
from easylm_imitation.weights.hf_import import HFModel, import_hf, open_hf
from easylm_imitation.weights.loaded import (
    LoadedModel,
    describe,
    export_adapter,
    find_template,
    in_chat,
    is_model_path,
    open_model,
    with_template,
)
from easylm_imitation.weights.quantise import Bits, lineage_in, quantised
from easylm_imitation.weights.reading import Unreadable, reading
from easylm_imitation.weights.run_dir import DATA, LINEAGE, OPTIMIZER, PARAMS, PROGRESS, RunDir, save_run_model

__all__ = ["DATA", "LINEAGE", "OPTIMIZER", "PARAMS", "PROGRESS", "Bits", "HFExtras", "HFModel", "LoadedModel", "RunDir",
           "Unreadable", "describe", "export_adapter", "export_gguf", "export_hf", "find_template", "import_hf",
           "in_chat", "is_model_path", "lineage_in", "open_hf", "open_model", "quantised", "reading", "save_run_model",
           "with_template", "write_adapter_note"]
