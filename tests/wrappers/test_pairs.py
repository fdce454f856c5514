"""Two options of a wrapper at once: in each row of few, against a loop in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradx as gx
from tests.pairs import real
from tests.reference import wrappers as models
from tests.wrappers.paired import (
    BAD,
    CALLS,
    DEVICES,
    GRADIENTS,
    LOSSES,
    NEVER,
    PARAMS,
    WEIGHTS,
    at,
    check_inner,
    check_update,
    close,
    momentum,
    on_devices,
    rows,
    scanned,
    tree,
    vector,
)  # fmt: skip

BOOLS = [False, True]


def every_other(steps):
    """Two micro-batches and three, in turns; the number is rounded."""
    return 2.4 + 0.8 * real(steps % 2)


def wandering(count):
    """The part of the way of lookahead, another at each step."""
    return 0.3 + 0.1 * real(count % 4)


ACCUMULATE = {
    "every": [3, 1, every_other],
    "weight": [None, "n"],
    "drop_nonfinite": BOOLS,
    "averaged": [(), "value", ("value", "other")],
    "dtype": [None, jnp.float32],
    "axis_name": [None, "d"],
}


def averaged_of(row):
    averaged = row.options["averaged"]
    return (averaged,) if isinstance(averaged, str) else averaged


def bad_gradients(row):
    """Where a gradient is NaN: where nothing may come of it."""
    drop, weight = row.options["drop_nonfinite"], row.options["weight"]
    return (BAD if drop else NEVER) | (WEIGHTS == 0 if weight else NEVER)


def bad_values(row):
    return np.roll(BAD, 1, 0) if row.options["drop_nonfinite"] else NEVER


def accumulated(row, gradients, weights, losses):
    names = (*averaged_of(row), *([row.options["weight"]] if row.options["weight"] else []))
    tx = gx.accumulate(momentum(names), **row.options)

    def extra(x):
        _, w, loss = x
        return {"n": w, "value": loss, "other": -2 * loss}

    gradients = jnp.where(bad_gradients(row)[..., None], jnp.nan, gradients)
    losses = jnp.where(bad_values(row), jnp.nan, losses)
    run = lambda *calls: scanned(tx, tree(jnp.asarray(PARAMS)), calls, extra)
    return on_devices(row.options["axis_name"], run, gradients, weights, losses)


@rows(ACCUMULATE)
def test_accumulate(row, together, x64):
    found, states = jax.device_get(together(accumulated, GRADIENTS, WEIGHTS, LOSSES, row="row"))
    options = {k: v for k, v in row.options.items() if k not in ("axis_name", "dtype", "averaged")}
    model = models.accumulate(averaged=averaged_of(row), **options)
    next(model)
    gradients = np.where(bad_gradients(row)[..., None], np.nan, GRADIENTS)
    losses = np.where(bad_values(row), np.nan, LOSSES)
    tolerance = 1e-10 if row.options["dtype"] is None else 1e-6
    for t in range(CALLS):
        call = []
        for d in range(DEVICES if row.options["axis_name"] else 1):
            values = {"value": losses[t, d], "other": -2 * losses[t, d]}
            values = {name: values[name] for name in averaged_of(row)}
            call.append((gradients[t, d], WEIGHTS[t, d] if row.options["weight"] else 1.0, values))
        expected = model.send(call)
        for d in range(len(call)):
            state = at(states, d, t)
            check_update(found[d, t], expected["u"], tolerance)
            assert (state.mini_step, state.gradient_step) == (expected["mini"], expected["steps"])
            assert gx.has_updated(state) == (expected["u"] is not None)
            close(state.acc_grads, expected["acc"][d], tolerance)
            check_inner(state.inner_opt_state, expected["inner"], tolerance)
            if row.options["drop_nonfinite"]:
                assert state.skip_state.dropped == expected["dropped"][d]


large = functools.partial(gx.skip_large_updates, max_squared_norm=20.0)
SKIPS = {None: lambda g: False, gx.skip_not_finite: lambda g: not np.isfinite(g).all()}
SKIPS |= {large: lambda g: not g @ g < 20.0}
MULTI_STEPS = {
    "every_k_schedule": [3, 1, every_other],
    "use_grad_mean": BOOLS,
    "should_skip_update_fn": list(SKIPS),
    "accumulator_dtype": [None, jnp.float32],
}


def multi_gradients(row, gradients):
    """With some that are to be skipped."""
    worst = np.nan if row.options["should_skip_update_fn"] is gx.skip_not_finite else 10.0
    return (
        jnp.where(BAD[:, :1], worst, gradients[:, 0])
        if row.options["should_skip_update_fn"]
        else gradients[:, 0]
    )


def multi_stepped(row, gradients):
    tx = gx.MultiSteps(momentum(), **row.options)
    return scanned(tx, tree(jnp.asarray(PARAMS)), (multi_gradients(row, gradients),))


@rows(MULTI_STEPS)
def test_multi_steps(row, together, x64):
    found, states = jax.device_get(together(multi_stepped, GRADIENTS, row="row"))
    skip = SKIPS[row.options["should_skip_update_fn"]]
    model = models.multi_steps(row.options["every_k_schedule"], row.options["use_grad_mean"], skip)
    next(model)
    tolerance = 1e-10 if row.options["accumulator_dtype"] is None else 1e-6
    for t, g in enumerate(np.asarray(multi_gradients(row, GRADIENTS))):
        expected, state = model.send(g), at(states, t)
        check_update(found[t], expected["u"], tolerance)
        assert (state.mini_step, state.gradient_step) == (expected["mini"], expected["steps"])
        assert gx.has_updated(state) == (expected["u"] is not None)
        close(state.acc_grads, expected["acc"], tolerance)
        check_inner(state.inner_opt_state, expected["inner"], tolerance)
        if row.options["should_skip_update_fn"]:
            assert state.skip_state["should_skip"] == expected["skipped"]


LOOKAHEAD = {
    "sync_period": [3, 1, 5],
    "slow_step_size": [0.25, wandering],
    "reset_state": BOOLS,
    "pair": BOOLS,
}


def looked_ahead(row, gradients):
    options = {k: v for k, v in row.options.items() if k != "pair"}
    p, tx = tree(jnp.asarray(PARAMS)), gx.lookahead(momentum(), **options)
    if not row.options["pair"]:
        return scanned(tx, p, (gradients[:, 0],))
    pair = optax.LookaheadParams.init_synced(p)
    ours = gx.GradientTransformation(tx.init, tx.update)

    def step(carry, g):
        p, state = carry
        u, state = ours.update(tree(g), state, p)
        p = gx.apply_updates(p, u)
        return (p, state), (vector(u.fast), state, vector(p.slow))

    return jax.lax.scan(step, (pair, tx.init(pair)), gradients[:, 0])[1]


@rows(LOOKAHEAD)
def test_lookahead(row, together, x64):
    found, states, *slow = jax.device_get(together(looked_ahead, GRADIENTS, row="row"))
    model = models.lookahead(PARAMS, **{k: v for k, v in row.options.items() if k != "pair"})
    next(model)
    for t in range(CALLS):
        expected, state = model.send(GRADIENTS[t, 0]), at(states, t)
        close(found[t], expected["u"])
        close(state.slow_params, expected["slow"])
        assert state.slow_state.count == expected["count"]
        check_inner(state.fast_state, expected["inner"])
        for updated in slow:
            close(updated[t], expected["slow"])
