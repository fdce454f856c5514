"""Where a formula divides 0 by 0, loses its digits or overflows: finite, and as it says in float64."""

import importlib
import inspect
import pkgutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
import gradx.transforms
from tests.cases import CASES, given
from tests.degenerate import SCENARIOS, UNBOUNDED, loses_digits, may_be_nan, stacked
from tests.degenerate_links import ELSEWHERE, LINKS

GRADS, PARAMS = stacked()
LARGEST = np.finfo(np.float32).max


def run(case, grads, params):
    """The updates of all scenarios, each from a fresh state."""
    tx = case.make()

    def one(grads, params):
        def step(state, now):
            u, state = tx.update(now[0], state, now[1])
            return state, u

        state = tx.init(jax.tree.map(lambda p: p[0], params))
        return jax.lax.scan(step, state, (grads, params))[1]

    return jax.vmap(one)(grads, params)


def expected(case, i, steps):
    """The reference's updates in a scenario, as a list of arrays like those of `leaves_of`."""
    out = []
    for g, p in zip(leaves_of(case, GRADS, i, steps), leaves_of(case, PARAMS, i, steps), strict=True):
        rule = case.reference(**case.kwargs, **case.extra)
        next(rule)
        out.append(np.stack([rule.send(now) for now in zip(g, p, strict=True)]))
    return out


def leaves_of(case, tree, i, steps):
    """The arrays of a scenario in float64, steps first; as one vector if the rule looks at them together."""
    leaves = [np.asarray(x[i, :steps], np.float64) for x in (tree["b"], tree["w"])]
    return [np.concatenate([x.reshape(steps, -1) for x in leaves], 1)] if case.whole_tree else leaves


def is_right(case, name, u, ref, p):
    """Where the updates of a scenario are those of the reference."""
    if may_be_nan(case, name):
        return np.ones(u.shape, bool)
    extreme = SCENARIOS[name].extreme
    if name in UNBOUNDED.get(case.optimizer, ()):
        return ~np.isnan(u)
    ref = np.where(abs(ref) > LARGEST, np.sign(ref) * np.inf, ref)
    top = np.max(abs(ref), initial=0.0, where=np.isfinite(ref))
    atol = 1e-6 * min(1.0, top) + 1e-15 * np.max(abs(p))  # where the reference itself adds up to 0
    atol += 1e-14 * (case.optimizer is gx.noisy_sgd)
    right = np.isclose(u, ref, rtol=1e-4, atol=atol, equal_nan=True)
    if extreme:
        # A part of the update may be lost, and what is nearly the largest number may become inf on the way.
        right |= (u > np.minimum(0, ref) - atol) & (u < np.maximum(0, ref) + atol)
        right |= (abs(ref) > LARGEST / 1e3) & (u == np.sign(ref) * np.inf)
    if loses_digits(case):
        right |= np.isfinite(u) & (np.sign(u) == np.sign(ref))
    return right


@pytest.mark.parametrize("case", CASES + LINKS, ids=str)
def test_is_as_its_formula_says(case, together):
    found = together(run, jax.tree.map(jnp.asarray, GRADS), jax.tree.map(jnp.asarray, PARAMS), row="case")
    wrong = []
    for i, (name, scenario) in enumerate(SCENARIOS.items()):
        if scenario.elementwise and not case.elementwise:
            continue
        us, ps = (leaves_of(case, tree, i, scenario.steps) for tree in (found, PARAMS))
        with np.errstate(all="ignore"):
            for u, ref, p in zip(us, expected(case, i, scenario.steps), ps, strict=True):
                for at in np.argwhere(~is_right(case, name, u, ref, p))[:1]:
                    wrong.append(f"{name}, at {at}: {u[tuple(at)]:.7g}, and the formula {ref[tuple(at)]:.7g}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "tx",
    [
        given(gx.scale_by_polyak(), value=0.0),
        gx.scale_by_sm3(eps=0.0),
        gx.scale_by_trust_ratio(),
        gx.scale_by_param_block_norm(0.0),
        gx.clip_by_global_norm(1.0),
        gx.clip_by_block_rms(1.0),
        gx.adaptive_grad_clip(0.1, eps=0.0),
        gx.normalize_by_update_norm(eps=0.0),
    ],
    ids=repr,
)
def test_has_a_finite_derivative_where_all_is_zero(tx, together):
    def derivative(tx, x):
        return jax.grad(lambda x: jnp.sum(tx.update(x, tx.init(x), x)[0]))(x)

    assert np.all(np.isfinite(together(derivative, jnp.zeros(2))))


def test_what_has_a_square_of_zero_does_not_move():
    """SM3 and Adagrad: also where the gradient is not 0, but its square is."""
    g = jnp.full(2, 1e-30)
    for tx in (gx.scale_by_sm3(), gx.scale_by_rss()):
        np.testing.assert_array_equal(tx.update(g, tx.init(g))[0], [0.0, 0.0])


def link_factories():
    """All links: the rules of the optimizers, and what is in `gradx.transforms`."""
    modules = [m.name for m in pkgutil.iter_modules(gradx.transforms.__path__, "gradx.transforms.")]
    named = {n for m in modules for n in importlib.import_module(m).__all__ if n.islower()}
    return sorted(named | {n for n in dir(gx) if n.startswith("scale_by_")})


@pytest.mark.parametrize("name", link_factories())
def test_each_link_has_rows_with_every_value_of_its_flags(name):
    factory, table = getattr(gx, name), "tests/degenerate_links.py"
    rows = [row.kwargs for row in LINKS if row.optimizer is factory]
    if name in ELSEWHERE:
        assert not rows
        return
    assert rows, f"add rows of {name} to {table}"
    for argument in inspect.signature(factory).parameters.values():
        for value in values_of(argument):
            given = [row.get(argument.name, argument.default) for row in rows]
            assert value in given, (
                f"add a row of {name} with {argument.name}={value!r} to tests/degenerate_links.py"
            )


def values_of(argument):
    """The values of an argument that is a flag or one of some words; of others none."""
    hints = typing.get_args(argument.annotation) or (argument.annotation,)
    words = [v for hint in (argument.annotation, *hints) for v in typing.get_args(hint) if isinstance(v, str)]
    return [False, True] if bool in hints else words
