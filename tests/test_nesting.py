"""What stands around an optimizer nests in any order, at random, and keeps the contract."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradx as gx
from tests.problems import aval, grads, params


@gx.factory
def needs_value():
    """A link that cannot do without an extra argument, far inside."""

    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda u: u * jnp.asarray(value, u.dtype), updates), state

    return gx.GradientTransformation(lambda params: (), update)


OPTIMIZERS = st.sampled_from(
    [
        gx.sgd(0.1, momentum=0.9),
        gx.adamw(gx.linear_schedule(0.1, 0.0, 10), mask="matrices_only"),
        gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(0.1)),
        gx.inject_hyperparams(gx.adam)(gx.linear_schedule(0.1, 0.2, 10)),
        gx.chain(gx.add_noise(0.1, 0.5, key=0), gx.sm3(0.1)),
    ]
)


def even(step, **extra):
    return step % 2 == 0


AROUND = {
    "accumulate": lambda tx: gx.accumulate(tx, 2, drop_nonfinite=True),
    "apply_if_finite": lambda tx: gx.apply_if_finite(tx, 3),
    "average": lambda tx: gx.chain(tx, gx.ema_params(0.9)),
    "conditionally": lambda tx: gx.conditionally_mask(tx, even, forward_extra_args=True),
    "groups": lambda tx: gx.groups(tx, {"^w$": gx.frozen(), "^b$": gx.adam(0.1)}),
    "lookahead": lambda tx: gx.lookahead(tx, 2),
    "loss scale": lambda tx: gx.dynamic_loss_scale(tx, 4.0),
    "masked": lambda tx: gx.masked(tx, "matrices_only"),
    "measured": gx.measured,
    "MultiSteps": lambda tx: gx.MultiSteps(tx, 2, should_skip_update_fn=gx.skip_not_finite),
    "named": lambda tx: gx.named_chain(("inner", tx), ("clip", gx.clip(1.0))),
    "packed": gx.packed,
    "partition": lambda tx: gx.partition({"all": tx}, "all"),
    "store": lambda tx: gx.store(tx, gx.Rounded(), min_size=1, seed=0),
    "stacked": lambda tx: gx.stacked(tx, {"^[wb]$": 0}),
    "split": gx.split_real_and_imaginary,
    "skip_if": lambda tx: gx.skip_if(tx, gx.nonfinite(), gx.spike("gradient_norm", warmup=2)),
}


@st.composite
def nestings(draw, most=4):
    tx = gx.chain(needs_value(), draw(OPTIMIZERS))
    for name in draw(st.lists(st.sampled_from(sorted(AROUND)), min_size=1, max_size=most)):
        tx = AROUND[name](tx)
    return tx


P = params()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(nestings())
def test_the_state_is_fixed_and_the_transformation_is_known_by_its_call(tx):
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(tx.init, P)
        update = lambda g, s, p: tx.update(g, s, p, value=0.5)
        for dtype in (jnp.float32, jnp.bfloat16):
            updates, after = jax.eval_shape(update, grads(0, P, dtype), state, P)
            assert aval(after) == aval(state)
            assert aval(jax.eval_shape(gx.apply_updates, P, updates)) == aval(jax.eval_shape(lambda: P))
    names = {name: getattr(gx, name) for name in dir(gx)} | {"needs_value": needs_value, "even": even}
    assert tx == copy.deepcopy(tx) == pickle.loads(pickle.dumps(tx)) == eval(repr(tx), names)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(nestings())
def test_the_extra_argument_is_missed(tx):
    """So it did arrive, in the test above."""
    with jax.numpy_dtype_promotion("standard"), pytest.raises(TypeError, match="value"):
        jax.eval_shape(tx.update, grads(0, P), jax.eval_shape(tx.init, P), P)


def runs(tx):
    """A donated loop of steps, one of them with NaN, is their scan; what is left is finite."""
    gs = [grads(i, P) for i in range(5)]
    gs[2] = jax.tree.map(lambda g: g * jnp.nan, gs[2])

    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p, value=0.5)
        return (gx.apply_updates(p, updates), state), None

    with jax.numpy_dtype_promotion("standard"):
        tx = gx.skip_if(tx, gx.nonfinite())
        start = jax.jit(lambda: (params(), tx.init(params())))
        scanned, _ = jax.jit(lambda c, gs: jax.lax.scan(step, c, gs))(
            start(), jax.tree.map(lambda *x: jnp.stack(x), *gs)
        )
        looped, one = start(), jax.jit(step, donate_argnums=0)
        for g in gs:
            looped, _ = one(looped, g)
    for x, y in zip(jax.tree.leaves(scanned), jax.tree.leaves(looped), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
            assert np.all(np.isfinite(x))
    gx.check_skips(looped[1])


@settings(max_examples=4, deadline=None, derandomize=True)
@given(nestings())
def test_runs(tx):
    runs(tx)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(nestings(most=6))
def test_runs_at_length(tx):
    runs(tx)
