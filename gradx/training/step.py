"""One step of an optimizer as one compiled function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.core import Tracer
from jax.sharding import Sharding

from gradx.core.apply import step_of
from gradx.core.tree import Tree
from gradx.training.donation import call_unshared

__all__ = ["step"]


def step(tx: optax.GradientTransformation) -> Callable[..., tuple[Tree, Any]]:
    """A compiled `step(grads, state, params, **extra) -> (params, state)` of any transformation.

        updates, state = tx.update(grads, state, params, **extra)
        params         = apply_updates(params, updates)

    State and parameters are donated: their buffers hold the new ones, and the old arrays cannot be used any
    more. Updating and rounding a parameter is one expression, and no updates are stored; if a link that
    rounds the parameters, such as `stochastic_rounding`, is the last of the chain, they are rounded once.
    Equal transformations share one compiled function.

    Arrays keep their shardings, whatever the compiler would prefer: where a state is in parts (`zero_axis` of
    `state_sharding`) the parameters stay whole. A state in the memory of the host is moved to the device for
    the step, and the new state is moved back. One array under two names (tied weights that were not tied by
    the model, gradients that are the parameters) is copied for the second, which then goes its own way.

    Arguments:
      tx: any transformation of gradx or Optax.

    Functions in `extra` are compiled in, so each must be the same object at every step: give values that
    change to the `value_fn` of a line search as extra arguments, by name. Everything else is traced. Raises
    TypeError for a `tx` that is not a transformation. An error in a step is raised before anything is
    donated.

    >>> import gradx, jax, jax.numpy as jnp
    >>> tx = gradx.adamw(1e-2)
    >>> step = gradx.step(tx)
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2))(params)
    ...     params, state = step(grads, state, params)
    >>> [round(x, 3) for x in params["w"].tolist()]
    [0.97, 1.97]
    """
    step_of("tx of step", tx)  # raises if it is no transformation
    return compiled(tx)


@functools.lru_cache(maxsize=64)
def compiled(tx: Any) -> Callable:
    take = step_of("tx of step", tx)

    def run(functions, params, state, grads, extra):  # so that each buffer is donated to its successor
        return take(grads, jax.tree.map(on_device, state), params, **extra, **dict(functions))

    @functools.lru_cache(maxsize=8)
    def jitted(treedef: Any, places: tuple) -> Callable:
        out = treedef.unflatten(places) if any(places) else None
        return jax.jit(run, static_argnums=0, donate_argnums=(1, 2), out_shardings=out)

    def step(grads: Tree, state: Any, params: Tree, **extra: Any) -> tuple[Tree, Any]:
        functions = {name: x for name, x in extra.items() if callable(x)}
        arrays = {name: x for name, x in extra.items() if name not in functions}
        leaves, treedef = jax.tree.flatten((params, state))
        of_all = jitted(treedef, tuple(map(place, leaves)))
        static = tuple(sorted(functions.items()))
        return call_unshared(
            lambda donated, kept: of_all(static, *donated, *kept), (params, state), (grads, arrays)
        )

    return step


def place(x: Any) -> Sharding | None:
    """The sharding that an array was given; None if it was given none, or within a trace."""
    return x.sharding if not isinstance(x, Tracer) and getattr(x, "committed", False) else None


def on_device(x: Any) -> Any:
    """An array in a compiled step, moved to the device if it is in the host's memory."""
    device = jax.memory.Space.Device
    return x if jax.typeof(x).memory_space == device else jax.device_put(x, device)
