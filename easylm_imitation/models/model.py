"""`Model`: one generic transformer over a family's two modules. Outside this package a model is this and a plain dict.

    params = {"embed": ..., "final_norm": ..., ["unembed": ...,] "layers": {... every leaf with a leading dim L}}

Stacked layers run in one `lax.scan`, compiled once whatever the depth; `unstack` turns them into a tuple, which runs as
a Python loop: on CPU a scan copies each layer's slice of the weights, which costs decode up to a third of its speed.
"""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from easylm_imitation.models import cache as caching
from easylm_imitation.models.attention import attention as attend
from easylm_imitation.models.family import ModelConfig
from easylm_imitation.models.kernels import Quantised
from easylm_imitation.models.layers import product
from easylm_imitation.models.presets import family_of
from easylm_imitation.models.tree import attend_tree
from easylm_imitation.sharding import Rule, constrain, scan

Params = dict[str, Any]
Remat = Literal["none", "full", "dots", "save-qkv", "offload"]
_ROWS = ("replica", "data", "fsdp")
_QKV = ("q", "k", "v")          # what attention is given, by the names that remat policies know
_POLICIES = {
    "full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "save-qkv": jax.checkpoint_policies.save_only_these_names(*_QKV),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=list(_QKV), offload_src="device",
        offload_dst="pinned_host"),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A network without its numbers; hashable, so it may be a static argument of `jax.jit`. Made by `create`."""
    config: ModelConfig
    ends: nnx.GraphDef      # embedding, final norm, head
    block: nnx.GraphDef     # one layer

    def init(self, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Params:
        """Fresh parameters; jit it with out_shardings to make them where they belong. The mesh changes no value."""
        family = family_of(self.config)
        ends_key, layers_key = jax.random.split(key)
        stack_of = jax.vmap(functools.partial(_pure, family.block, self.config))
        layers = stack_of(jax.random.split(layers_key, self.config.layers))
        params = {**_pure(family.ends, self.config, ends_key), "layers": layers}
        return jax.tree.map(lambda x: x.astype(dtype), params)

    def abstract(self, dtype: jnp.dtype = jnp.float32) -> Params:
        """Shapes and dtypes of the parameters, stacked."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0), dtype))

    def rules(self, stacked: bool = True) -> tuple[Rule, ...]:
        """The sharding table of the parameters, for stacked or unstacked layers; a function of the config alone."""
        lead, place = ("layers/", (None,)) if stacked else (r"layers/\d+/", ())
        return tuple(
            Rule(lead + path.removeprefix("layers/"), PartitionSpec(*place, *spec)) if path.startswith("layers/")
            else Rule(path, spec) for path, spec in family_of(self.config).specs(self.config))

    def hidden(self, params: Params, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None, *,
               dtype: jnp.dtype = jnp.bfloat16, remat: Remat = "none", attention: str = "auto",
               unroll: bool = False) -> jax.Array:
        """tokens, positions, segment_ids [B, T] int32 -> states after the final norm [B, T, D] in `dtype`.

        D is the width of the head, which is d_model but for OPT-350M. Segments are the conversations of a packed row, 0
        is padding; None means one a row. Positions say where a token is embedded, and the order of the row what it
        sees. `remat`: what the backward pass recomputes: nothing, whole layers (`full`), all but the matmuls (`dots`),
        all but what attention is given (`save-qkv`; `offload` keeps that in the host's memory). `unroll` runs stacked
        layers without a loop.
        """
        ends = nnx.merge(self.ends, _without_layers(params))
        x, shared = ends.start(tokens, positions, dtype)

        def layer(x: jax.Array, weights: Params) -> jax.Array:
            block = nnx.merge(self.block, weights)
            with jax.named_scope("attention"):
                projected = block.project(_spread(x), shared)
                q, k, v = (checkpoint_name(part, name) for part, name in zip(projected, _QKV, strict=True))
                attended = attend(q, k, v, segment_ids, window=self.config.window, backend=attention)
            with jax.named_scope("finish"):
                return block.finish(x, attended)

        x = _run(layer, _spread(x), params["layers"], remat, unroll)
        return ends.norm(x)

    def head(self, params: Params) -> jax.Array | Quantised:
        """The head's kernel [D, V], in the parameters' dtype; the transposed embedding when tied."""
        return nnx.merge(self.ends, _without_layers(params)).head()

    def unembed(self, params: Params, hidden: jax.Array) -> jax.Array:
        """hidden [..., D] -> logits [..., V] float32, multiplied in the dtype of `hidden`."""
        kernel = self.head(params)
        if isinstance(kernel, Quantised):
            return kernel.times(hidden)
        kernel = kernel.astype(hidden.dtype)
        if hidden.ndim == 2:
            return product(hidden, kernel)
        return jnp.einsum("...d,dv->...v", hidden, kernel, preferred_element_type=jnp.float32)

    def init_cache(self, rows: int, length: int, dtype: jnp.dtype = jnp.float32, stacked: bool = True) -> caching.Cache:
        """An empty key-value cache for `extend`; `stacked` as the parameters are."""
        config = self.config
        return caching.make_cache(config.layers, rows, length, config.kv_heads, config.head_dim, dtype, stacked)

    def extend(self, params: Params, tokens: jax.Array, positions: jax.Array, cache: caching.Cache, *,
               dtype: jnp.dtype = jnp.bfloat16, span: int | None = None,
               rows: jax.Array | None = None) -> tuple[jax.Array, caching.Cache]:
        """Runs tokens [B, T] at `positions` [B, T] of the cache's first B rows: prefill and decode alike.

        `rows` [B] int32, all different, chooses other rows of the cache; those that do not exist are not written.

        Writes keys and values at (row, position) and attends to all cache entries of the row up to the own position, so
        whatever an earlier user of the row left behind later positions is never seen. A position at or beyond the
        cache's length marks padding: nothing is written, its output means nothing. `span` (static) promises that all
        real positions are below it, and spares the attention the rest of the cache. Donate the cache.
        Returns (states after the final norm [B, T, D], cache). Raises ValueError when one of params and cache is
        stacked and the other is not.
        """
        if isinstance(params["layers"], tuple) != isinstance(cache["k"], tuple):
            raise ValueError("params and cache must both be stacked, or both unstacked")
        ends = nnx.merge(self.ends, _without_layers(params))
        x, shared = ends.start(tokens, positions, dtype)

        def layer(x: jax.Array, weights: Params, keys: jax.Array, values: jax.Array, index: jax.Array | None) -> tuple:
            block = nnx.merge(self.block, weights)
            x = _spread(x)
            q, k, v = block.project(x, shared)
            keys, values = (caching.write(kept, new, positions, index, rows) for kept, new in ((keys, k), (values, v)))
            seen = tuple(caching.read(kept, index, span, len(x), rows) for kept in (keys, values))
            attended = attend(q, *seen, None, window=self.config.window, positions=positions,
                              key_positions=jnp.arange(seen[0].shape[1])[None])
            return block.finish(x, attended), keys, values

        run = _extend_loop if isinstance(params["layers"], tuple) else _extend_scan
        x, cache = run(layer, x, params["layers"], cache)
        return ends.norm(x), cache

    def branch(self, params: Params, tokens: jax.Array, positions: jax.Array, tree_ends: jax.Array,
               cache: caching.Cache, row: jax.Array, start: jax.Array, *,
               dtype: jnp.dtype = jnp.bfloat16) -> jax.Array:
        """Runs rows of trees, tokens [R, T], that all grow from one text in a cache that `extend` filled: the first
        `start` entries of its row `row` (both [] int32; start 0: from none). `tree_ends` as in models/tree.py.
        Returns states after the final norm [R, T, D].
        """
        ends = nnx.merge(self.ends, _without_layers(params))
        x, shared = ends.start(tokens, positions, dtype)

        def layer(x: jax.Array, weights: Params, keys: jax.Array, values: jax.Array, *place: jax.Array) -> jax.Array:
            block = nnx.merge(self.block, weights)
            x = _spread(x)
            attended = attend_tree(*block.project(x, shared), (keys, values), place, start, positions, tree_ends,
                                   self.config.window)
            return block.finish(x, attended)

        if isinstance(params["layers"], tuple):
            for this in zip(params["layers"], cache["k"], cache["v"], strict=True):
                x = layer(x, *this, row)
        else:   # the cache stays whole: as a scanned-over input, each layer's part of it would be copied
            x = scan(lambda x, this: (layer(x, this[0], cache["k"], cache["v"], this[1], row), None), x,
                     (params["layers"], jnp.arange(self.config.layers)))[0]
        return ends.norm(x)


@functools.lru_cache
def create(config: ModelConfig) -> Model:
    """The model of a config: its graph, without numbers."""
    family = family_of(config)

    def graph(module: Callable[..., nnx.Module]) -> nnx.GraphDef:
        return nnx.graphdef(nnx.eval_shape(lambda: module(config, nnx.Rngs(0))))
    return Model(config, graph(family.ends), graph(family.block))


def unstack(params: Params) -> Params:
    """Stacked layers become a tuple of L trees, each in arrays of its own."""
    return params if isinstance(params["layers"], tuple) else {**params, "layers": _split(params["layers"])}


def stack(params: Params) -> Params:
    """The way back from `unstack`."""
    return {**params, "layers": _join(params["layers"])} if isinstance(params["layers"], tuple) else params


@jax.jit  # one program for all slices; each by itself would be compiled for every layer
def _split(layers: Params) -> tuple[Params, ...]:
    count = jax.tree.leaves(layers)[0].shape[0]
    return tuple(jax.tree.map(lambda x, i=i: x[i], layers) for i in range(count))


@jax.jit
def _join(layers: tuple[Params, ...]) -> Params:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def _pure(module: Callable[..., nnx.Module], config: ModelConfig, key: jax.Array) -> Params:
    return nnx.to_pure_dict(nnx.state(module(config, nnx.Rngs(key))))


def _without_layers(params: Params) -> Params:
    return {name: value for name, value in params.items() if name != "layers"}


def _spread(x: jax.Array) -> jax.Array:
    """Activations [B, T, D]: rows over the data axes, positions over `sequence`, D whole."""
    return constrain(x, _ROWS, "sequence", None)


def _run(layer: Callable[[jax.Array, Params], jax.Array], x: jax.Array, layers: Any, remat: Remat,
         unroll: bool) -> jax.Array:
    if isinstance(layers, tuple):
        step = _checkpointed(layer, remat, prevent_cse=True)
        for weights in layers:
            x = step(x, weights)
        return x
    step = _checkpointed(layer, remat, prevent_cse=unroll)  # inside a scan nothing can be merged away, so no barriers
    return scan(lambda x, weights: (step(x, weights), None), x, layers, unroll)[0]


def _checkpointed(layer: Callable[..., jax.Array], remat: Remat, prevent_cse: bool) -> Callable[..., jax.Array]:
    if remat == "none":
        return layer
    if remat not in _POLICIES:
        raise ValueError(f"remat '{remat}' is not one of none, {', '.join(_POLICIES)}")
    return jax.checkpoint(layer, policy=_POLICIES[remat], prevent_cse=prevent_cse)


def _extend_loop(layer: Callable[..., tuple], x: jax.Array, layers: tuple,
                 cache: caching.Cache) -> tuple[jax.Array, caching.Cache]:
    keys, values = [], []
    for weights, k, v in zip(layers, cache["k"], cache["v"], strict=True):
        x, k, v = layer(x, weights, k, v, None)
        keys.append(k)
        values.append(v)
    return x, {"k": tuple(keys), "v": tuple(values)}


def _extend_scan(layer: Callable[..., tuple], x: jax.Array, layers: Params,
                 cache: caching.Cache) -> tuple[jax.Array, caching.Cache]:
    """The whole cache is carried and updated in place; as scanned input and output a second one would be allocated."""
    def step(carry: tuple, this: tuple) -> tuple[tuple, None]:
        weights, index = this
        return layer(carry[0], weights, carry[1], carry[2], index), None

    indices = jnp.arange(cache["k"].shape[0])
    (x, keys, values), _ = scan(step, (x, cache["k"], cache["v"]), (layers, indices))
    return x, {"k": keys, "v": values}
