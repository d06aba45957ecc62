"""One model on its devices, ready to run: parameters, slot state, compiled programs. No queue and no text in here.

An engine is used by one thread at a time. Its host side takes and gives numpy arrays; every array has one of the shapes
that were compiled, so that no call compiles anything (`compilations` counts, and must stay 0 after the start).
"""
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from easylm_imitation.models import ModelConfig, create
from easylm_imitation.schema import UserError
from easylm_imitation.serve.config import MAX_STOP_IDS, ServeConfig, shapes
from easylm_imitation.serve.place import Layout, bytes_on_device, mesh_of, prepare, processes
from easylm_imitation.serve.processes import Follower, Leader
from easylm_imitation.serve.programs import Chunk, Common, Move, Order, Place, Points, Rows, State, Tree, get_programs
from easylm_imitation.serve.sampling import Knobs, Masks, Sampled, mask_words, neutral


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to choose tokens; temperature 0 is greedy."""
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()    # (id, what is added to its logit), at most MAX_BIAS
    seed: int = 0                               # any int; its low 64 bits count


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A piece of a prompt on its way into a slot. The last token of a prompt is no part of any piece."""
    slot: int
    tokens: np.ndarray          # int32 [n], at most the chunk's width
    start: int                  # position of the first of them
    newest: int = 0             # the prompt's last token
    max_tokens: int = 0         # tokens to generate; 0 while more pieces of this prompt follow
    sampling: Sampling = Sampling()


class Engine:
    """Compiled programs and the state they run on. `param_bytes`, `position_bytes`: what one device of the mesh reads
    of the parameters in a step, and for one position of one slot.

    >>> engine = Engine(loaded.config, loaded.params, ServeConfig(), stop_ids=[2], vocab_size=tokenizer.vocab_size)
    """

    def __init__(self, model_config: ModelConfig, params: Tree, config: ServeConfig, *, stop_ids: Sequence[int],
                 vocab_size: int):
        """Compiles what this process has not compiled before. `vocab_size`: ids from there on are padding,
        never sampled and no alternatives.

        Raises UserError for a config that the model cannot meet.
        """
        self.layout = Layout(mesh_of(config.mesh))
        device = self.layout.mesh.devices.flat[0]
        self.layout.check(model_config, config.slots)
        if len(stop_ids) > MAX_STOP_IDS:
            raise UserError(f"{len(stop_ids)} stop ids; at most {MAX_STOP_IDS} fit")
        self.config = model_config
        self.shapes = shapes(config, model_context=model_config.context, vocab_size=model_config.vocab_size,
                             parameters=model_config.parameters(), platform=device.platform, ways=self.layout.ways)
        dtype = config.dtype_on(device.platform)
        unstacked = config.unstacked_on(device.platform, self.layout.mesh.size)
        self.vocab_size = min(vocab_size, model_config.vocab_size)
        self.device = device
        self._programs = get_programs(model_config, self.shapes, dtype, unstacked, self.layout,
                                      config.quantize)
        if self.layout.alone:
            params = jax.device_put(params, device)
        where = self.layout.params(create(model_config), unstacked, config.quantize)
        self._params = prepare(params, jnp.dtype(dtype), unstacked, where, config.quantize)
        self._stop_ids = np.full(MAX_STOP_IDS, -1, np.int32)
        self._stop_ids[:len(stop_ids)] = stop_ids
        self._state: State
        self._state, self._kept = self._programs.fresh()
        words = mask_words(model_config.vocab_size)
        # On the device already: who follows no grammar pays nothing for those who could.
        nothing = Masks(np.zeros((self.shapes.slots, words), np.uint32), np.bool_(False))
        self._open = jax.device_put(nothing, self.layout.spread())
        self.param_bytes = bytes_on_device(self._params)
        self.position_bytes = bytes_on_device(self._state.cache) / (self.shapes.slots * self.shapes.context)
        self._numbers = {call: i for i, call in enumerate(self._programs.inputs)}
        self._leader: Leader | None = None
        several = len(processes(self.layout.mesh)) > 1
        self._in_turn = several and device.platform == "cpu"    # there, collectives of two programs may meet
        self._compiles = _CompileCounter()

    @property
    def compilations(self) -> int:
        """Compilations in the engine's thread since `watch_compilations`."""
        return self._compiles.count

    def watch_compilations(self) -> None:
        """Counts compilations that happen in the calling thread from now on."""
        self._compiles.start()

    def close(self, failed: bool = False) -> None:
        """Frees the device memory of this engine; compiled programs stay for the next one. Other processes end too."""
        self._compiles.stop()
        if self._leader is not None:
            self._leader.close(failed)
        self._params = self._state = self._kept = self._open = None

    def lead(self, leader: Leader) -> None:
        """From now on the other processes of the mesh, which `follow`, run every program that this one runs."""
        self._leader = leader

    def follow(self, follower: Follower) -> None:
        """Runs what the leader runs, until it ends. Raises Lost when it is gone without a word."""
        calls = list(self._programs.inputs)
        for number, inputs in follower.calls(list(self._programs.inputs.values())):
            self._run(*calls[number], inputs)

    def prefill(self, shape: tuple[int, int], prompts: Sequence[Prompt]) -> None:
        """Reads pieces of at most `shape[0]` prompts, each at most `shape[1]` long."""
        chunk = _chunk(shape, prompts, self.shapes.slots)
        self._run("prefill", shape, (chunk,))

    def copy(self, source: int, target: int) -> None:
        """Lets a slot hold what another one holds."""
        self._run("copy", (self.shapes.slots, self.shapes.context), (Move(np.int32(source), np.int32(target)),))

    def decode(self, shape: tuple[int, int], slots: Sequence[int], steps: int, want_top: bool,
               masks: np.ndarray | None = None) -> Sampled:
        """Up to `steps` tokens for at most `shape[0]` slots: [steps, shape[0]] entries, id -1 where none. Row i is that
        of `slots[i]`; with a row for every slot, that of slot i.

        `masks` [slots, W] uint32: what grammars allow for the next token; they need steps = 1. Returns at once, with
        arrays on the device; `np.asarray` of one waits for it.
        """
        rows = np.full(shape[0], self.shapes.slots, np.int32)
        rows[slots if shape[0] == self.shapes.slots else np.arange(len(slots))] = slots
        order = Order(rows, np.int32(min(steps, self.shapes.steps)))
        allowed = self._open if masks is None else Masks(masks, np.bool_(True))
        common = Common(self._stop_ids, np.int32(self.vocab_size), np.bool_(want_top), allowed)
        out = self._run("decode", shape, (order, common))
        for part in out:
            part.copy_to_host_async()
        return out

    def read(self, row: int, tokens: np.ndarray, start: int, points: Points) -> Sampled:
        """Reads tokens, as many as one of `shapes.read`, into a row of the prefix cache, from position `start` on."""
        place = Place(np.int32(row), np.int32(start))
        out = self._run("read", len(tokens), (tokens, place, points, np.int32(self.vocab_size)))
        return Sampled(*map(np.asarray, out))

    def score(self, shape: tuple[int, int], rows: Rows, points: Points, row: int = 0, start: int = 0) -> Sampled:
        """Log-probabilities at `points` of rows of trees, which grow from the first `start` tokens of a row of the
        prefix cache. `shape` must be one of `shapes.score`.
        """
        place = Place(np.int32(row), np.int32(start))
        out = self._run("score", shape, (rows, place, points, np.int32(self.vocab_size)))
        return Sampled(*map(np.asarray, out))

    def _run(self, kind: str, shape: Any, inputs: Tree) -> Any:
        """Runs one program, here and in the processes that follow; what it returns besides the state that it changes.
        """
        if self._leader is not None:
            self._leader.tell(self._numbers[kind, shape], inputs)
        program, out = getattr(self._programs, kind)[shape], None
        if kind in ("prefill", "copy"):
            self._state = program(self._params, self._state, *inputs)
        elif kind == "decode":
            self._state, out = program(self._params, self._state, *inputs)
        elif kind == "read":
            self._kept, out = program(self._params, self._kept, *inputs)
        else:
            out = program(self._params, self._kept, *inputs)
        if self._in_turn:
            jax.block_until_ready((self._state, self._kept, out))
        return out


def _chunk(shape: tuple[int, int], prompts: Sequence[Prompt], slots: int) -> Chunk:
    rows, width = shape
    chunk = Chunk(
        slots=np.full(rows, slots, np.int32), tokens=np.zeros((rows, width), np.int32), starts=np.zeros(rows, np.int32),
        counts=np.zeros(rows, np.int32), newest=np.zeros(rows, np.int32), left=np.zeros(rows, np.int32),
        knobs=neutral(rows))
    for i, prompt in enumerate(prompts):
        count = len(prompt.tokens)
        chunk.slots[i], chunk.starts[i], chunk.counts[i] = prompt.slot, prompt.start, count
        chunk.tokens[i, :count], chunk.newest[i], chunk.left[i] = prompt.tokens, prompt.newest, prompt.max_tokens
        _put(chunk.knobs, i, prompt.sampling)
    return chunk


def _put(knobs: Knobs, row: int, sampling: Sampling) -> None:
    for name in ("temperature", "top_k", "top_p", "min_p", "presence", "frequency"):
        getattr(knobs, name)[row] = getattr(sampling, name)
    for i, (token, value) in enumerate(sampling.bias):
        knobs.bias_ids[row, i], knobs.biases[row, i] = token, value
    knobs.seed[row] = (sampling.seed >> 32) & 0xFFFFFFFF, sampling.seed & 0xFFFFFFFF


class _CompileCounter:
    """Counts XLA compilations of one thread; other threads of the process may train or compile as they like."""

    def __init__(self):
        self.count = 0
        self._thread: int | None = None

    def start(self) -> None:
        self.stop()
        self._thread = threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def stop(self) -> None:
        if self._thread is not None:
            self._thread = None
            jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and threading.get_ident() == self._thread:
            self.count += 1
