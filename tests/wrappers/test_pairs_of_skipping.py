"""Two options of what skips steps and measures them at once: in each row of few, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

import gradx as gx
from tests.pairs import real
from tests.reference import wrappers as models
from tests.wrappers.paired import (
    BAD,
    CALLS,
    DEVICES,
    GRADIENTS,
    HUGE,
    LOSSES,
    NEVER,
    PARAMS,
    at,
    check_inner,
    check_update,
    momentum,
    on_devices,
    rows,
    scanned,
    tree,
)  # fmt: skip

CONDITIONS = {
    "nonfinite": lambda spike, nonfinite: [nonfinite()],
    "loss": lambda spike, nonfinite: [spike("loss")],
    "norm": lambda spike, nonfinite: [spike("gradient_norm")],
    "all": lambda spike, nonfinite: [spike("gradient_norm"), nonfinite(), spike("loss")],
}
SKIP_IF = {
    "conditions": list(CONDITIONS),
    "value": [True, False],
    "sigmas": [6.0, 30.0],
    "window": [128, 4],
    "warmup": [2, 5],
    "max_consecutive": [3, 1, 10],
    "axis_name": [None, "d"],
}
SPIKES = np.where(HUGE, 10.0, 1.0)  # how much larger than others a gradient and, at other calls, a loss is


def needs_no_loss(row):
    return row.get("value", True) or row.get("conditions", "norm") in ("nonfinite", "norm")


def conditions(row, spike, nonfinite):
    options = {k: row.options[k] for k in ("sigmas", "window", "warmup")}
    return CONDITIONS[row.options["conditions"]](lambda of: spike(of, **options), nonfinite)


def calls_with_spikes():
    """Gradients and losses with spikes and NaN, at different calls."""
    gradients = np.where(BAD[..., None], np.nan, GRADIENTS * SPIKES[..., None])
    losses = np.where(np.roll(BAD, 2, 0), np.inf, LOSSES * np.roll(SPIKES, 2, 0))
    return gradients, losses


def skipped(row, gradients, losses):
    given = {k: row.options[k] for k in ("max_consecutive", "axis_name")}
    tx = gx.skip_if(averaged(row), *conditions(row, gx.spike, gx.nonfinite), **given)
    extra = lambda x: {"value": x[1]} if row.options["value"] else {}
    run = lambda *calls: scanned(tx, tree(jnp.asarray(PARAMS)), calls, extra)
    return on_devices(row.options["axis_name"], run, gradients, losses)


def averaged(row):
    """Momentum of the mean over devices."""
    axis_name = row.options["axis_name"]
    return momentum() if axis_name is None else gx.chain(gx.average_gradients(axis_name), momentum())


@rows(SKIP_IF, needs_no_loss)
def test_skip_if(row, together, x64):
    gradients, losses = calls_with_spikes()
    found, states = jax.device_get(together(skipped, gradients, losses, row="row"))
    model = models.skip_if(conditions(row, models.Spike, models.Nonfinite), row.options["max_consecutive"])
    next(model)
    devices = DEVICES if row.options["axis_name"] else 1
    for t in range(CALLS):
        values = list(losses[t, :devices]) if row.options["value"] else [None] * devices
        expected = model.send((list(gradients[t, :devices]), values))
        for d in range(devices):
            state = at(states, d, t)
            check_update(found[d, t], expected["u"])
            check_skips(state, expected)
            inner = state.inner_state if row.options["axis_name"] is None else state.inner_state[1]
            check_inner(inner, expected["inner"])


def check_skips(state, expected):
    assert (state.total, state.consecutive) == (expected["total"], expected["consecutive"])
    assert state.exceeded == expected["exceeded"]
    assert state.by_condition == expected["by_condition"]
    for name, (steps, mean, variance) in expected["memory"].items():
        assert state.statistics[name].steps == steps
        np.testing.assert_allclose(state.statistics[name].mean, mean, rtol=1e-5)
        np.testing.assert_allclose(state.statistics[name].variance, variance, rtol=1e-4, atol=1e-6)


LOSS_SCALE = {
    "init_scale": [4.0, 8.0],
    "growth_interval": [2, 1, 3],
    "factor": [2.0, 4.0],
    "min_scale": [1.0, 4.0],
    "max_scale": [2.0**24, 8.0],
    "max_consecutive": [30, 2],
}


def scaled(row, gradients):
    return scanned(
        gx.dynamic_loss_scale(momentum(), **row.options), tree(jnp.asarray(PARAMS)), (gradients[:, 0],)
    )


@rows(LOSS_SCALE)
def test_dynamic_loss_scale(row, together, x64):
    gradients, _ = calls_with_spikes()
    found, states = jax.device_get(together(scaled, gradients, row="row"))
    model = models.dynamic_loss_scale(**row.options)
    next(model)
    for t in range(CALLS):
        expected, state = model.send(gradients[t, 0]), at(states, t)
        check_update(found[t], expected["u"])
        assert (state.scale, state.good_steps) == (expected["scale"], expected["good"])
        check_skips(state.inner_state, expected)
        check_inner(state.inner_state.inner_state, expected["inner"])


def falling(count):
    return 0.1 / (1 + real(count))


NORMS = ("gradient", "update", "parameter")
MEASURED = {
    "norms": [NORMS, (), "update", ("parameter", "gradient")],
    "clip": [None, 2.4],
    "trust_ratio": [False, True],
    "rate": [0.1, falling],
    "around": [None, "skip_if", "accumulate"],
    "twice": [False, True],
}


def measured(row, gradients):
    links = [] if row.options["clip"] is None else [gx.clip_by_global_norm(row.options["clip"])]
    links += [gx.scale_by_trust_ratio()] if row.options["trust_ratio"] else []
    links += [gx.scale_by_learning_rate(row.options["rate"])] * (1 + row.options["twice"])
    tx = gx.chain(*links)
    if row.options["around"] == "skip_if":
        tx = gx.skip_if(tx, gx.nonfinite())
    if row.options["around"] == "accumulate":
        tx = gx.accumulate(tx, 3)
    gradients = jnp.where(
        (BAD if row.options["around"] == "skip_if" else NEVER)[:, :1], jnp.nan, gradients[:, 0]
    )
    tx = gx.measured(tx, norms=row.options["norms"])
    return scanned(tx, tree(jnp.asarray(PARAMS)), (gradients,), read=gx.metrics)


def metrics_by_hand(row):
    """The metrics after each call."""
    norm, options = np.linalg.norm, row.options
    p, count, total, clips, waiting, found = PARAMS, 0, 0, [], [], {}
    rates = ["learning_rate", "learning_rate_2"][: 1 + options["twice"]]
    names = [*rates, *(["clip_rate"] if options["clip"] else [])]
    names += ["trust_ratio/b", "trust_ratio/w"] if options["trust_ratio"] else []
    kept = dict.fromkeys(names, 0.0)
    for t in range(CALLS):
        g, u = GRADIENTS[t, 0], 0.0
        bad = options["around"] == "skip_if" and BAD[t, 0]
        g = np.nan * g if bad else g
        waiting = [*waiting, g] if options["around"] == "accumulate" else [g]
        steps = not bad and (options["around"] != "accumulate" or len(waiting) == 3)
        total += bad
        if steps:
            d = np.mean(waiting, 0)
            if options["clip"]:
                clips.append(norm(d) > options["clip"])
                d, kept["clip_rate"] = d * min(1.0, options["clip"] / norm(d)), np.mean(clips)
            if options["trust_ratio"]:
                for name, part in {"b": slice(0, 2), "w": slice(2, None)}.items():
                    kept[f"trust_ratio/{name}"] = ratio = norm(p[part]) / norm(d[part])
                    d = np.concatenate([ratio * d[part], d[2:]] if name == "b" else [d[:2], ratio * d[part]])
            rate = options["rate"](count) if callable(options["rate"]) else options["rate"]
            kept |= dict.fromkeys(rates, rate)
            u, count, waiting = d * np.prod([-rate] * len(rates)), count + 1, []
        taken = {"gradient": norm(g), "update": norm(u), "parameter": norm(p)}
        asked = [options["norms"]] if isinstance(options["norms"], str) else options["norms"]
        found = kept | {f"{name}_norm": taken[name] for name in asked}
        found |= {"skipped": total} if options["around"] == "skip_if" else {}
        found |= {"micro_step": len(waiting)} if options["around"] == "accumulate" else {}
        yield found
        p = p + u


@rows(MEASURED)
def test_measured(row, together, x64):
    _, found = jax.device_get(together(measured, GRADIENTS, row="row"))
    for t, expected in enumerate(metrics_by_hand(row)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(
                found[name][t], value, rtol=1e-5, atol=1e-7, err_msg=f"{name}, call {t}"
            )
