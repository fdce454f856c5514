"""Both ends of the checks that are written by hand: of several arguments, or seen in a trace only."""

import functools
import math

import jax
import pytest

import gradx as gx
from tests.test_bounds import after, before, refused


def scales(low, first, high):
    return lambda: gx.dynamic_loss_scale(gx.sgd(0.1), first, min_scale=low, max_scale=high)


def call_of(name, *args, **kwargs):
    return lambda: getattr(gx, name)(*args, **kwargs)


def at_trace(tx, *shape):
    """One step of a transformation for an array of this shape, without computing it."""
    x = jax.ShapeDtypeStruct(shape, "float32")
    return lambda: jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[0], x)


TX, SCHEDULE = gx.sgd(0.1), gx.constant_schedule(1.0)
S = call_of
cosine = functools.partial(S, "warmup_cosine_decay_schedule", 0.0, 1.0)
one_cycle = functools.partial(S, "one_cycle_schedule", 1.0)
# Checks of several arguments, or by hand: words of the error, calls that are allowed, calls that are not.
PAIRS = [
    ("init_scale must be between", [scales(2.0, 2.0, 2.0)], [scales(2.0, before(2.0), 4.0)]),
    ("init_scale must be between", [scales(1.0, 2.0, 2.0)], [scales(1.0, after(2.0), 2.0)]),
    (
        "min_step_size must not be above",
        [
            S("rprop", 0.1, min_step_size=1.0, max_step_size=1.0),
            S("rprop", 0.1, min_step_size=0, max_step_size=0),
        ],
        [S("rprop", 0.1, min_step_size=after(1.0), max_step_size=1.0)],
    ),
    *(
        (
            r"phi_bounds must be \(low, high\)",
            [make(phi_bounds=(0.0, 0.0)), make(phi_bounds=(2.0, 2.0))],
            [make(phi_bounds=bounds) for bounds in [(before(0.0), 1.0), (after(2.0), 2.0), (1.0,), 1.0]],
        )
        for make in (
            functools.partial(S, "scale_by_trust_ratio"),
            functools.partial(S, "lamb", 0.1),
            functools.partial(S, "lars", 0.1),
        )
    ),
    ("decay_steps must be at least 5", [cosine(5, 5)], [cosine(5, 4)]),
    ("decay_steps must be at least 1", [cosine(0, 1)], [cosine(0, 0)]),
    (
        "pct_start",
        [one_cycle(10, pct_start=0.0), one_cycle(10, pct_start=before(1.0))],
        [
            one_cycle(10, pct_start=before(0.0)),
            one_cycle(10, pct_start=1.0),
        ],
    ),
    (
        "at most 0.5 in three phases",
        [one_cycle(10, pct_start=0.5, three_phase=True)],
        [one_cycle(10, pct_start=after(0.5), three_phase=True)],
    ),
    (
        "factors must be more than 0",
        [one_cycle(10, div_factor=1e-9), one_cycle(10, final_div_factor=1e-9)],
        [
            one_cycle(10, div_factor=0.0),
            one_cycle(10, final_div_factor=0.0),
        ],
    ),
    (
        "of at least 1",
        [one_cycle(10, pct_start=0.1, inclusive=True)],
        [one_cycle(10, pct_start=before(0.1), inclusive=True)],
    ),
    (
        "timescale must be more than 0",
        [S("inverse_sqrt_schedule", 0.0, 1.0, 0, 1e-9), S("inverse_sqrt_schedule", 0.0, 1.0, 1)],
        [
            S("inverse_sqrt_schedule", 0.0, 1.0, 0),
            S("inverse_sqrt_schedule", 0.0, 1.0, 5, 0.0),
        ],
    ),
    (
        "decay_rate must be more than 0",
        [S("exponential_decay", 1.0, 5, 1e-9)],
        [S("exponential_decay", 1.0, 5, 0.0)],
    ),
    (
        "gamma must be more than 0",
        [S("step_schedule", 1.0, 5, 1e-9), S("cyclic_schedule", 0.0, 1.0, gamma=1e-9)],
        [
            S("step_schedule", 1.0, 5, 0.0),
            S("cyclic_schedule", 0.0, 1.0, gamma=0.0),
        ],
    ),
    (
        "the scale at 5 must be at least 0",
        [
            S("piecewise_constant_schedule", 1.0, {5: 0.0}),
            S("piecewise_interpolate_schedule", "linear", 1.0, {0: 0.0}),
        ],
        [
            S("piecewise_constant_schedule", 1.0, {5: before(0.0)}),
            S("piecewise_interpolate_schedule", "linear", 1.0, {5: before(0.0)}),
        ],
    ),
    (
        "must be at least 0 and below",
        [S("knots_schedule", {0: 1.0}), S("multi_step_schedule", 1.0, [0])],
        [
            S("knots_schedule", {-1: 1.0}),
            S("multi_step_schedule", 1.0, [-1]),
            S("piecewise_interpolate_schedule", "linear", 1.0, {-1: 1.0}),
        ],
    ),
    ("at least one", [], [S("knots_schedule", {}), S("join_schedules", [], []), S("product_schedule", [])]),
    (
        "boundaries must ascend",
        [S("join_schedules", [SCHEDULE] * 3, [5, 5])],
        [S("join_schedules", [SCHEDULE] * 3, [5, 4])],
    ),
    (
        "need 1 boundaries",
        [S("join_schedules", [SCHEDULE] * 2, [5])],
        [S("join_schedules", [SCHEDULE] * 2, b) for b in ([], [5, 6])],
    ),
    (
        "steps must be an integer",
        [S("shift_schedule", SCHEDULE, s * (2**31 - 1)) for s in (1, -1)],
        [S("shift_schedule", SCHEDULE, x) for x in (2**31, -(2**31), 0.5)],
    ),
    (
        "t_mult must be an integer",
        [S("cosine_restarts_schedule", 1.0, 5, 2.0)],
        [S("cosine_restarts_schedule", 1.0, 5, 1.5)],
    ),
    (
        "factor must be more than 0 and less than 1",
        [S("reduce_on_plateau", 1.0, x) for x in (after(0.0), before(1.0))],
        [S("reduce_on_plateau", 1.0, x) for x in (0.0, 1.0)],
    ),
    (
        "relative threshold must be less than 1",
        [
            S("reduce_on_plateau", 1.0, threshold=before(1.0)),
            S("reduce_on_plateau", 1.0, threshold=1.0, threshold_mode="abs"),
        ],
        [S("reduce_on_plateau", 1.0, threshold=1.0)],
    ),
    (
        "threshold must be at least 0",
        [S("reduce_on_plateau", 1.0, threshold=0.0)],
        [S("reduce_on_plateau", 1.0, threshold=before(0.0))],
    ),
    (
        "lr must be more than 0",
        [lambda: gx.torch.ChainedScheduler([SCHEDULE], 1e-9)],
        [lambda: gx.torch.ChainedScheduler([SCHEDULE], 0.0)],
    ),
    (
        "batch_size must be at least 1",
        [S("scale_learning_rate", 0.1, 1, 1)],
        [
            S("scale_learning_rate", 0.1, before(1.0), 1),
            S("scale_learning_rate", 0.1, 1, before(1.0)),
            S("scale_learning_rate", 0.1, math.inf),
        ],
    ),
    (
        "must be at least 1, got 0",
        [S("Run", steps=1), S("Run", 1, 1)],
        [S("Run", steps=0), S("Run", 1, 0), S("Run", 0.4, 1)],
    ),
    (
        "fraction must be between",
        [lambda: gx.Run(steps=9).fraction(0.0), lambda: gx.Run(steps=9).fraction(1.0)],
        [lambda: gx.Run(steps=9).fraction(before(0.0)), lambda: gx.Run(steps=9).fraction(after(1.0))],
    ),
    (
        "epochs must be at least 0",
        [lambda: gx.Run(1, 9).epochs(0.0)],
        [lambda: gx.Run(1, 9).epochs(x) for x in (before(0.0), math.inf, math.nan)],
    ),
    (
        "decay_rate must be at least 0",
        [lambda: gx.torch.Adafactor(beta2_decay=0.0), lambda: gx.keras.Adafactor(beta_2_decay=0.0)],
        [
            lambda: gx.torch.Adafactor(beta2_decay=after(0.0)),
            lambda: gx.keras.Adafactor(beta_2_decay=after(0.0)),
        ],
    ),
    (
        "output_axis is",
        [at_trace(gx.centralize(output_axis=i), 2, 3) for i in (1, -2)],
        [at_trace(gx.centralize(output_axis=i), 2, 3) for i in (2, -3)],
    ),
    (
        "not axes|no axis",
        [at_trace(gx.stacked(gx.sgd(0.1), {"": i}), 2, 3) for i in (1, -2, (0, 1))],
        [at_trace(gx.stacked(gx.sgd(0.1), {"": i}), 2, 3) for i in (2, -3, (0, 2))],
    ),
    (
        "no usual units",
        [at_trace(gx.adaptive_grad_clip(0.1), *[2] * 5)],
        [at_trace(gx.adaptive_grad_clip(0.1), *[2] * 6)],
    ),
    (
        "weight_decay_mask",
        [S("lars", 0.1, variant="paper")],
        [S("lars", 0.1, variant="paper", weight_decay_mask="matrices_only")],
    ),
    (
        "cannot come after",
        [S("adamw", 0.1, decay_mode="l2", decay_order="before")],
        [S("adamw", 0.1, decay_mode="l2", decay_order="after")],
    ),
    (
        "give max_learning_rate",
        [S("adamw", SCHEDULE, decay_mode=m, max_learning_rate=1.0) for m in ("independent", "corrected")],
        [S("adamw", SCHEDULE, decay_mode=m) for m in ("independent", "corrected")],
    ),
    (
        "no use for momentum_decay",
        [S("nadam", 0.1, nesterov=False)],
        [S("nadam", 0.1, nesterov=False, momentum_decay=0.0)],
    ),
    (
        "eps_hat goes with",
        [S("scale_by_amsgrad", variant="raw", eps_hat=True)],
        [S("scale_by_amsgrad", variant=v, eps_hat=True) for v in ("corrected", "paper")],
    ),
    (
        "nesterov needs a momentum",
        [lambda: gx.torch.SGD(momentum=0.9, nesterov=True)],
        [
            lambda: gx.torch.SGD(nesterov=True),
            lambda: gx.torch.SGD(momentum=0.9, dampening=0.1, nesterov=True),
        ],
    ),
    (
        "only one of clipnorm",
        [lambda: gx.keras.SGD(clipnorm=1.0)],
        [
            lambda: gx.keras.SGD(clipnorm=1.0, clipvalue=1.0),
            lambda: gx.keras.SGD(clipvalue=1.0, global_clipnorm=1.0),
        ],
    ),
    (
        "two conditions have one name",
        [S("skip_if", TX, gx.nonfinite(), gx.spike())],
        [S("skip_if", TX, gx.nonfinite(), gx.nonfinite())],
    ),
    ("needs a condition", [], [S("skip_if", TX)]),
    ("names must differ", [S("named_chain", ("a", TX), ("b", TX))], [S("named_chain", ("a", TX), ("a", TX))]),
    (
        "where chooses the slots",
        [S("precision", TX, "8-bit", where="w")],
        [S("precision", TX, "split", where="w")],
    ),
    ("dtype must be float32 or float64", [S("master_weights", "float32")], [S("master_weights", "bfloat16")]),
    ("floor must be a number", [S("adafactor", floor="machine")], [S("adafactor", floor="none")]),
    ("no policy is named 'another'", [], [S("precision", TX, "another")]),
    (
        "curv_rtol must be at least 0",
        [S("scale_by_zoom_linesearch", 9, curv_rtol=x) for x in (0.0, 1.0, math.inf)],
        [S("scale_by_zoom_linesearch", 9, curv_rtol=x) for x in (before(0.0), math.nan)],
    ),
    (
        "slope_rtol must be between 0 and 1",
        [S("scale_by_zoom_linesearch", 9, slope_rtol=x) for x in (0.0, 1.0)],
        [S("scale_by_zoom_linesearch", 9, slope_rtol=x) for x in (before(0.0), after(1.0))],
    ),
    (
        "decrease_factor must be more than 0 and less than 1",
        [S("scale_by_backtracking_linesearch", 9, decrease_factor=x) for x in (after(0.0), before(1.0))],
        [S("scale_by_backtracking_linesearch", 9, decrease_factor=x) for x in (0.0, 1.0)],
    ),
    ("norms must be", [S("measured", TX, norms=())], [S("measured", TX, norms=("gradient", "another"))]),
]


@pytest.mark.parametrize(("words", "allowed", "out"), PAIRS, ids=[words for words, *_ in PAIRS])
def test_a_check_by_hand_has_both_ends(words, allowed, out):
    for call in allowed:
        call()
    for call in out:
        refused(words, call)
