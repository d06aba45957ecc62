"""GGUF files in, presented as the Hugging Face dir they might have been made of; then all goes as with one."""
import dataclasses
import os

import numpy as np

from easylm_imitation.models import ModelConfig, family_of
from easylm_imitation.models.names import Entry
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, build
from easylm_imitation.text import Template, Tokenizer, tokenizer_from
from easylm_imitation.weights.gguf_export import read_note
from easylm_imitation.weights.gguf_file import GGUFFile, open_gguf_file
from easylm_imitation.weights.gguf_names import FREQUENCIES, config_of, pairs_turned, tensor_name
from easylm_imitation.weights.hf_extras import HFExtras
from easylm_imitation.weights.hf_import import HFModel, identify_hf, matched
from easylm_imitation.weights.run_dir import same_template
from easylm_imitation.weights.stored import HeadsTurned, Tensor
from easylm_imitation.weights.tensor_files import TensorFiles


@dataclasses.dataclass(frozen=True)
class _Transposed:
    """A tensor [rows, columns] presented as [columns, rows]."""
    inner: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """[columns, rows]."""
        return self.inner.shape[::-1]

    @property
    def dtype(self) -> str:
        """As inside."""
        return self.inner.dtype

    def read(self, *index: slice) -> np.ndarray:
        """The part at `index`."""
        wanted = (*index, *[slice(None)] * (2 - len(index)))
        return np.ascontiguousarray(self.inner.read(*wanted[::-1]).T)


@dataclasses.dataclass(frozen=True)
class GGUFModel:
    """A GGUF file whose tensors fit its config; no number of them is read yet but of norms."""
    weights: HFModel
    tokenizer: Tokenizer | None
    template: Template | None
    lineage: Lineage
    extras: HFExtras


def open_gguf(path: str | os.PathLike) -> GGUFModel:
    """Opens a GGUF file. Raises UserError for one that is damaged, hostile, or holds what is not computed here."""
    file = open_gguf_file(path)
    try:
        factors = file.tensors[FREQUENCIES].read() if FREQUENCIES in file.tensors else None
        config, arch = config_of(file.metadata, {name: t.shape for name, t in file.tensors.items()}, factors)
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: {str(error).removeprefix('config.json: ')}") from None
    tensors = TensorFiles(path, _as_hf(file, config, arch))
    try:
        weights = HFModel(config, tensors, *matched(config, tensors))
    except UserError as error:
        raise UserError(str(error).replace("config.json", "its header")) from None
    tokenizer = tokenizer_from(file.metadata, str(path))
    lineage, template = _identity(file, weights, tokenizer)
    chat = tokenizer and tokenizer.chat_template
    return GGUFModel(weights, tokenizer, template, lineage, HFExtras(chat_template=None if template else chat))


def _identity(file: GGUFFile, weights: HFModel, tokenizer: Tokenizer | None) -> tuple[Lineage, Template | None]:
    note = read_note(file)
    if note is None:
        lineage = identify_hf(weights)
        return (dataclasses.replace(lineage, tokenizer=tokenizer.id) if tokenizer else lineage), None
    lineage = build(Lineage, note["lineage"], f"{file.path}: its lineage")
    if note.get("template") is None or tokenizer is None:
        return lineage, None
    return lineage, same_template(note["template"], note["template_id"], str(file.path), tokenizer)


def _as_hf(file: GGUFFile, config: ModelConfig, arch: str) -> dict[str, Tensor]:
    """The tensors by the names and in the forms of Hugging Face files; those without a place keep their own name."""
    left, found = {name: t for name, t in file.tensors.items() if name != FREQUENCIES}, {}
    for entry in family_of(config).names(config).entries:
        own = tensor_name(arch, entry.path)
        for layer in range(config.layers) if entry.per_layer else (None,):
            name = own if layer is None else own.format(layer=layer)
            if name in left:
                found[entry.name.format(layer=layer)] = _formed(left.pop(name), entry, config, arch)
    return found | left


def _formed(tensor: Tensor, entry: Entry, config: ModelConfig, arch: str) -> Tensor:
    if pairs_turned(arch, entry.path):
        heads = config.heads if "/q/" in entry.path else config.kv_heads
        if tensor.shape[0] % (2 * heads) == 0:      # else its shape is refused by name
            tensor = HeadsTurned(tensor, heads)
    turned = entry.path.endswith("/kernel") and entry.form != "transposed" and len(tensor.shape) == 2
    return _Transposed(tensor) if turned else tensor
