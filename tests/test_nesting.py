"""What stands around an optimizer nests in any order, at random, and keeps the contract."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
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


def by_hand(tx, update):
    return optax.GradientTransformationExtraArgs(tx.init, update)


def vmapped(tx):
    """For one model of many."""
    many = lambda tree: jax.tree.map(lambda x: x[None], tree)
    one = lambda tree: jax.tree.map(lambda x: x[0], tree)

    def update(updates, state, params=None, **extra):
        run = jax.vmap(lambda g, s, p: tx.update(g, s, p, **extra), axis_size=1)
        updates, state = run(many(updates), many(state), many(params))
        return one(updates), one(state)

    return by_hand(tx, update)


# These change nothing.
FOREIGN = {
    "jit": lambda tx: by_hand(tx, jax.jit(tx.update)),
    "checkpoint": lambda tx: by_hand(tx, jax.checkpoint(tx.update)),
    "filter_jit": lambda tx: by_hand(tx, eqx.filter_jit(tx.update)),
    "nnx.jit": lambda tx: by_hand(tx, nnx.jit(tx.update)),
    "vmap": vmapped,
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step < 99),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step < 99),
    "MultiSteps": lambda tx: by_hand(tx := optax.MultiSteps(tx, 1), tx.update),
    "chain": lambda tx: optax.chain(tx),
    "by hand": lambda tx: gx.GradientTransformation(tx.init, tx.update),
}
NAMES = st.sampled_from(sorted(AROUND))


def nested(tx, names):
    for name in names:
        tx = AROUND[name](tx)
    return tx


@st.composite
def nestings(draw, most=4):
    return nested(gx.chain(needs_value(), draw(OPTIMIZERS)), draw(st.lists(NAMES, min_size=1, max_size=most)))


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


def changes_nothing(optimizer, inner, foreign, outer, foreign_first):
    """What others wrote, between any of ours: of two traces that JAX keeps, none must serve the other."""
    gs = [grads(i, P) for i in range(2)]

    def updates_of(tx):
        state, out, update = tx.init(P), [], jax.jit(lambda g, s: tx.update(g, s, P, value=0.5))
        for g in gs:
            u, state = update(g, state)
            out.append(u)
        return out

    with jax.numpy_dtype_promotion("standard"):
        ours = nested(gx.chain(needs_value(), optimizer), inner)
        theirs = FOREIGN[foreign](ours)
        pairs = [(theirs, ours), (nested(theirs, outer), nested(ours, outer))]
        for got, right in pairs if foreign_first else reversed(pairs):
            found, expected = updates_of(got), updates_of(right)
            assert aval(found) == aval(expected)
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected)


FEW, SOME = (st.lists(NAMES, min_size=least, max_size=2) for least in (0, 1))


@pytest.mark.parametrize("foreign", FOREIGN)
@settings(max_examples=1, deadline=None, derandomize=True)
@given(OPTIMIZERS, FEW, SOME, st.booleans())
def test_others_change_nothing(foreign, optimizer, inner, outer, foreign_first):
    changes_nothing(optimizer, inner, foreign, outer, foreign_first)


@pytest.mark.slow
@pytest.mark.parametrize("foreign", FOREIGN)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(OPTIMIZERS, FEW, SOME, st.booleans())
def test_others_change_nothing_at_length(foreign, optimizer, inner, outer, foreign_first):
    changes_nothing(optimizer, inner, foreign, outer, foreign_first)


class Model(nnx.Module):
    def __init__(self):
        self.w, self.b = nnx.Param(P["w"]), nnx.Param(P["b"])


@settings(max_examples=3, deadline=None, derandomize=True)
@given(nestings(most=2))
def test_an_optimizer_of_nnx(tx):
    """It runs a nesting as a loop does, eagerly first and then jitted."""
    p = {"w": P["w"], "b": P["b"]}
    with jax.numpy_dtype_promotion("standard"):
        model, state = Model(), tx.init(p)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        update = lambda model, optimizer, g: optimizer.update(model, nnx.State(g), value=0.5)
        for i, run in enumerate((update, nnx.jit(update), nnx.jit(update))):
            g = grads(i, p)
            run(model, optimizer, {k: nnx.Param(x) for k, x in g.items()})
            updates, state = tx.update(g, state, p, value=0.5)
            p = gx.apply_updates(p, updates)
    for name, x in p.items():
        np.testing.assert_allclose(getattr(model, name)[...], x, rtol=1e-5, atol=1e-6)
