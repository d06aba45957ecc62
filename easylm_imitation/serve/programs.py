"""The device programs of the server, compiled ahead of time for a fixed list of shapes.

    prefill(params, state, chunk)      a piece of some prompts (all but their last token), written straight into slots
    copy(params, state, move)          what one slot holds, into another whose prompt begins alike
    decode(params, state, order)       up to `steps` tokens for every live slot
    read(params, kept, piece, points)  a piece of a text that others begin with, into a row of the prefix cache
    score(params, kept, rows, points)  log-probabilities at chosen positions of rows of trees that grow from such a text

As answers are, alternatives are taken from the ids below the scalar `allowed`: the rest is padding of the vocabulary.

`state` and `kept` live on the device and are donated to the calls that change them. The compiled executables are called
directly: a shape that was not foreseen is an error, never a compilation. They are shared by all engines of one process
that have the same model config, shapes and devices, because `reproduce` serves several models of one kind in turn.

On a mesh (place.py) they are the same programs: the arguments say where things lie, and XLA splits the work.
"""
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from easylm_imitation.models import Model, ModelConfig, create, turned_kernels
from easylm_imitation.serve.config import MAX_STOP_IDS, TOP_SAMPLED, TOP_SCORED, Shapes
from easylm_imitation.serve.place import ROWS, Layout, prepared, turn
from easylm_imitation.serve.sampling import Knobs, Masks, Sampled, describe, mask_words, neutral, sample
from easylm_imitation.sharding import constrain
from easylm_imitation.weights import Bits

Tree = Any
Shape2 = tuple[int, int]


class State(NamedTuple):
    """What a running engine keeps on the device. B slots."""
    cache: Tree             # keys and values, [L, B, K, S, H] or one [B, K, S, H] a layer
    tokens: jax.Array       # int32 [B]: the newest token of each slot, not in the cache yet
    positions: jax.Array    # int32 [B]: where that token goes
    left: jax.Array         # int32 [B]: tokens still to generate; 0: nothing to do
    counts: jax.Array       # int32 [B, V]: how often the slot's answer has each token
    knobs: Knobs            # [B] each


class Chunk(NamedTuple):
    """A piece of P prompts, C tokens wide. A padding row has slot B, which does not exist: its writes are dropped."""
    slots: jax.Array        # int32 [P]
    tokens: jax.Array       # int32 [P, C]
    starts: jax.Array       # int32 [P]: position of the first token
    counts: jax.Array       # int32 [P]: tokens that are no padding, maybe 0
    newest: jax.Array       # int32 [P]: the prompt's last token, which decode will read
    left: jax.Array         # int32 [P]: tokens to generate; 0 while more chunks of the prompt follow
    knobs: Knobs            # [P] each


class Common(NamedTuple):
    """What sampling needs to know of the model's vocabulary, and of the requests at large."""
    stop_ids: jax.Array     # int32 [MAX_STOP_IDS], padded with -1
    allowed: jax.Array      # int32 []: ids from here on are padding of the vocabulary
    want_top: jax.Array     # bool []: somebody asked for alternatives
    masks: Masks            # [B]: what the grammars of constrained answers allow


class Order(NamedTuple):
    """One call of decode, which works on R rows."""
    slots: jax.Array        # int32 [R]: the slot of each row, all different; B, which does not exist, for padding
    steps: jax.Array        # int32 []: at most Shapes.steps


class Move(NamedTuple):
    """From slot to slot."""
    source: jax.Array       # int32 []
    target: jax.Array       # int32 []


class Rows(NamedTuple):
    """Rows of trees to score, R x T (models/tree.py); a padding cell is a tree of its own."""
    tokens: jax.Array       # int32 [R, T]
    positions: jax.Array    # int32 [R, T]: where a token stands in its text
    ends: jax.Array         # int32 [R, T]: index in the row where the cell's subtree ends


class Place(NamedTuple):
    """A place in the prefix cache."""
    row: jax.Array          # int32 []
    start: jax.Array        # int32 []: how many of its tokens count, or where the next one goes


class Points(NamedTuple):
    """Cells to project, as indices into the flattened rows, and the token whose probability is asked there."""
    indices: jax.Array      # int32 [cells]
    targets: jax.Array      # int32 [cells]
    count: jax.Array        # int32 []: how many are real


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled executables by shape, and the function that makes a fresh state."""
    prefill: dict[Shape2, Callable[..., Any]]
    copy: dict[Shape2, Callable[..., Any]]      # by (slots, length of the cache): there is one
    decode: dict[Shape2, Callable[..., Any]]
    read: dict[int, Callable[..., Any]]
    score: dict[Shape2, Callable[..., Any]]
    fresh: Callable[[], tuple[State, Tree]]     # state and prefix cache
    inputs: dict[tuple[str, Any], Tree]         # shapes and dtypes of what the host gives each, by (kind, shape)


_shared: dict[tuple, Programs] = {}
_lock = threading.Lock()


def get_programs(config: ModelConfig, shapes: Shapes, dtype: str, unstacked: bool, layout: Layout,
                 bits: Bits = "none") -> Programs:
    """Compiles every program of `shapes`, or returns those that this process already has."""
    key = (config, shapes, dtype, unstacked, layout, bits)
    with _lock:
        if key not in _shared:
            _shared[key] = _compile_all(create(config), shapes, jnp.dtype(dtype), unstacked, layout, bits)
        return _shared[key]


def prefill(model: Model, dtype: jnp.dtype, params: Tree, state: State, chunk: Chunk) -> State:
    """Reads a chunk of P prompts into the cache. Where a prompt ends, its slot comes alive with the prompt's last token
    as the newest, so that the first step of decode samples the first token of the answer.
    """
    slots, length = state.tokens.shape[0], _length(state.cache)
    offsets = jnp.arange(chunk.tokens.shape[1])
    # A position beyond the cache marks padding: extend drops what would be written there.
    positions = jnp.where(offsets < chunk.counts[:, None], chunk.starts[:, None] + offsets, length)
    _, cache = model.extend(params, chunk.tokens, positions, state.cache, dtype=dtype, rows=chunk.slots)
    target = jnp.where(chunk.left > 0, chunk.slots, slots)
    fresh = (chunk.newest, chunk.starts + chunk.counts, chunk.left, chunk.knobs)
    old = (state.tokens, state.positions, state.left, state.knobs)
    *fresh, knobs = jax.tree.map(lambda leaf, new: leaf.at[target].set(new, mode="drop"), old, fresh)
    return State(cache, *fresh, state.counts.at[target].set(0, mode="drop"), knobs)


def copy(state: State, move: Move) -> State:
    """Copies the cache of one slot, all positions of it, to another. What is behind a prompt is written before read."""
    def one(leaf: jax.Array) -> jax.Array:
        layers = (slice(None),) * (leaf.ndim - 4)
        # Gathered and scattered, not sliced: of a cache that lies on several devices, XLA would collect the whole.
        return leaf.at[(*layers, move.target[None])].set(leaf[(*layers, move.source[None])])
    return state._replace(cache=jax.tree.map(one, state.cache))


def decode(model: Model, dtype: jnp.dtype, max_steps: int, shape: Shape2, params: Tree, state: State, order: Order,
           common: Common) -> tuple[State, Sampled]:
    """Up to `order.steps` tokens for some slots, reading the first part of the cache: shape = (rows, length). With as
    many rows as there are slots, row i is slot i, or nobody.

    Sampled holds [max_steps, rows] entries; -1 stands where a row had nothing left to do.
    """
    rows, length = shape
    whole, alive = state, order.slots < len(state.tokens)
    # The cache stays whole and in place; a program for fewer rows copies the part of theirs that it reads.
    chosen = None if rows == len(state.tokens) else jnp.where(alive, order.slots, len(state.tokens))
    state = state._replace(cache=None)
    if chosen is not None:
        state = jax.tree.map(lambda leaf: leaf.at[chosen].get(mode="clip"), state)
        bits = common.masks.bits.at[chosen].get(mode="clip")
        common = common._replace(masks=common.masks._replace(bits=bits))
    state = state._replace(cache=whole.cache, left=jnp.where(alive, state.left, 0))
    advance = functools.partial(_one_step, model, dtype, length, params, common, chosen)
    blank = jax.eval_shape(lambda s: advance(s)[1], state)
    out = jax.tree.map(lambda leaf: jnp.full((max_steps, *leaf.shape), -1, leaf.dtype), blank)

    def more(carry: tuple) -> jax.Array:
        step, state, _ = carry
        return (step < order.steps) & jnp.any(state.left > 0)

    def body(carry: tuple) -> tuple:
        step, state, out = carry
        state, new = advance(state)
        return step + 1, state, jax.tree.map(lambda all_, one: all_.at[step].set(one), out, new)

    _, state, out = jax.lax.while_loop(more, body, (jnp.int32(0), state, out))
    rest = state._replace(cache=None)
    if chosen is not None:
        rest = jax.tree.map(lambda leaf, new: leaf.at[chosen].set(new, mode="drop"), whole._replace(cache=None), rest)
    return rest._replace(cache=state.cache), out


def read(model: Model, dtype: jnp.dtype, chunk: int, params: Tree, kept: Tree, tokens: jax.Array, place: Place,
         points: Points, allowed: jax.Array) -> tuple[Tree, Sampled]:
    """Reads tokens [C] into a row of the prefix cache, and answers what is asked about them."""
    positions = place.start + jnp.arange(len(tokens))
    hidden, kept = model.extend(params, tokens[None], positions[None], kept, dtype=dtype, rows=place.row[None])
    return kept, _project(model, chunk, params, hidden, points, allowed)


def score(model: Model, dtype: jnp.dtype, chunk: int, params: Tree, kept: Tree, rows: Rows, place: Place,
          points: Points, allowed: jax.Array) -> Sampled:
    """Log-probability of each point's target and the likeliest alternatives there ([R * T] entries)."""
    hidden = model.branch(params, rows.tokens, rows.positions, rows.ends, kept, place.row, place.start, dtype=dtype)
    return _project(model, chunk, params, hidden, points, allowed)


def _project(model: Model, chunk: int, params: Tree, hidden: jax.Array, points: Points,
             allowed: jax.Array) -> Sampled:
    """The head runs over `chunk` points at a time, and only over as many as there are: [R, T, V] never exists."""
    hidden = hidden.reshape(-1, hidden.shape[-1])
    size = len(points.indices)
    chunk = min(chunk, size)

    def some(start: jax.Array) -> Sampled:
        indices = jax.lax.dynamic_slice_in_dim(points.indices, start, chunk)
        targets = jax.lax.dynamic_slice_in_dim(points.targets, start, chunk)
        logits = _logits(model, params, constrain(hidden[indices], ROWS, None))
        return _on_all(describe(logits, targets, jnp.bool_(True), TOP_SCORED, allowed))

    blank = jax.eval_shape(some, jnp.int32(0))
    out = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), blank)

    def body(i: jax.Array, out: Sampled) -> Sampled:
        start = jnp.minimum(i * chunk, size - chunk)    # the last chunk may overlap the one before it
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, out, some(start))

    return jax.lax.fori_loop(0, (points.count + chunk - 1) // chunk, body, out)


def _one_step(model: Model, dtype: jnp.dtype, span: int, params: Tree, common: Common, chosen: jax.Array | None,
              state: State) -> tuple[State, Sampled]:
    """One token for each row that is not done; `chosen`: which rows of the cache are theirs."""
    live = state.left > 0
    positions = jnp.where(live, state.positions, _length(state.cache))      # idle slots write nothing
    hidden, cache = model.extend(params, state.tokens[:, None], positions[:, None], state.cache, dtype=dtype, span=span,
                                 rows=chosen)
    logits = _logits(model, params, hidden[:, 0])
    ids = constrain(sample(logits, state.knobs, state.positions + 1, common.allowed, state.counts, common.masks), ROWS)
    out = _on_all(describe(logits, ids, common.want_top, TOP_SAMPLED, common.allowed))
    counts = constrain(state.counts.at[jnp.arange(len(ids)), ids].add(live), ROWS, None)
    ids = out.ids
    left = jnp.where(_stops(ids, common), 0, state.left - 1)
    moved = (jnp.where(live, ids, state.tokens), jnp.where(live, state.positions + 1, state.positions),
             jnp.where(live, left, 0))
    return State(cache, *_on_all(moved), counts, state.knobs), out._replace(ids=jnp.where(live, ids, -1))


def _logits(model: Model, params: Tree, hidden: jax.Array) -> jax.Array:
    """[rows, V]: on a mesh the rows are spread, and each is whole where it is, since what follows works row by row."""
    parts = constrain(model.unembed(params, hidden), ROWS, "tensor")    # else the head would be gathered, not these
    return constrain(parts, ROWS, None)


def _on_all(tree: Tree) -> Tree:
    """Lets every device of a mesh have all of it."""
    return jax.tree.map(constrain, tree)


def _stops(ids: jax.Array, common: Common) -> jax.Array:
    return jnp.any(ids[:, None] == common.stop_ids, -1)


def _length(cache: Tree) -> int:
    leaf = jax.tree.leaves(cache)[0]
    return leaf.shape[leaf.ndim - 2]


def _compile_all(model: Model, shapes: Shapes, dtype: jnp.dtype, unstacked: bool, layout: Layout,
                 bits: Bits) -> Programs:
    """Lowers one program after the other (Python), compiles them side by side (XLA lets go of the interpreter)."""
    on_all = layout.spread()
    params = prepared(model, dtype, unstacked, bits)
    params = _at(jax.eval_shape(turn, params) if unstacked else params, layout.params(model, unstacked, bits))

    def fresh() -> tuple[State, Tree]:
        kept = model.init_cache(shapes.prefixes, shapes.context, dtype, stacked=not unstacked)
        return _fresh_state(model, shapes, dtype, unstacked), kept

    state, kept = jax.eval_shape(fresh)
    state_at = jax.tree.map(lambda leaf: on_all, state)._replace(
        cache=layout.cache(state.cache, ROWS), counts=layout.spread(ROWS))
    kept_at = layout.cache(kept, None)
    state, kept = _at(state, state_at), _at(kept, kept_at)
    layout.check_memory((state, kept), shapes.slots, shapes.context)
    flag = jax.ShapeDtypeStruct((), bool)
    bits = jax.ShapeDtypeStruct((shapes.slots, mask_words(model.config.vocab_size)), jnp.uint32)
    common = Common(_int32(MAX_STOP_IDS), _int32(), flag, Masks(bits, flag))
    given: dict[tuple[str, Any], Tree] = {}
    jobs: dict[tuple, Any] = {("fresh", ()): jax.jit(fresh, out_shardings=(state_at, kept_at)).lower()}

    def lower(name: str, shape: Any, call: Callable, own: Tree, *inputs: Tree, out: Any) -> None:
        """A program that is given the parameters and what it reads or changes; `out`: shardings of what it returns."""
        def run(params: Tree, *rest: Tree) -> Tree:
            with turned_kernels() if unstacked and name == "decode" else contextlib.nullcontext():
                return call(turn(params) if unstacked else params, *rest)
        given[name, shape] = inputs
        placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=on_all), inputs)
        jitted = jax.jit(run, donate_argnums=() if name == "score" else (1,), out_shardings=out)
        with contextlib.nullcontext() if layout.alone else jax.set_mesh(layout.mesh):
            jobs[name, shape] = jitted.lower(params, own, *placed)

    for shape in shapes.prefill:
        lower("prefill", shape, functools.partial(prefill, model, dtype), state, _chunk_shape(*shape), out=state_at)
    lower("copy", (shapes.slots, shapes.context), lambda _, state, move: copy(state, move), state,
          Move(_int32(), _int32()), out=state_at)
    for shape in shapes.decode:
        order = Order(_int32(shape[0]), _int32())
        call = functools.partial(decode, model, dtype, shapes.steps, shape)
        lower("decode", shape, call, state, order, common, out=(state_at, on_all))
    for size in shapes.read:
        call = functools.partial(read, model, dtype, shapes.head_chunk)
        lower("read", size, call, kept, _int32(size), _PLACE, _points_shape(size), _int32(), out=(kept_at, on_all))
    for rows, length in shapes.score:
        call = functools.partial(score, model, dtype, shapes.head_chunk)
        packed = Rows(*[_int32(rows, length)] * 3)
        given_rows = packed, _PLACE, _points_shape(rows * length), _int32()
        lower("score", (rows, length), call, kept, *given_rows, out=on_all)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = dict(zip(jobs, pool.map(lambda lowered: lowered.compile(), jobs.values())))
    kinds = ("prefill", "copy", "decode", "read", "score")
    groups = {kind: {shape: run for (k, shape), run in done.items() if k == kind} for kind in kinds}
    return Programs(**groups, fresh=done["fresh", ()], inputs=given)


def _at(abstract: Tree, where: Tree) -> Tree:
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), abstract, where)


def _fresh_state(model: Model, shapes: Shapes, dtype: jnp.dtype, unstacked: bool) -> State:
    slots = shapes.slots
    zeros = [jnp.zeros(slots, jnp.int32) for _ in range(3)]     # one buffer each: all of it is donated
    counts = jnp.zeros((slots, model.config.vocab_size), jnp.int32)
    cache = model.init_cache(slots, shapes.context, dtype, stacked=not unstacked)
    return State(cache, *zeros, counts, neutral(slots, jnp))


def _chunk_shape(rows: int, width: int) -> Chunk:
    row = _int32(rows)
    return Chunk(row, _int32(rows, width), row, row, row, row, jax.eval_shape(lambda: neutral(rows, jnp)))


def _int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _points_shape(size: int) -> Points:
    return Points(_int32(size), _int32(size), _int32())


_PLACE = Place(_int32(), _int32())
