"""Memory and time of a training step by formula: for pruning a search, and where no compiler for the machine is here.

Memory of the state is exact: the shapes and shardings are those that training makes. The rest are the largest arrays
by name, fitted to what the TPU compiler says of LLaMA-2-7B on 64 v5e chips (within 6 %, tests/plan). Seconds are those
of a roofline: arithmetic at a share of the peak, traffic with memory, and what devices exchange, the exchange of
weights beside the arithmetic and that of gradients after it.
"""
import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from easylm_imitation.models import Adapters, LoraConfig, ModelConfig, create
from easylm_imitation.plan.pods import Pod
from easylm_imitation.sharding import AXES, across_slices
from easylm_imitation.train import OptimizerConfig, TrainConfig, make_optimizer
from easylm_imitation.train.speed import flops_per_token
from easylm_imitation.train.state import abstract_state, bytes_per_device, frozen_base

MATMULS, ATTENTION = 0.75, 0.5      # shares of the peak that matrix products and the attention kernel reach
_GATHERED = 1.75                    # layers whose whole weights are there at one time
_OVERLAPPED = 0.75                  # share of the gradients' sums that runs beside arithmetic with overlap_sums


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes a device needs at its peak."""
    weights: float
    optimizer: float
    gradients: float
    activations: float      # what is remembered for the backward pass
    working: float          # gathered weights, and what one layer or the loss holds at a time

    @property
    def peak(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Of one update."""
    arithmetic: float
    memory: float           # traffic with the device's memory
    beside: float           # exchange that can run beside arithmetic
    after: float            # exchange that cannot

    @property
    def step(self) -> float:
        """The whole update."""
        return max(self.arithmetic, self.memory, self.beside) + self.after


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What devices send each other in an update, by formula."""
    kind: str               # as HLO calls it
    axes: tuple[str, ...]   # mesh axes that it runs over
    beside: bool            # runs beside other work
    moved: float            # bytes that a device sends


@dataclasses.dataclass(frozen=True)
class Work:
    """One training setting on one mesh, in the letters of docs/architecture.md; all sizes are those of a device."""
    config: TrainConfig
    model: ModelConfig
    axes: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Of a micro-batch, on one device."""
        rows = self.config.data.batch // self.config.accumulate
        whole = self.axes["replica"] * self.axes["data"] * self.axes["fsdp"] * self.axes["sequence"]
        return rows * self.config.data.context // whole

    @property
    def width(self) -> int:
        """Bytes of a number of the activations."""
        return jnp.dtype(self.config.compute_dtype).itemsize

    def layer_weights(self) -> float:
        """Of one layer, split over `tensor` alone."""
        return _layer_weights(self.model) / self.axes["tensor"]

    def qkv(self) -> float:
        """Numbers a token that attention is given."""
        return (self.model.heads + 2 * self.model.kv_heads) * self.model.head_dim / self.axes["tensor"]

    def remembered(self) -> float:
        """Numbers a token and layer that wait for the backward pass."""
        d, f = self.model.d_model, self.model.d_ff / self.axes["tensor"]
        dots = 2 * d + self.qkv() + 2 * f
        return {"full": d, "offload": d, "save-qkv": d + self.qkv(), "dots": dots,
                "none": dots + 4 * d + 3 * f}[self.config.remat]


def memory(work: Work) -> Memory:
    """Bytes of one device."""
    trained, optimizer, frozen = _state(work.model, work.config.optimizer, tuple(work.axes.values()), work.config.lora,
                                        work.config.compute_dtype)
    n, d, f = work.tokens, work.model.d_model, work.model.d_ff / work.axes["tensor"]
    layer = n * (6 * f + 2 * d) * work.width
    loss = 2 * n * min(work.config.loss_chunk, work.model.vocab_size) * 4
    gathered = _GATHERED * work.layer_weights() * work.width if work.axes["fsdp"] > 1 else 0
    return Memory(weights=trained + frozen, optimizer=optimizer,
                  gradients=trained * (1 if work.config.accumulate == 1 else 2),
                  activations=n * work.remembered() * work.model.layers * work.width,
                  working=gathered + max(layer, loss))


@functools.cache
def _state(model: ModelConfig, optimizer: OptimizerConfig, sizes: tuple[int, ...], lora: LoraConfig | None,
           dtype: str) -> tuple[int, int, int]:
    """Bytes a device of the weights that are trained, of the optimizer, and of frozen weights."""
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    trained = Adapters(create(model), lora) if lora else create(model)
    state = abstract_state(trained, make_optimizer(optimizer, 1000)[0], mesh)
    frozen = bytes_per_device(frozen_base(create(model), jnp.dtype(dtype), mesh)) if lora else 0
    return bytes_per_device(state.params), bytes_per_device(state.optimizer), frozen


@functools.cache
def _layer_weights(model: ModelConfig) -> float:
    layers = jax.tree.leaves(create(model).abstract(jnp.float32)["layers"])
    return sum(leaf.size for leaf in layers) / model.layers


def seconds(work: Work, pod: Pod) -> Seconds:
    """Of one update on a pod."""
    micro, took = work.config.accumulate, {True: 0.0, False: 0.0}
    for found in exchanges(work, pod):
        took[found.beside] += exchange_seconds(work.axes, found.axes, found.moved, pod)
    return Seconds(micro * _arithmetic(work, pod), micro * _traffic(work, pod) + _update(work, pod), took[True],
                   took[False])


def flops(work: Work) -> tuple[float, float]:
    """(matrix products, attention) that a device really computes for a micro-batch, repeated parts included."""
    n, model, t = work.tokens, work.model, work.axes["tensor"]
    again = {"full": 1.0, "offload": 0.75, "save-qkv": 0.75, "dots": 0.0, "none": 0.0}[work.config.remat]
    products = n * model.matmul_weights() / t * ((4 if work.config.lora else 6) + 2 * again)    # frozen: no slopes
    # of the device that has the end of the rows, which sees the most keys: all wait for it
    keys = work.config.data.context * (1 - 0.5 / work.axes["sequence"])
    attention = n * model.layers * model.attention_dim / t * keys * 4 * (3.5 + (1 if again or
                                                                               work.config.remat == "dots" else 0))
    return products, attention


def model_flops(work: Work) -> float:
    """FLOPs of an update that count for MFU, over all devices."""
    tokens = work.config.data.batch * work.config.data.context
    return tokens * flops_per_token(work.model, work.config.data.context, work.config.lora is not None)


def _arithmetic(work: Work, pod: Pod) -> float:
    products, attention = flops(work)
    return (products / MATMULS + attention / ATTENTION) / pod.flops


def _traffic(work: Work, pod: Pod) -> float:
    """Weights are read three times, activations written and read in each layer."""
    weights = 3 * work.model.parameters() / work.axes["tensor"] * work.width
    n, d, f = work.tokens, work.model.d_model, work.model.d_ff / work.axes["tensor"]
    activations = 3 * n * work.model.layers * (10 * d + 4 * f) * work.width
    return (weights + activations) * pod.chip.cores / pod.chip.memory_bandwidth


def _update(work: Work, pod: Pod) -> float:
    """The optimizer reads and writes weights, moments and gradients."""
    found = memory(work)
    return 2 * (found.weights + found.optimizer + found.gradients) * pod.chip.cores / pod.chip.memory_bandwidth


def exchanges(work: Work, pod: Pod) -> list[Exchange]:
    """What devices exchange in an update. Gradients are summed in steps: over `fsdp` and `sequence` inside a slice, in
    the compute dtype and whole (the compiler makes no reduce-scatter of it); then each device its own share, once an
    update and in float32, over `data` and, between slices, over `replica`."""
    axes, model, micro = work.axes, work.model, work.config.accumulate
    fsdp, sequence, tensor = axes["fsdp"], axes["sequence"], axes["tensor"]
    weights = model.parameters() / tensor * work.width
    passes = 4 + (2 if work.config.remat in ("full", "offload", "save-qkv") else 0)
    layer = work.tokens * model.d_model * work.width
    keys = 2 * model.kv_heads * model.head_dim / tensor * work.tokens * work.width
    share = 4 * model.parameters() / (fsdp * tensor)
    ways = fsdp * sequence
    summed = micro * 2 * weights * (ways - 1) / ways
    beside = _OVERLAPPED if work.config.overlap_sums else 0.0
    found = [
        # weights forward and backward, beside the arithmetic
        Exchange("all-gather", ("fsdp",), True, micro * 2 * weights * (fsdp - 1) / fsdp),
        Exchange("all-reduce", ("fsdp", "sequence"), True, beside * summed),
        Exchange("all-reduce", ("fsdp", "sequence"), False, (1 - beside) * summed),
        # sums of each layer; keys and values before the attention kernel, forward and backward, and their slopes behind
        Exchange("all-reduce", ("tensor",), False, micro * passes * model.layers * 2 * layer * (tensor - 1) / tensor),
        Exchange("all-gather", ("sequence",), False, micro * 3 * model.layers * keys * (sequence - 1)),
        *(Exchange("all-reduce", (axis,), False, 2 * share * (axes[axis] - 1) / axes[axis])
          for axis in ("data", "replica"))]
    return [dataclasses.replace(each, axes=tuple(axis for axis in each.axes if axes[axis] > 1))
            for each in found if each.moved]


def exchange_seconds(axes: Mapping[str, int], over: tuple[str, ...], moved: float, pod: Pod) -> float:
    """Of so many bytes that a device sends over some axes of the mesh."""
    together = pod.devices if between_slices(axes, over, pod) else math.prod(axes[axis] for axis in over)
    return moved / bandwidth(pod, together)


def between_slices(axes: Mapping[str, int], over: tuple[str, ...], pod: Pod) -> bool:
    """Whether an exchange over some axes of the mesh goes over the data centre's network: one of them lies across
    slices."""
    outer = across_slices(axes, pod.devices // pod.fast_devices)
    return any(outer[axis] > 1 for axis in over)


def bandwidth(pod: Pod, size: int) -> float:
    """Bytes a second that a device can send to the others of an axis of that size."""
    if size > pod.fast_devices:
        return pod.chip.slow_bandwidth / pod.chip.cores
    if not pod.shape:
        return pod.chip.link_bandwidth
    sides = sorted((int(side) for side in pod.shape.split("x")), reverse=True)
    dims = next((i for i in range(1, len(sides) + 1) if math.prod(sides[:i]) * pod.chip.cores >= size), len(sides))
    return 2 * dims * pod.chip.link_bandwidth / pod.chip.cores
