"""Laws that hold for every tree and every gradient, tried on random ones."""

import chex
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

import gradx as gx
from tests.cases import CASES

settings.register_profile("gradx", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("gradx")

# Few shapes, so that compiled functions are shared; values without denormals, which XLA flushes.
VALUES = st.floats(-100, 100, width=32, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
VECTORS = hnp.arrays(np.float32, 6, elements=VALUES)
ELEMENTWISE = st.sampled_from([case for case in CASES if case.elementwise and "mask" not in case.kwargs])


def rows_for(law):
    """The rows that are not exempt from a law."""
    return st.sampled_from([case for case in CASES if law not in case.exempt])


LINKS = st.sampled_from(
    [gx.clip(1.0), gx.scale(0.5), gx.trace(0.9), gx.ema(0.9), gx.scale_by_adam(), gx.clip_by_global_norm(1.0)]
)


def two_steps(tx, params, grads):
    """The updates of two steps with the same gradients."""
    state, out = tx.init(params), []
    for _ in range(2):
        u, state = tx.update(grads, state, params)
        out.append(u)
    return out


def close(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-5)


@given(ELEMENTWISE, VECTORS, VECTORS, st.integers(1, 5))
def test_splitting_a_parameter_changes_nothing_for_elementwise_rules(case, p, g, i):
    tx = case.make()
    whole = two_steps(tx, jnp.asarray(p), jnp.asarray(g))
    parts = two_steps(tx, [jnp.asarray(p[:i]), jnp.asarray(p[i:])], [jnp.asarray(g[:i]), jnp.asarray(g[i:])])
    close(whole, [jnp.concatenate(u) for u in parts])


@given(rows_for("test_other_parameters_change_nothing"), VECTORS, VECTORS)
def test_other_parameters_change_nothing(case, p, g):
    """No rule of the table looks beyond its own array, but for those that say so."""
    tx = case.make()
    p, g = jnp.asarray(p), jnp.asarray(g)
    alone = two_steps(tx, {"a": p}, {"a": g})
    beside = two_steps(tx, {"b": 2 * p, "a": p}, {"b": g - 1, "a": g})
    close([u["a"] for u in alone], [u["a"] for u in beside])


@given(rows_for("test_names_and_containers_change_nothing"), VECTORS, VECTORS)
def test_names_and_containers_change_nothing(case, p, g):
    tx = case.make()
    p, g = jnp.asarray(p), jnp.asarray(g)
    a = two_steps(tx, {"x": p, "y": 2 * p}, {"x": g, "y": g + 1})
    b = two_steps(tx, (2 * p, [p]), (g + 1, [g]))
    close([u["x"] for u in a], [u[1][0] for u in b])


@given(rows_for("test_every_rule_is_odd"), VECTORS, VECTORS)
def test_every_rule_is_odd(case, p, g):
    """Turning parameters and gradients around turns the updates around."""
    tx = case.make()
    close(two_steps(tx, -jnp.asarray(p), -jnp.asarray(g)), jax.tree.map(jnp.negative, two_steps(tx, p, g)))


@given(VECTORS, VECTORS, st.sampled_from([2.0**-4, 2.0**6]))
def test_the_scale_of_the_gradients_does_not_matter_to_signs_and_ratios(p, g, factor):
    for tx in (gx.scale_by_sign(), gx.scale_by_lion(), gx.scale_by_adam(eps=0.0, eps_root=1e-30)):
        close(two_steps(tx, p, jnp.asarray(g)), two_steps(tx, p, factor * jnp.asarray(g)))


@given(VECTORS, VECTORS, st.sampled_from([2.0**-4, 2.0**6]))
def test_the_trust_ratio_makes_the_step_as_long_as_the_parameter(p, g, factor):
    u, _ = gx.scale_by_trust_ratio().update(factor * jnp.asarray(g), gx.EmptyState(), jnp.asarray(p))
    if np.any(p) and np.any(g):
        np.testing.assert_allclose(jnp.linalg.norm(u), np.linalg.norm(p), rtol=1e-4)
    else:
        np.testing.assert_array_equal(u, factor * g)


@given(LINKS, LINKS, LINKS, VECTORS, VECTORS)
def test_a_chain_is_associative_and_has_a_unit(a, b, c, p, g):
    p, g = jnp.asarray(p), jnp.asarray(g)
    flat = two_steps(gx.chain(a, b, c), p, g)
    for other in (
        gx.chain(gx.chain(a, b), c),
        gx.chain(a, gx.chain(b, c)),
        gx.chain(gx.identity(), a, b, c, gx.chain()),
    ):
        chex.assert_trees_all_equal(flat, two_steps(other, p, g))


@given(VECTORS, st.floats(0, 10, width=32))
def test_clipping_keeps_the_direction_and_bounds_the_norm(g, max_norm):
    u, _ = gx.clip_by_global_norm(max_norm).update(jnp.asarray(g), gx.EmptyState())
    norm = np.linalg.norm(np.asarray(g, np.float64))
    assert jnp.linalg.norm(u) <= max_norm * (1 + 1e-5)
    np.testing.assert_allclose(u, g * min(1.0, max_norm / norm if norm else 1.0), rtol=1e-4, atol=1e-6)


@given(VECTORS, VECTORS, st.lists(st.booleans(), min_size=2, max_size=2))
def test_a_mask_is_the_transformation_here_and_nothing_there(p, g, mask):
    tx = gx.adamw(0.1)
    params, grads = [jnp.asarray(p), jnp.asarray(2 * p)], [jnp.asarray(g), jnp.asarray(g - 1)]
    masked = two_steps(gx.masked(tx, mask), params, grads)
    plain = two_steps(tx, params, grads)
    for u, v in zip(masked, plain, strict=True):
        close(u, [y if m else x for m, x, y in zip(mask, grads, v, strict=True)])
