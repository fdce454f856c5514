"""Examples on Optax and on its face, in one program: the same updates, and states that fit both."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradx.optax
from tests.optax_face.examples import Example, bowl

STEPS = 4
EXCHANGED = 2  # at this step each goes on with the other's state

# Relative to the largest element of an array. Optax computes schedules in float32 for float64 too.
TOLERANCE = {
    "float64": 1e-5,
    "complex128": 1e-5,
    "float32": 1e-4,
    "complex64": 1e-4,
    "bfloat16": 2**-7,
    "float16": 2**-9,
}
TINY = {"float16": 2**-24}  # its smallest number


class OptaxError(Exception):
    """Optax itself raises."""


def run(examples: list[Example]) -> list[Any]:
    """The updates of Optax and of the face for each example, or the error, from one program."""
    errors: dict[int, Exception] = {}

    def program(arrays: list) -> list:
        out = []
        for i, example in enumerate(examples):
            try:
                out.append(updates_of_both(example, *arrays[i]))
            except Exception as e:
                errors[i] = refusal(example, *arrays[i]) or e
                out.append(None)
        return out

    found = computed(program, [example.arrays() for example in examples])
    return [errors.get(i, x) for i, x in enumerate(found)]


def updates_of_both(example: Example, params: Any, grads: Any) -> tuple[Any, Any]:
    """Both see the same parameters and gradients, and exchange their states in the middle."""
    theirs, ours = (example.make(module, params) for module in (optax, gradx.optax))
    params = example.argument_of(params)
    state, state_ours = theirs.init(wide(params)), ours.init(params)
    check_alike(state, state_ours, "after init")

    def step(carry: tuple, at: tuple) -> tuple:
        params, state, state_ours = carry
        i, g = at
        state, state_ours = swapped_at(i, state, state_ours), swapped_at(i, state_ours, state)
        g = jax.grad(bowl)(params) if example.searches else g
        extra = example.extra(params, g)
        u, new = theirs.update(wide(g), state, wide(params), **extra)
        v, new_ours = ours.update(g, state_ours, params, **extra)
        check_alike(new, new_ours, "after update")
        check_alike(as_gradients(u, v, params), v, "updates")
        params = jax.tree.map(lambda p, u: (p + jnp.where(jnp.isfinite(u), u, 0)).astype(p.dtype), params, u)
        return (params, kept(new, state), kept(new_ours, state_ours)), (u, v)

    _, updates = jax.lax.scan(step, (params, state, state_ours), (jnp.arange(STEPS), grads))
    return updates


def refusal(example: Example, params: Any, grads: Any) -> OptaxError | None:
    """Optax's own error, if it has one."""
    try:
        tx = example.make(optax, params)
        grads = jax.tree.map(lambda g: g[0], grads)
        params = example.argument_of(params)
        tx.update(wide(grads), tx.init(wide(params)), wide(params), **example.extra(params, grads))
    except Exception as e:
        return OptaxError(repr(e)[:300])
    return None


def as_gradients(u: Any, v: Any, params: Any) -> Any:
    """Optax's updates, in the dtype of gradients and parameters where the face's are.

    Under x64 Optax's can become float64 by a schedule, or float32 by a slot.
    """
    return jax.tree.map(lambda u, v, p: u.astype(p.dtype) if v.dtype == p.dtype else u, u, v, params)


def is_unstable(example: Example) -> bool:
    """Whether Optax's own updates are not finite, or change if gradients change by a rounding of float32."""
    params, grads = example.arrays()

    def updates(seed: int) -> Any:
        def step(carry: tuple, g: Any) -> tuple:
            params, state = carry
            g = jax.grad(bowl)(params) if example.searches else g
            g = jax.tree.map(nudged, wide(g))
            u, new = tx.update(g, state, params, **example.extra(params, g))
            return (optax.apply_updates(params, u), kept(new, state)), u

        def nudged(g: jax.Array) -> jax.Array:
            noise = np.random.default_rng(seed).uniform(-1, 1, g.shape).astype(real_dtype(g))
            return g * (1 + 2e-7 * seed * noise)

        tx, start = example.make(optax, params), wide(example.argument_of(params))
        return jax.lax.scan(step, (start, tx.init(start)), grads)[1]

    first, *others = computed(lambda _: [updates(seed) for seed in range(4)], None)
    return not is_finite(first) or any(unlike(example, first, other) for other in others)


def agrees_in_double(example: Example) -> bool:
    """Whether the same example agrees in float64, so that only rounding differs."""
    double = {"float32": "float64", "complex64": "complex128"}.get(example.dtype)
    if double is None:
        return False
    with jax.enable_x64(True):
        (result,) = run([example._replace(dtype=double)])
    return not isinstance(result, Exception) and not unlike(example._replace(dtype=double), *result)


def is_finite(u: Any) -> bool:
    return all(np.isfinite(np.asarray(x, np.complex128)).all() for x in jax.tree.leaves(u))


def computed(function: Callable, arguments: Any) -> Any:
    """The results of a program, without warnings: of labels that no parameter has, keys that are missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jax.device_get(jax.jit(function)(arguments))


def real_dtype(g: jax.Array) -> np.dtype:
    return jnp.finfo(g.dtype).dtype


def wide(tree: Any) -> Any:
    """16-bit arrays in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype.itemsize == 2 else x, tree)


def swapped_at(i: jax.Array, state: Any, other: Any) -> Any:
    """The state; at step `EXCHANGED` the other."""
    return jax.tree.map(lambda x, y: jnp.where(i == EXCHANGED, y, x), state, kept(other, state))


def kept(new: Any, old: Any) -> Any:
    """The new state in the dtypes of the old one: an update of Optax's may change the dtypes of its state."""
    real = lambda x, y: x.real if jnp.iscomplexobj(x) and not jnp.iscomplexobj(y) else x
    return jax.tree.map(lambda x, y: x if x.dtype == y.dtype else real(x, y).astype(y.dtype), new, old)


def check_alike(theirs: Any, ours: Any, when: str) -> None:
    """Raise AssertionError unless trees have the same containers, and leaves the same shapes and dtypes."""
    a, b = dict(shown(theirs)), dict(shown(ours))
    differ = [f"{b.get(k)} for {a.get(k)} at {k}" for k in {**a, **b} if a.get(k) != b.get(k)]
    if differ:
        raise AssertionError(f"{when}: " + "\n".join(differ))


def shown(tree: Any) -> list[tuple[str, str]]:
    """The leaves and the containers without leaves, by their paths."""
    is_empty = lambda x: not jax.tree.leaves(x)
    leaves = jax.tree.leaves_with_path(tree, is_leaf=is_empty)
    of = lambda k, x: str(jax.tree.structure(x)) if is_empty(x) else f"{dtype_of(k, x)}{list(x.shape)}"
    found = [(name := jax.tree_util.keystr(k), of(name, x)) for k, x in leaves]
    return [("the tree", str(jax.tree.structure(tree))), *found]


def dtype_of(path: str, x: Any) -> str:
    """The part of the dtype that is compared; the table of differences says why not all."""
    if ".hyperparams[" in path or path.endswith(".skip_state['norm_squared']"):
        return ""
    return {"complex64": "float32", "complex128": "float64"}.get(str(x.dtype), str(x.dtype))


def unlike(example: Example, u: Any, v: Any) -> list[str]:
    """Where the updates differ by more than rounding."""
    out = []
    for (path, a), b in zip(jax.tree.leaves_with_path(u), jax.tree.leaves(v), strict=True):
        a, b = (np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64) for x in (a, b))
        for i in range(STEPS):
            finite = np.abs(a[i], where=np.isfinite(a[i]), out=np.zeros(a[i].shape))
            bound = TOLERANCE[example.dtype] * finite.max(initial=0) + TINY.get(example.dtype, 1e-12)
            if not np.allclose(a[i], b[i], rtol=0, atol=bound, equal_nan=True):
                out.append(f"step {i}, {jax.tree_util.keystr(path)}:\n{b[i]}\nfor Optax's\n{a[i]}")
    return out
