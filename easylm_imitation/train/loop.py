"""The training loop, top to bottom in the order in which things happen."""
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from easylm_imitation import console
from easylm_imitation.data import DataUse, batch_kinds, mixed_rows
from easylm_imitation.models import Adapters, Model, Params, create
from easylm_imitation.schema import UserError, plain
from easylm_imitation.sharding import make_mesh
from easylm_imitation.storage import on_disk
from easylm_imitation.train.checkpoint import Checkpoints, Progress
from easylm_imitation.train.compiled import CompiledStep
from easylm_imitation.train.config import TrainConfig
from easylm_imitation.train.interruption import Interruption
from easylm_imitation.train.lock import RunLock
from easylm_imitation.train.looks import Evaluate, Looks, check_looks
from easylm_imitation.train.metrics import MetricsLog, Recorder, read_metrics
from easylm_imitation.train.mix import open_data
from easylm_imitation.train.optimizer import make_optimizer
from easylm_imitation.train.place import BatchPlace
from easylm_imitation.train.profile import Profile, parse_profile
from easylm_imitation.train.restore import restore_newest, saved_steps
from easylm_imitation.train.schedule import warmup_updates
from easylm_imitation.train.speed import Speed
from easylm_imitation.train.start import Start, check_origin, lineage_at, open_run, prepare, workdir_of
from easylm_imitation.train.state import TrainState, abstract_state, bytes_per_device, init_state, state_from
from easylm_imitation.train.step import make_step
from easylm_imitation.train.teacher import open_teacher
from easylm_imitation.train.wandb_run import WandbRun
from easylm_imitation.weights import RunDir, open_model

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a run stands when `train` returns; loss and speed are those of metrics.jsonl's last line with a loss."""
    workdir: str
    step: int
    total_steps: int
    loss: float
    tokens: int                     # seen so far, without padding
    loss_tokens: int
    tokens_per_second: float
    seconds: float                  # of training so far, over all restarts
    interrupted: bool               # by SIGTERM or Ctrl-C; the same command continues
    data: DataUse                   # what a pass takes of the data, and what the context cuts off


def train(config: TrainConfig, *, data_dir: str | os.PathLike, workdir: str | os.PathLike, init: str | None = None,
          teacher: str | os.PathLike | None = None, mix: str | os.PathLike | None = None,
          evaluate: Evaluate | None = None, profile: str | None = None, stop_after: int | None = None) -> TrainResult:
    """Trains until the config's last step, from the newest checkpoint of `workdir` if there is one.

    `init`: a run dir or Hugging Face dir to start from (None: fresh weights). `teacher`: one to distil, or the cache of
    its best tokens; `config.distil` says how. `mix`: a dataset of which `config.mix` puts rows into each batch.
    `evaluate`: is given the model at each look, and returns scores to write down; for one process. `profile`:
    "FIRST:COUNT", updates of this call to trace. `stop_after`: return after so many updates, with a checkpoint; SIGTERM
    and Ctrl-C do so at the next. Raises UserError for whatever cannot be trained, before anything is written; for
    updates skipped too often (config.max_skips); and for a disk that fails: mended, the same command continues.
    """
    # ---- What shall run: checked whole, before the first file is written
    workdir, data_dir, traced = workdir_of(workdir), pathlib.Path(on_disk(data_dir)), parse_profile(profile)
    mix, teacher = mix and on_disk(mix), teacher and on_disk(teacher)
    mesh = make_mesh(config.mesh)
    check_looks(config, evaluate)
    start = prepare(config, data_dir, workdir, init, mesh, teacher, mix)
    model = create(start.model)
    adapters = Adapters(model, config.lora, config.seed) if config.lora else None
    optimizer, learning_rate = make_optimizer(config.optimizer, start.total_steps)
    place = BatchPlace(mesh, config.data.batch, config.data.context)

    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        taught = open_teacher(config, teacher, data_dir, mesh)
        loader = open_data(config, data_dir, mix, start.epochs, place.own_rows, taught.cache)

        # ---- Shapes and shardings first, then the weights, each straight into its place
        abstract = abstract_state(adapters or model, optimizer, mesh)
        _check_attention(config, model)
        lock = _closing(stack, RunLock(RunDir(workdir)))
        run, state, progress, position, base = _begin(start, adapters or model, optimizer, abstract, workdir, init,
                                                      mesh, lock)
        if position is not None:
            loader.set_state(position)
        done = progress.step

        # ---- One compiled update, and what is written down about it
        step_of = make_step(model, optimizer, learning_rate, mesh, abstract, distil=taught.distil, adapters=adapters,
                            **step_keys(config))
        beside = (*(taught.arguments or (None,)), base) if adapters else taught.arguments
        update = CompiledStep(step_of, abstract, place.abstract(batch_kinds(taught.cache)), beside, mesh)
        checkpoints = stack.enter_context(Checkpoints(run.checkpoints, config.keep, config.keep_every,
                                                      config.validation.keep_best))
        stack.enter_context(_published(run))
        log = _closing(stack, MetricsLog(run.metrics, run.tensorboard, done, _wandb(config, run), run.publish_soon))
        speed = Speed(start.model, config.data.context, mesh, frozen=adapters is not None)
        recorder = Recorder(log, progress, start.total_steps, config.log_every, config.max_skips, speed)
        looks = Looks(model, start, data_dir, mix, place, log, evaluate)
        last = min(start.total_steps, done + (stop_after or start.total_steps))
        _announce(start, abstract, mesh, progress, adapters)

        def save(wait: bool = False) -> None:
            recorder.flush()        # brings the totals up to this step, and says whether the weights can be trusted
            run.publish()           # what the checkpoint stands on
            if recorder.sound:
                checkpoints.save(state, loader.get_state(), recorder.progress, lineage_at(start, recorder.progress),
                                 looks.losses.get(recorder.progress.step))
            if wait:
                checkpoints.wait()

        # ---- Updates. The order matters: a step's scalars are read when the next is queued (the host never waits for
        # ---- the device), and the loader's position is saved before the next batch is drawn
        tracing = stack.enter_context(Profile(*traced, run.path / "profile"))
        interruption = stack.enter_context(Interruption())
        advance = stack.enter_context(console.progress("training", start.total_steps))
        advance(done)
        for step in range(done + 1, last + 1):
            with _data_of(step, data_dir, functools.partial(save, wait=True)):
                rows = next(loader)
            batch = place(rows)
            with tracing.update(step - done), jax.transfer_guard("disallow"):
                state, scalars = update(state, batch, *beside)
            recorder.push(step, scalars)
            stopping = step == last or interruption.requested(step)
            checkpoints.check()
            saving = stopping or step % config.checkpoint_every == 0
            if looks.due(step, saving, interruption.noticed):
                recorder.flush()
                looks(recorder.progress, adapters.attach(base, state.params) if adapters else state.params)
            if saving:
                save(wait=stopping)
            advance(note=recorder.note())
            if stopping:
                break
        return _result(run, recorder, start, interruption)


def _begin(start: Start, trained: Model | Adapters, optimizer: optax.GradientTransformation, abstract: TrainState,
           workdir: pathlib.Path, init: str | None, mesh: Mesh, lock: RunLock
           ) -> tuple[RunDir, TrainState, Progress, dict[str, Any] | None, Params | None]:
    """The run dir, made or found, and locked; its weights, restored, imported or fresh; how far it is, where in its
    data (None: at their start), and what adapters stand beside. Nothing else holds the weights at return: the first
    update gives them away."""
    continued, frozen = bool(saved_steps(RunDir(workdir))), start.config.lora is not None
    dtype = jnp.dtype(start.config.compute_dtype) if frozen else jnp.float32
    loaded = open_model(init, dtype=dtype, mesh=mesh) if init and (frozen or not continued) else None
    if loaded is not None:
        check_origin(start.card, loaded)
    run = open_run(start, workdir, loaded)
    lock.take()
    base = loaded.params if frozen else None
    if continued:
        restored = restore_newest(run, abstract)
        return run, restored.state, restored.progress, restored.position, base
    if loaded is not None and not frozen:
        return run, state_from(loaded.params, optimizer, abstract), Progress(), None, None
    return run, init_state(trained, optimizer, abstract, start.config.seed), Progress(), None, base


def step_keys(config: TrainConfig) -> dict[str, Any]:
    """What the config says of the step: keywords of `make_step`."""
    return {"accumulate": config.accumulate, "z_loss": config.z_loss, "loss_chunk": config.loss_chunk,
            "normalise": config.loss, "dtype": jnp.dtype(config.compute_dtype), "remat": config.remat,
            "attention": config.attention, "overlap_sums": config.overlap_sums,
            "mixed": mixed_rows(config.data.batch, config.mixed_rows) if config.mix else None}


def _wandb(config: TrainConfig, run: RunDir) -> WandbRun | None:
    """For the first process alone, as all that is written."""
    if config.wandb is None or jax.process_index():
        return None
    return WandbRun(config.wandb, config.name, run.path, plain(config))


def _check_attention(config: TrainConfig, model: Model) -> None:
    """Raises UserError when the backend asked for cannot compute these rows on these devices."""
    rows = jax.ShapeDtypeStruct((config.data.batch, config.data.context), jnp.int32)
    run = functools.partial(model.hidden, dtype=jnp.dtype(config.compute_dtype), attention=config.attention)
    jax.eval_shape(run, model.abstract(), rows, rows, rows)


@contextlib.contextmanager
def _data_of(step: int, data: str | os.PathLike, save: Callable[[], None]) -> Iterator[None]:
    """Saves what is done so far when the data of `step` cannot be read, then raises a UserError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        kept = ""
        if step > 1 and jax.process_count() == 1:       # of several, the others are in the midst of the update
            save()
            kept = f"; the {step - 1} updates before it are saved"
        raise UserError(f"{data}: the data of update {step} cannot be read ({' '.join(str(error).split())[:200]})"
                        f"{kept}. Put the shards back as they were, and the same command continues") from None


@contextlib.contextmanager
def _published(run: RunDir) -> Iterator[None]:
    """Sends what was written last, at whatever end; an error on its way is not replaced by a bucket's."""
    try:
        yield
    except BaseException:
        try:
            run.publish()
        except UserError as error:
            console.say(f"note: {error}")
        raise
    run.publish()


def _closing(stack: contextlib.ExitStack, thing: T) -> T:
    """Closes `thing` when the stack ends, however it ends."""
    return stack.enter_context(contextlib.closing(thing))


def _announce(start: Start, abstract: TrainState, mesh: Mesh, progress: Progress, adapters: Adapters | None) -> None:
    config, megabytes = start.config, bytes_per_device(abstract) / 1e6
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    console.say(f"{start.model.family} of {start.model.parameters():,} parameters; weights and optimizer take "
                f"{megabytes:,.1f} MB a device ({axes}); {start.total_steps} updates of {config.data.batch} rows of "
                f"{config.data.context} tokens")
    if adapters:
        console.say(f"trained are adapters of rank {config.lora.rank} to {adapters.told()}: "
                    f"{sum(leaf.size for leaf in jax.tree.leaves(abstract.params)):,} parameters; the rest stays as it "
                    f"is, in {config.compute_dtype}")
    if progress.step:
        console.say(f"continuing after update {progress.step}")
    warmup = warmup_updates(config.optimizer, start.total_steps)
    if warmup > start.total_steps:
        console.say(f"note: the warm-up of {warmup} updates is longer than the run; the peak is never reached")


def _result(run: RunDir, recorder: Recorder, start: Start, interruption: Interruption) -> TrainResult:
    progress = recorder.progress
    lines = [recorder.last] if recorder.last else [x for x in read_metrics(run.metrics) if x["loss"] is not None]
    last = lines[-1] if lines else {"loss": float("nan"), "tokens_per_second": 0.0}
    return TrainResult(
        run.shown, progress.step, start.total_steps, last["loss"], progress.tokens, progress.loss_tokens,
        last["tokens_per_second"], progress.seconds, interruption.noticed and progress.step < start.total_steps,
        start.use)
