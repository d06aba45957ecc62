"""What a compiled program does, read from the text of its optimised HLO: estimated cycles and collectives.

The compiler's own cost analysis counts the body of a loop once and knows nothing of kernels; here a body counts as
often as it runs. Ids in `replica_groups` are places in the mesh, so each collective is known by the axes that it runs
over. Between slices of TPUs the compiler writes what a device gives to its host, which sums or gathers it over the slow
network ("megascale").
"""
import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from easylm_imitation.sharding import across_slices

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_SENT = re.compile(r" = \((\w+\[[\d,]*\]).* send\(.*_xla_megascale_transfer_type=\"(\w+)\"")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8, "f64": 8}
_SMALL = 1e5        # bytes a step below which a collective is not worth a line


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind over the same axes in one step."""
    kind: str               # as HLO calls it
    axes: tuple[str, ...]   # mesh axes that it runs over; () where they could not be told
    beside: bool            # runs beside other work
    size: float             # bytes of the results, a device and step
    moved: float            # bytes that a device sends at least, by the best algorithm there is


class Program:
    """The computations of one HLO module, by name.

    >>> Program(compiled.as_text()).cycles()
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[str, list[str]] = {}
        name = ""
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith(" ") and "(" in line:
                name = "ENTRY" if line.startswith("ENTRY") else line.split(" ", 1)[0].lstrip("%")
                self._lines[name] = []
            elif line.startswith("  "):
                self._lines.setdefault(name, []).append(line)

    def cycles(self, name: str = "ENTRY") -> int:
        """The compiler's estimate for a computation, loops included; kernels carry none."""
        own = sum(int(n) for line in self._lines[name] for n in re.findall(r'"estimated_cycles":"(\d+)"', line))
        return own + sum(times * self.cycles(body) for body, times in self._loops(name))

    def collectives(self, mesh: Mapping[str, int], slices: int = 1) -> list[Collective]:
        """Those of one step, largest first; `mesh`: the axes in order, with their sizes."""
        self._across = tuple(axis for axis, times in across_slices(mesh, slices).items() if times > 1)
        self._slices = slices
        sizes: collections.Counter[tuple] = collections.Counter()
        moved: collections.Counter[tuple] = collections.Counter()
        self._count("ENTRY", 1, mesh, sizes, moved)
        found = [Collective(*key, size, moved[key]) for key, size in sizes.items() if size > _SMALL]
        return sorted(found, key=lambda c: -c.moved)

    def _loops(self, name: str) -> Iterator[tuple[str, int]]:
        """(body, how often it runs)."""
        for line in self._lines[name]:
            if loop := re.search(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)", line):
                limits = [int(n) for n in re.findall(r" constant\((\d+)\)", "\n".join(self._lines[loop[1]]))]
                yield loop[2], max(limits, default=1)

    def _count(self, name: str, times: int, mesh: Mapping[str, int], sizes: collections.Counter,
               moved: collections.Counter) -> None:
        for line, beside in self._collectives(name, False).values():
            match = _COLLECTIVE.search(line)
            group = _group(line, math.prod(mesh.values()))
            size = _size(match[1], bool(match[3]) and match[2] in ("all-gather", "collective-permute"))
            key = match[2], _axes(group, mesh), beside
            sizes[key] += times * size
            moved[key] += times * _moved(match[2], size, len(group))
        for line in self._lines[name]:
            if sent := _SENT.search(line):
                key, size = (sent[2].lower().replace("_", "-"), self._across, False), _size(sent[1], False)
                sizes[key] += times * size
                moved[key] += times * _moved(key[0], size, self._slices)
        for body, often in self._loops(name):
            self._count(body, times * often, mesh, sizes, moved)

    def _collectives(self, name: str, beside: bool) -> dict[tuple[str, str], tuple[str, bool]]:
        """{(kind, channel): (line, beside other work?)}; the parts of one fused collective share its channel."""
        made: dict[tuple[str, str], tuple[str, bool]] = {}
        for line in self._lines[name]:
            if match := _COLLECTIVE.search(line):
                channel = re.search(r"channel_id=(\d+)", line)
                made[match[2], channel[1] if channel else line] = line, beside or bool(match[3])
            for called in re.findall(r"(?:calls|to_apply)=%([\w.-]+)", line):
                for key, (inner, apart) in self._collectives(called, beside or "async_collective" in called).items():
                    made[key] = inner, apart or made.get(key, ("", False))[1]
        return made


def _moved(kind: str, size: float, devices: int) -> float:
    share = (devices - 1) / max(devices, 1)
    return {"all-reduce": 2 * share, "reduce-scatter": devices - 1, "collective-permute": 1}.get(kind, share) * size


def _size(shapes: str, halved: bool) -> int:
    """Bytes of the arrays of an HLO type; `halved`: it names operands first and then results, and these count."""
    sizes = [_BYTES.get(kind, 4) * math.prod(map(int, dims.split(",")))
             for kind, dims in re.findall(r"(\w+)\[([\d,]+)\]", shapes)]        # scalars keep the books
    return sum(sizes[len(sizes) // 2:] if halved and len(sizes) > 1 else sizes)


def _group(line: str, devices: int) -> list[int]:
    """The first group of devices that exchange with each other."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        return _iota(found[3], found[4]).reshape(int(found[1]), int(found[2]))[0].tolist()
    if found := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}",
                          line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        along = tuple(slice(None) if f"'{name}'" in found[4] else 0 for name in sizes)
        ids = _iota(found[2] or str(math.prod(sizes.values())), found[3])
        return ids.reshape(list(sizes.values()))[along].reshape(-1).tolist()
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line) or re.search(r"source_target_pairs=\{\{([\d,]+)\}",
                                                                              line):
        return [int(i) for i in found[1].split(",")]
    return list(range(devices))


def _iota(shape: str, transposed: str | None) -> np.ndarray:
    """Ids as HLO writes them: counted through `shape`, then with its dims in another order."""
    sizes = [int(d) for d in shape.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(d) for d in transposed.split(",")]) if transposed else ids


def _axes(group: list[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes along which the members of a group differ."""
    places = np.unravel_index(group, tuple(mesh.values()))
    return tuple(axis for axis, where in zip(mesh, places, strict=True) if len(set(where.tolist())) > 1)
