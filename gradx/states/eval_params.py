"""The parameters to evaluate with: an average, where a state holds one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from gradx.codecs.stored import decode_state
from gradx.core.foreign import widened
from gradx.core.transformation import HINT
from gradx.core.tree import State, Tree, is_missing
from gradx.wrappers.averages import AverageParamsState
from gradx.wrappers.lookahead import LookaheadState
from gradx.wrappers.packing import PackedState

__all__ = ["eval_params"]


def eval_params(state: State, params: Tree, *, which: str | None = None) -> Tree:
    """The parameters to evaluate with: their average, if the state holds one, else the parameters.

    It finds averages anywhere in the state: of `average_params`, `ema_params` and `asgd`, the slow parameters
    of `lookahead`, the average of `optax.contrib.schedule_free`. They come in the dtypes of the parameters. A
    parameter without an average, as in another group, stands for itself; without any, `params` is returned.

    Arguments:
      state: of any transformation, Optax's too, or a part of one.
      params: the parameters after the last update.
      which: where a parameter has two averages, a part of the path of one; the error lists the paths.

    Raises ValueError for two averages of one parameter, for a `which` that names none, for an average of
    other parameters, and for an average inside of `packed`.

    >>> import gradx, jax.numpy as jnp
    >>> tx = gradx.chain(gradx.sgd(1.0), gradx.average_params())
    >>> params = jnp.zeros(1)
    >>> state = tx.init(params)
    >>> for g in (-1.0, -2.0):
    ...     updates, state = tx.update(jnp.full(1, g), state, params)
    ...     params = gradx.apply_updates(params, updates)
    >>> params.tolist(), gradx.eval_params(state, params).tolist()
    ([3.0], [2.0])
    """
    found = averages(state)
    if which is not None:
        chosen = [x for x in found if which in x.path]
        if not chosen:
            raise ValueError(f"eval_params: no average is at a path with {which!r} in it; {paths_of(found)}")
        found = chosen
    if not found:
        return params
    leaves, treedef = tree_flatten_with_path(params, is_leaf=is_missing)
    out = {keystr(path): p for path, p in leaves}
    given = {path: jnp.asarray(p) for path, p in out.items() if not is_missing(p)}
    averaged: set[str] = set()
    for average in found:
        for path, x in average.by_path(given).items():
            if path in averaged:
                raise ValueError(
                    f"eval_params: the parameter at {path or 'the root'} has two averages: pick one with "
                    f"which={average.path!r}, or a part of it that no other has; {paths_of(found)}"
                )
            out[path] = x.astype(given[path].dtype)
            averaged.add(path)
    return treedef.unflatten(out.values())


class Average(NamedTuple):
    """A state that holds an average, and its path in the whole state."""

    path: str
    state: State

    def by_path(self, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The average of each parameter that has one, by path: Flax NNX changes the classes in a state."""
        slot = decode_state(getattr(self.state, FIELDS[type(self.state)]))
        leaves = {keystr(path): x for path, x in tree_flatten_with_path(slot, is_leaf=is_missing)[0]}
        slot = {path: x for path, x in leaves.items() if not is_missing(x)}
        missing = leaves.keys() - slot.keys()
        names = "the parameters", f"the average at {self.path}"
        for path in sorted(leaves.keys() ^ params.keys()):
            if path in slot or not (path in missing or any(is_below(path, m) for m in missing)):
                has, lacks = names[::-1] if path in slot else names
                raise ValueError(f"eval_params: {path or 'the root'} is in {has}, but not in {lacks}{HINT}")
        for path, x in slot.items():
            if x.shape != params[path].shape:
                raise ValueError(
                    f"eval_params: the parameter at {path or 'the root'} has shape {params[path].shape}, its "
                    f"average at {self.path} {x.shape}{HINT}"
                )
        if isinstance(self.state, ScheduleFreeState):
            state, own = widened((self.state._replace(z=slot), {path: params[path] for path in slot}))
            return schedule_free_eval_params(state, own)
        return slot


# The field of each state that holds the average; Optax's `z` is a sequence that the average follows from.
FIELDS = {AverageParamsState: "average", LookaheadState: "slow_params", ScheduleFreeState: "z"}


def averages(state: State, path: str = "") -> list[Average]:
    """The averages in a state, also inside of a state that holds an average itself."""
    is_inner = lambda x: x is not state and isinstance(x, (PackedState, *FIELDS))
    found = [Average(f"{path}.{FIELDS[type(state)]}", state)] if type(state) in FIELDS else []
    for keys, node in tree_flatten_with_path(state, is_leaf=is_inner)[0]:
        if is_inner(node):
            found += averages(node, path + keystr(keys))
    if found and isinstance(state, PackedState) and jax.tree.leaves(state.buffers):
        raise ValueError(
            f"eval_params: the average at {found[0].path} is packed into buffers; call "
            "gradx.unpack_state(tx, state, params) first, and give its result"
        )
    return found


def is_below(path: str, top: str) -> bool:
    """Whether a path leads through another: a mask may cut off a whole subtree."""
    return path.startswith(top) and path[len(top) :].startswith((".", "["))


def paths_of(found: list[Average]) -> str:
    return f"the state has {', '.join(x.path for x in found) or 'none'}"
