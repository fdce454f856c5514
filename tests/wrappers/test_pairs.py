"""Two options of a wrapper at once: in each row of few, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradx as gx
from tests.pairs import real
from tests.reference import adamw
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
from tests.wrappers.test_averages import reference as weighted_sum

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


def large(updates, gradient_step, params):
    return gx.skip_large_updates(updates, gradient_step, params, max_squared_norm=20.0)


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


AVERAGES = {
    "decay": [None, 0.9, wandering],  # None for the plain mean
    "debias": [True, False],
    "start": [0, 2],
    "every": [1, 2],
    "around": [None, "skip_if", "accumulate"],
}


def averaged(row, gradients):
    options = {k: row.options[k] for k in ("start", "every")}
    if row.options["decay"] is None:
        average = gx.average_params(**options)
    else:
        average = gx.ema_params(row.options["decay"], debias=row.options["debias"], **options)
    tx = gx.chain(momentum(), average)
    if row.options["around"] == "skip_if":
        tx = gx.skip_if(tx, gx.nonfinite())
        gradients = jnp.where(BAD[..., None], jnp.nan, gradients)
    if row.options["around"] == "accumulate":
        tx = gx.accumulate(tx, 3)
    read = lambda state: vector(gx.eval_params(state, tree(jnp.asarray(PARAMS))))
    return scanned(tx, tree(jnp.asarray(PARAMS)), (gradients[:, 0],), read=read)


@rows(AVERAGES)
def test_averages(row, together, x64):
    """A step that is left out is in no average, and not among those that are counted."""
    updates, averages = jax.device_get(together(averaged, GRADIENTS, row="row"))
    p, seen, options = PARAMS, [], row.options
    debias = options["debias"] or options["decay"] is None
    for t in range(CALLS):
        taken = not (options["around"] == "skip_if" and BAD[t, 0])
        taken = taken and not (options["around"] == "accumulate" and (t + 1) % 3)
        p = p + updates[t]
        seen += [p] if taken else []
        args = PARAMS, seen, len(seen), options["start"], options["every"], options["decay"], debias
        close(averages[t], weighted_sum(*args) if seen else PARAMS)


INJECT = {
    "learning_rate": [0.1, wandering, np.float64(0.1)],
    "b1": [0.9, wandering],
    "weight_decay": [0.1, wandering],
    "mask": [None, gx.matrices_only],
    "nesterov": BOOLS,
    "static_args": [(), "eps", ("b1", "weight_decay")],
    "hyperparam_dtype": [np.float64, np.float32],
}


def static_of(row):
    static = row.options["static_args"]
    return {static} if isinstance(static, str) else set(static)


ARGUMENTS = ("learning_rate", "b1", "weight_decay", "mask", "nesterov")


def injected(row, gradients):
    factory = gx.inject_hyperparams(gx.adamw, row.options["static_args"], row.options["hyperparam_dtype"])
    tx = factory(**{name: row.options[name] for name in ARGUMENTS}, eps=1e-3)
    return scanned(tx, tree(jnp.asarray(PARAMS)), (gradients[:, 0],))


@rows(INJECT)
def test_inject_hyperparams(row, together, x64):
    found, states = jax.device_get(together(injected, GRADIENTS, row="row"))
    options = {name: row.options[name] for name in ARGUMENTS}
    options |= {"eps": 1e-3, "b2": 0.999, "eps_root": 0.0}  # the last two by default
    rules, p = [adamw(**options) for _ in range(2)], PARAMS
    for rule in rules:
        next(rule)
    double = row.options["hyperparam_dtype"] is np.float64
    numbers = options.keys() - {"mask", "nesterov"} - static_of(row)
    for t in range(CALLS):
        gs, ps = (jax.tree.leaves(tree(x)) for x in (GRADIENTS[t, 0], p))
        u = np.concatenate([rule.send(x).ravel() for rule, *x in zip(rules, gs, ps, strict=True)])
        close(found[t], u, 1e-10 if double else 1e-6)
        p, state = p + u, at(states, t)
        assert state.count == t + 1
        assert state.hyperparams.keys() == numbers
        assert state.hyperparams_states.keys() == {name for name in numbers if options[name] is wandering}
        for name in numbers:
            value = options[name](t) if callable(options[name]) else options[name]
            assert state.hyperparams[name] == row.options["hyperparam_dtype"](value)
