"""Ordered rules from parameter paths to mesh axes, strict both ways.

A rule is a regular expression that must match a whole path (`layers/attention/q/kernel`) and the spec of such tensors.
The first match wins; a path that no rule names is an error, as is a rule that wins no path: typos show at once.
"""
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from easylm_imitation.schema import UserError
from easylm_imitation.sharding.mesh import axis_size

Tree = Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a sharding table: tensors whose whole path matches `pattern` are laid out as `spec`."""
    pattern: str
    spec: PartitionSpec


def map_paths(function: Callable[[str, Any], Any], tree: Tree) -> Tree:
    """Applies `function(path, leaf)` to each leaf; paths are `/`-joined keys and indices."""
    return jax.tree_util.tree_map_with_path(lambda keys, leaf: function(_join(keys), leaf), tree)


def leaf_paths(tree: Tree) -> dict[str, Any]:
    """{path: leaf}, in tree order."""
    return {_join(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def specs(rules: Sequence[Rule], tree: Tree) -> Tree:
    """A tree of PartitionSpecs like `tree` (arrays or ShapeDtypeStructs).

    Raises UserError for a path without a rule, a rule without a path, and a spec longer than its tensor has dims.
    """
    used: set[Rule] = set()

    def spec_of(path: str, leaf: Any) -> PartitionSpec:
        rule = next((r for r in rules if re.fullmatch(r.pattern, path)), None)
        if rule is None:
            raise UserError(f"parameter '{path}' {tuple(leaf.shape)}: no sharding rule names it; add a rule for it")
        if len(rule.spec) > len(leaf.shape):
            raise UserError(f"parameter '{path}' {tuple(leaf.shape)}: the rule '{rule.pattern}' gives {rule.spec}, "
                            "which has more dims; shorten it")
        used.add(rule)
        return rule.spec

    made = map_paths(spec_of, tree)
    unused = [rule.pattern for rule in rules if rule not in used]
    if unused:
        raise UserError(f"sharding rule '{unused[0]}' names no parameter (a typo, or hidden by an earlier rule); "
                        "mend or remove it")
    return made


def shardings(mesh: Mesh, rules: Sequence[Rule], tree: Tree) -> Tree:
    """A tree of NamedShardings like `tree`. Raises UserError as `specs` does, and when axes do not divide a dim."""
    def checked(path: str, leaf: Any, spec: PartitionSpec) -> NamedSharding:
        for dim, axes in enumerate(spec):
            if leaf.shape[dim] % axis_size(mesh, axes):
                raise UserError(f"parameter '{path}' {tuple(leaf.shape)}: dim {dim} of size {leaf.shape[dim]} cannot "
                                f"be split over the mesh axis {axes} of size {axis_size(mesh, axes)}; "
                                "choose a size that divides it")
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf, spec: checked(_join(keys), leaf, spec), tree, specs(rules, tree))


def like_params(param_shardings: Tree, opt_state: Tree) -> Tree:
    """Shardings of an optimizer's state: a leaf whose path ends in a parameter's whole path follows it.

    `opt_state` is abstract (from `jax.eval_shape(optimizer.init, params)`). All else is replicated, as is state that
    its parameter's spec does not fit (factored moments). Raises ValueError for a tree without parameters.
    """
    by_path = leaf_paths(param_shardings)
    if not by_path:
        raise ValueError("like_params: no parameters")
    replicated = NamedSharding(next(iter(by_path.values())).mesh, PartitionSpec())

    def follow(path: str, leaf: Any) -> NamedSharding:
        pieces = path.split("/")
        for start in range(len(pieces)):
            sharding = by_path.get("/".join(pieces[start:]))
            if sharding is not None:
                return sharding if _fits(sharding, leaf.shape) else replicated
        return replicated

    return map_paths(follow, opt_state)


def _fits(sharding: NamedSharding, shape: tuple[int, ...]) -> bool:
    sizes = [axis_size(sharding.mesh, axes) for axes in sharding.spec]
    return len(sizes) <= len(shape) and all(dim % size == 0 for dim, size in zip(shape, sizes, strict=False))


def _join(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
