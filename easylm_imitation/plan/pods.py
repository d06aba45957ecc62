"""Machines by the names that clouds give them: what a chip has, how the chips of a pod are laid out, what they cost.

    v5e-64  v5litepod-64  v6e-64      as many chips as the name says
    v4-128  v5p-128  tpu7x-128        half as many: these names count cores
    v5e-64x2                          two slices, joined by the data centre's network
    h200x8  a100x8                    GPUs; up to eight are joined by NVLink
"""
import dataclasses
import math
import re

from easylm_imitation.schema import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip has. Bandwidths in bytes a second, of one direction."""
    name: str
    flops: float                # FLOP/s in bfloat16
    memory: float               # bytes that a program may use
    memory_bandwidth: float
    link_bandwidth: float       # of one link to a neighbour; a ring over an axis of the pod uses it both ways
    slow_bandwidth: float       # of the network between slices or machines, a chip
    dollars: float              # an hour on demand: the list price, which changes; `--price` sets another
    cores: int = 1              # that the compiler sees as devices
    counted: int = 1            # units that a cloud's name counts, a chip
    compiler: str = ""          # the TPU compiler's name of the chip; "" where there is none
    options: tuple[tuple[str, str], ...] = ()       # of the compiler's topology
    shapes: tuple[str, ...] = ()


def _grid(*sizes: str) -> tuple[str, ...]:
    return sizes


_FLAT = _grid("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = _grid("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
_GIB = 2.0**30

# Peaks, memory and links: the makers' pages (docs.cloud.google.com/tpu/docs/v5e and its sisters; NVIDIA's data sheets).
# Memory of TPUs is what their compiler lets a program use. Prices: on demand, US regions, as listed in 2025.
CHIPS: dict[str, Chip] = {
    "v4": Chip("TPU v4", 275e12, 30.75 * _GIB, 1228e9, 45e9, 6.25e9, 3.22, 1, 2, "v4",
               (("chip_config_name", "megacore"),), _CUBE),
    "v5e": Chip("TPU v5e", 197e12, 15.75 * _GIB, 819e9, 45e9, 3.1e9, 1.20, 1, 1, "v5e", (), _FLAT),
    "v5p": Chip("TPU v5p", 459e12, 95.74 * _GIB, 2765e9, 90e9, 6.25e9, 4.20, 1, 2, "v5p", (), _CUBE),
    "v6e": Chip("TPU v6e", 918e12, 31.25 * _GIB, 1638e9, 90e9, 12.5e9, 2.70, 1, 1, "v6e", (), _FLAT),
    "tpu7x": Chip("TPU7x", 2307e12, 189 * _GIB, 7380e9, 100e9, 12.5e9, 12.0, 2, 2, "tpu7x", (), ("1x1x1", *_CUBE)),
    "a100": Chip("NVIDIA A100 80GB", 312e12, 0.95 * 80e9, 2039e9, 300e9, 25e9, 3.67),
    "h100": Chip("NVIDIA H100", 989e12, 0.95 * 80e9, 3350e9, 450e9, 50e9, 9.80),
    "h200": Chip("NVIDIA H200", 989e12, 0.95 * 141e9, 4800e9, 450e9, 50e9, 10.60),
    "b200": Chip("NVIDIA B200", 2250e12, 0.95 * 180e9, 8000e9, 900e9, 50e9, 15.0),
}
_ALIASES = {"v5litepod": "v5e", "v7x": "tpu7x", "v7": "tpu7x"}
_A_MACHINE = 8      # GPUs


@dataclasses.dataclass(frozen=True)
class Pod:
    """Chips that run one program."""
    name: str
    chip: Chip
    chips: int                  # of all slices
    slices: int = 1
    shape: str = ""             # of one slice, "8x8"; "" for GPUs

    @property
    def devices(self) -> int:
        """How many devices jax sees."""
        return self.chips * self.chip.cores

    @property
    def topology(self) -> str:
        """The compiler's name of a slice, "v5e:8x8"; "" where no compiler for it is here."""
        return f"{self.chip.compiler}:{self.shape}" if self.chip.compiler else ""

    @property
    def memory(self) -> float:
        """Bytes a device."""
        return self.chip.memory / self.chip.cores

    @property
    def flops(self) -> float:
        """Peak FLOP/s of a device."""
        return self.chip.flops / self.chip.cores

    @property
    def fast_devices(self) -> int:
        """Devices of one slice, or of one machine with GPUs: within it links are fast."""
        whole = self.devices // self.slices
        return whole if self.shape else min(whole, _A_MACHINE)

    @property
    def described(self) -> str:
        """In words."""
        each = f"{self.chips // self.slices} chips" + (f" as {self.shape}" if self.shape else "")
        return f"{self.chip.name}, " + (each if self.slices == 1 else f"{self.slices} slices of {each}")


def find_pod(name: str) -> Pod:
    """The pod of a name. Raises UserError for one that no cloud offers, with the nearest that there is."""
    text = name.strip().lower()
    if found := re.fullmatch(r"([a-z]+\d+)(?:x(\d+))?", text):
        if found[1] in CHIPS and not CHIPS[found[1]].compiler:
            return _gpus(name, found[1], int(found[2] or 1))
    found = re.fullmatch(r"([a-z]*\d+[a-z]*)-(\d+)(?:x(\d+))?", text)
    kind = found and _ALIASES.get(found[1], found[1])
    if not found or kind not in CHIPS:
        raise UserError(f"--topology {name}: unknown{nearest(text.partition('-')[0], CHIPS)}; name a TPU pod as in "
                        "'v5e-64', 'v4-128' or 'v5e-64x2' (two slices), or GPUs as in 'h100x8'")
    if not CHIPS[kind].compiler:
        raise UserError(f"--topology {name}: GPUs are written {kind}x{found[2]}")
    chip, units, slices = CHIPS[kind], int(found[2]), int(found[3] or 1)
    by_units = {math.prod(map(int, shape.split("x"))) * chip.counted: shape for shape in chip.shapes}
    if units not in by_units or slices < 1:
        raise UserError(f"--topology {name}: {chip.name} comes in {kind}-" + ", ".join(map(str, by_units)))
    return Pod(name, chip, units // chip.counted * slices, slices, by_units[units])


def _gpus(name: str, kind: str, count: int) -> Pod:
    if count < 1 or count > _A_MACHINE and count % _A_MACHINE:
        raise UserError(f"--topology {name}: up to {_A_MACHINE} GPUs, or a multiple of it")
    return Pod(name, CHIPS[kind], count)
