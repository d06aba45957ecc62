"""What a training run would need on a pod: memory against capacity, time of an update, hours and dollars.

`plan` answers for one setting, `search` finds the fastest that fits: all settings by formula, the best few by the
compiler.
"""
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

from easylm_imitation.models import ModelConfig
from easylm_imitation.plan import estimate
from easylm_imitation.plan.compiler import Compiled, compile_all, compile_step
from easylm_imitation.plan.estimate import ATTENTION, MATMULS, Exchange, Memory, Seconds, Work
from easylm_imitation.plan.hlo import Collective, Program
from easylm_imitation.plan.pods import Pod
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import mesh_sizes
from easylm_imitation.train import TrainConfig
from easylm_imitation.train.place import check_split

CLOCKS = {"TPU v5e": 1.5e9, "TPU v5p": 1.75e9}     # Hz, of the cycles that the compiler estimates
_OVERLAPS = "TPU v5e"        # the others' compilers refuse `overlap_sums`
_REMATS = ("none", "dots", "save-qkv", "full")      # the more memory, the less time
_FINALISTS = 3
_MARGIN = 0.97      # of the capacity, by formula


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one setting takes."""
    work: Work
    pod: Pod
    memory: Memory                      # parts by formula; the state is exact
    peak: float | None                  # bytes a device; None: more than there is, as the compiler says
    needed: str                         # the compiler's words when it does not fit
    seconds: Seconds
    collectives: tuple[Collective | Exchange, ...]      # as compiled, or by formula
    compiled: bool                      # whether the compiler was asked
    cycles: bool                        # whether the time of arithmetic is the compiler's estimate

    @property
    def fits(self) -> bool:
        """Whether a device has room for it."""
        return self.peak is not None and self.peak <= self.pod.memory

    @property
    def exchanged_as_compiled(self) -> bool:
        """Whether `collectives` are those of the compiled program; else, or where there are none, by formula."""
        return any(isinstance(found, Collective) for found in self.collectives)

    @property
    def tokens_per_second(self) -> float:
        """Of all devices, padding included."""
        return self.work.config.data.batch * self.work.config.data.context / self.seconds.step

    @property
    def mfu(self) -> float:
        """Share of the peak that counted FLOPs take, as `train` reports it."""
        return estimate.model_flops(self.work) / self.seconds.step / self.pod.flops / self.devices

    @property
    def devices(self) -> int:
        """Devices that the mesh uses."""
        used = 1
        for size in self.work.axes.values():
            used *= size
        return used


def plan(config: TrainConfig, model: ModelConfig, pod: Pod, compiler: bool) -> Plan:
    """What one setting takes; `compiler`: ask it, or go by formula. Raises UserError for sizes that do not fit the
    mesh, and where the compiler fails."""
    work = work_of(config, model, pod)
    return _plan(work, pod, compile_step(work, pod) if compiler else None)


def work_of(config: TrainConfig, model: ModelConfig, pod: Pod) -> Work:
    """The setting on the pod's devices. Raises UserError for sizes that do not fit each other."""
    axes = mesh_sizes(config.mesh, pod.devices)
    model.check_context(config.data.context)
    _check(config, axes)
    if config.overlap_sums and pod.chip.name != _OVERLAPS:
        raise UserError(f"overlap_sums=true is for {_OVERLAPS}, and {pod.name} is {pod.described}; leave it out")
    return Work(config, model, axes)


def search(config: TrainConfig, model: ModelConfig, pod: Pod, compiler: bool,
           say: Callable[[str], None] = lambda line: None) -> list[Plan]:
    """Settings of mesh, remat and accumulate that fit, the fastest first; the batch stays what it is. Empty when none
    does. The best by formula are compiled, and those that then do not fit are left out."""
    works = list(_settings(config, model, pod))
    tried = sorted((_plan(work, pod, None) for work in works), key=lambda p: p.seconds.step)
    fitting = [p for p in tried if p.peak is not None and p.peak <= _MARGIN * pod.memory]
    say(f"{len(works)} settings, {len(fitting)} of them fit by formula")
    if not compiler:
        return fitting
    for start in range(0, len(fitting), _FINALISTS):
        some = fitting[start:start + _FINALISTS]
        say("compiling " + "; ".join(described(p.work) for p in some))
        done = compile_all([p.work for p in some], pod, beside=min(2, os.cpu_count() or 1))
        plans = [_plan(p.work, pod, found) for p, found in zip(some, done, strict=True)
                 if isinstance(found, Compiled)]
        if good := sorted((p for p in plans if p.fits), key=lambda p: p.seconds.step):
            return good
    return []


def described(work: Work) -> str:
    """A setting in words."""
    axes = ",".join(f"{axis}:{size}" for axis, size in work.axes.items() if size > 1) or "one device"
    return f"{axes} remat={work.config.remat} accumulate={work.config.accumulate}"


def advice(found: Plan) -> list[str]:
    """What dominates, and what to change."""
    memory, seconds, work = found.memory, found.seconds, found.work
    said = []
    state = memory.weights + memory.optimizer + memory.gradients
    if not found.fits:
        said.append(_smaller(found, state))
    part, share = max(((name, value) for name, value in dataclasses.asdict(memory).items()), key=lambda kv: kv[1])
    said.append(f"memory: {part} are the largest part, {share / memory.peak:.0%}")
    if found.fits and work.config.remat == "full" and memory.activations < 0.3 * found.pod.memory:
        said.append("memory is left: remat=save-qkv or dots computes less again; --search tries them")
    slowest = max(("arithmetic", seconds.arithmetic), ("traffic with memory", seconds.memory),
                  ("exchange of weights", seconds.beside), key=lambda kv: kv[1])
    said.append(f"time: {slowest[0]} takes {slowest[1] / seconds.step:.0%} of an update, sums that nothing hides "
                f"{seconds.after / seconds.step:.0%}")
    summed = sum(estimate.exchange_seconds(work.axes, each.axes, each.moved, found.pod) for each in found.collectives
                 if each.kind == "all-reduce" and "fsdp" in each.axes and not each.beside)
    if found.pod.chip.name == _OVERLAPS and not work.config.overlap_sums and summed > 0.05 * seconds.step:
        said.append("the sums of gradients come after the arithmetic: overlap_sums=true puts most of them beside it")
    if seconds.after + max(seconds.beside - seconds.arithmetic, 0) > 0.3 * seconds.step:
        said.append("the network holds it back: more tokens a device (a larger data.batch, a smaller accumulate), "
                    "fewer chips, or less of the tensor axis")
    return said


def _smaller(found: Plan, state: float) -> str:
    if state > found.pod.memory:
        return (f"weights, optimizer and gradients alone take {state / 1e9:.1f} GB of {found.pod.memory / 1e9:.1f} GB "
                "a device: more chips along fsdp, a larger pod, or optimizer.name=adafactor or lion")
    config, axes = found.work.config, found.work.axes
    rows = config.data.batch // config.accumulate // (axes["replica"] * axes["data"] * axes["fsdp"])
    ways = [("remat=full", config.remat != "full"), ("a larger accumulate", rows > 1),
            ("a smaller loss_chunk", config.loss_chunk > 1024),
            ("a sequence or tensor axis", True), ("a smaller data.context", rows <= 1)]
    return "it does not fit: " + ", ".join(way for way, open_still in ways if open_still)


def _plan(work: Work, pod: Pod, compiled: Compiled | UserError | None) -> Plan:
    memory, seconds = estimate.memory(work), estimate.seconds(work, pod)
    if not isinstance(compiled, Compiled):
        return Plan(work, pod, memory, memory.peak, "", seconds, tuple(estimate.exchanges(work, pod)), False, False)
    collectives: Sequence[Collective | Exchange] = estimate.exchanges(work, pod)
    clock = CLOCKS.get(pod.chip.name)
    if compiled.text:
        program = Program(compiled.text)
        collectives = compiled_in = program.collectives(work.axes, pod.devices // pod.fast_devices)
        seconds = dataclasses.replace(seconds, **_exchanges(compiled_in, work, pod))
        cycles = program.cycles() if clock else 0
        if cycles:
            kernel = work.config.accumulate * estimate.flops(work)[1] / ATTENTION / pod.flops
            seconds = dataclasses.replace(seconds, arithmetic=cycles / clock + kernel, memory=0.0)
    return Plan(work, pod, memory, compiled.peak, compiled.needed, seconds, tuple(collectives), True,
                bool(compiled.text and clock))


def _exchanges(collectives: list[Collective], work: Work, pod: Pod) -> dict[str, float]:
    """Seconds that collectives take beside other work, and alone."""
    took = {True: 0.0, False: 0.0}
    for found in collectives:
        took[found.beside] += estimate.exchange_seconds(work.axes, found.axes, found.moved, pod)
    return {"beside": took[True], "after": took[False]}


def _settings(config: TrainConfig, model: ModelConfig, pod: Pod) -> Iterator[Work]:
    """All that could be tried: `tensor` and `sequence` up to 8, `replica` over the slices, fsdp the rest."""
    inner = pod.devices // pod.slices
    for tensor, sequence, remat in itertools.product((1, 2, 4, 8), (1, 2, 4), _REMATS):
        if inner % (tensor * sequence) or model.heads % tensor or model.kv_heads % tensor:
            continue
        mesh = f"replica:{pod.slices},fsdp:{inner // (tensor * sequence)},tensor:{tensor},sequence:{sequence}"
        rows = config.data.batch
        for accumulate in (k for k in range(1, rows + 1) if rows % k == 0):
            made = dataclasses.replace(config, mesh=mesh, remat=remat, accumulate=accumulate)
            try:
                yield work_of(made, model, pod)
            except UserError:
                break       # fewer rows than devices


def _check(config: TrainConfig, axes: dict[str, int]) -> None:
    """Raises UserError where the batch cannot be split over the mesh, as training would."""
    check_split("data.batch / accumulate", config.data.batch // config.accumulate, ("replica", "data", "fsdp"), axes)
    check_split("data.context", config.data.context, ("sequence",), axes)


ASSUMPTIONS = (f"matrix products at {MATMULS:.0%} of the peak where the compiler gives no cycles, the attention kernel "
               f"at {ATTENTION:.0%}", "weights are gathered beside the arithmetic; sums that the compiler does not put "
               "beside it come after it", "links at their full bandwidth, a ring over as many dimensions of the pod as "
               "an axis needs", "no time for input, checkpoints, validation or stops")
