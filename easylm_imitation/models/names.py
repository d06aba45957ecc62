"""How a family's parameters are called and laid out in Hugging Face files: a table of entries, one a parameter."""
import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter path and its tensor name; `{layer}` in the name stands for the number of a layer.

    `form`: `same`, `transposed` (torch Linear keeps [out, in]), or `merged` (our [D, 3, D] and [3, D] are [D, 3 D]
    and [3 D] in the file).
    """
    path: str
    name: str
    form: Literal["same", "transposed", "merged"] = "same"

    @property
    def per_layer(self) -> bool:
        """Whether the parameter is stacked over layers, one tensor a layer in the file."""
        return "{layer}" in self.name

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a parameter of `shape` (one layer's)."""
        if self.form == "transposed":
            return shape[::-1]
        if self.form == "merged":
            return (*shape[:-2], math.prod(shape[-2:]))
        return shape


@dataclasses.dataclass(frozen=True)
class NameMap:
    """All entries of one config, and what else files of this family carry.

    `ignored`: patterns of tensors without weights (mask buffers). `copies`: tensors that older exporters write although
    they repeat another (a tied head): {copy: original}. `prefix` may be missing from every name of a file.
    """
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
