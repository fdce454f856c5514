"""A program of a client, with Optax and with `gradx.optax`: the same losses, states and compilations."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx.optax

STEPS = 20
COMPILED = "/jax/core/compile/backend_compile_duration"
Program = Callable[[Any], tuple[Any, Any]]  # of Optax or its face: the losses, and what is left at the end

compiled: collections.Counter = collections.Counter()


def on_duration(event: str, seconds: float, fun_name: str = "", **_: Any) -> None:
    if event == COMPILED:
        compiled[fun_name.partition("(")[2].removesuffix(")")] += 1


jax.monitoring.register_event_duration_secs_listener(on_duration)


def client(*names: str, rtol: float = 1e-4) -> Callable[[Program], Callable[[], None]]:
    """A test of a program whose argument is Optax or its face.

    The program returns the losses of its steps and, as a tree, the parameters and states at the end. Both
    must be the same to rounding, and the trees of the same classes. `names` are its compiled functions, of
    which none may be compiled more often.
    """

    def test_of(program: Program) -> Callable[[], None]:
        @pytest.mark.usefixtures("lenient")
        def test() -> None:
            compare(program, names, rtol)

        test.__doc__ = program.__doc__
        return test

    return test_of


def compare(program: Program, names: tuple[str, ...], rtol: float) -> None:
    theirs, of_theirs = outcome(program, optax)
    ours, of_ours = outcome(program, gradx.optax)
    losses = wide(jnp.stack(jax.tree.leaves(theirs[0])) if isinstance(theirs[0], list) else theirs[0])
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    assert len(np.unique(losses)) > STEPS // 4, "the program learns nothing"
    same(ours, theirs, rtol)
    for name in names:
        assert of_theirs[name] > 0, f"{name} is not among {dict(of_theirs)}"
        # Once less where the types of Optax's state change in the first step, and gradx's do not.
        assert 0 < of_ours[name] <= of_theirs[name], f"{name}: {of_ours[name]}, with Optax {of_theirs[name]}"


def outcome(program: Program, library: Any) -> tuple[Any, collections.Counter]:
    """What the program returns, and how many times each function was compiled."""
    compiled.clear()
    returned = program(library)
    return returned, compiled.copy()


def same(ours: Any, theirs: Any, rtol: float) -> None:
    """Assert that two trees have the same classes and dtypes, and the same numbers to rounding.

    A complex array without imaginary parts may be real: gradx's second moments of complex parameters are.
    """
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        where = jax.tree_util.keystr(path)
        assert jnp.result_type(a) in (jnp.result_type(b), real_of(b)), where
        within = 0.02 if jnp.result_type(b) == jnp.bfloat16 else rtol
        a, b = wide(a), wide(b)
        scale = float(np.max(np.abs(b), initial=0))
        np.testing.assert_allclose(a, b, rtol=within, atol=within * scale + 1e-12, err_msg=where)


def real_of(x: Any) -> Any:
    """The dtype of the array without imaginary parts, if there are none."""
    return x.real.dtype if jnp.iscomplexobj(x) and not x.imag.any() else jnp.result_type(x)


def wide(x: Any) -> np.ndarray:
    """The numbers of a leaf, with nothing lost."""
    if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x).astype(np.complex128 if np.iscomplexobj(x) else np.float64)
