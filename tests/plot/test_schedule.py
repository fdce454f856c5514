"""Schedules: their values, jumps and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradx as gx
from gradx.plot import plot_schedule
from tests.plot.drawn import are_inside, data, texts

WARM = gx.warmup_cosine_decay_schedule(0.0, 0.1, 20, 200)
STEPS = gx.step_schedule(0.1, 50)


def test_schedules():
    ax = plot_schedule(WARM, STEPS, steps=200)
    lines = ax.get_lines()
    for line, schedule in zip(lines, (WARM, STEPS), strict=True):
        x, y = data(line)
        assert x.tolist() == list(range(201))
        np.testing.assert_allclose(y, [float(schedule(i)) for i in range(201)], rtol=1e-6, atol=1e-7)
        assert line.get_drawstyle() == "steps-post"  # a jump is one
    assert texts(ax) == [repr(WARM), repr(STEPS)]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("step", "learning rate", "linear")
    assert are_inside(ax.figure)


def test_schedules_over_epochs_into_axes_that_are_there():
    ax = Figure().subplots()
    run = gx.Run(epochs=4, steps_per_epoch=50)
    height = ax.figure.get_figheight()
    assert plot_schedule(WARM, steps=run, labels=["rate"], ax=ax) is ax
    assert plot_schedule(lambda step: 0.9, steps=run, ylabel="b1", ax=ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel(), texts(ax)) == ("epoch", "b1", ["rate", "schedule 1"])
    x, y = data(ax.get_lines()[1])
    assert (x[0], x[-1], set(y.round(6))) == (0.0, 4.0, {0.9})
    assert ax.get_lines()[0].get_linestyle() != ax.get_lines()[1].get_linestyle()
    assert ax.figure.get_figheight() == height
    new = plot_schedule(WARM, steps=gx.Run(steps=9))
    assert new.get_xlabel() == "step"
    assert new.figure.get_figheight() > 4  # as high as the axes, and the legend


def test_a_long_run_keeps_its_peak_and_its_jumps():
    run = 100_000
    spike = lambda step: jnp.where(step == 31_415, 1.0, jnp.where(step < 77_777, 0.1, 0.01))
    x, y = data(plot_schedule(spike, steps=run).get_lines()[0])
    assert len(x) <= 2000
    assert (x[0], x[-1], x[np.argmax(y)], y.max()) == (0, run, 31_415, 1.0)
    for at in (31_414, 31_416 + run // 500, 77_776, 77_777, 50_000):  # as drawn: a value is held
        held = y[np.searchsorted(x, at, side="right") - 1]
        np.testing.assert_allclose(held, float(spike(at)), rtol=1e-6)


def test_a_schedule_may_branch_on_the_step():
    ax = plot_schedule(lambda step: 0.1 if step < 3 else 0.2, steps=5)
    assert data(ax.get_lines()[0])[1].tolist() == [0.1] * 3 + [0.2] * 3


def test_a_cycle_has_its_momentum_on_the_right():
    cycle = gx.one_cycle_schedule(0.4, 100)
    ax = plot_schedule(cycle, WARM, steps=100, labels=["one cycle", "warm"])
    right = next(other for other in ax.figure.axes if other is not ax)
    assert right.get_ylabel() == "momentum"
    assert texts(ax) == ["one cycle: learning rate", "one cycle: momentum", "warm"]
    [momentum] = right.get_lines()
    np.testing.assert_allclose(data(momentum)[1], jax.vmap(cycle.momentum)(jnp.arange(101)), rtol=1e-6)
    drawn = [ax.get_lines()[0], momentum, ax.get_lines()[1]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in drawn}) == 3
    assert texts(plot_schedule(cycle, steps=100)) == ["learning rate", "momentum"]


def test_28_lines_differ_without_colour():
    ax = plot_schedule(*[WARM] * 28, steps=20, labels=[f"{i}" for i in range(28)])
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.get_lines()}) == 28
    assert texts(ax) == [f"{i}" for i in range(28)]
    assert are_inside(ax.figure)


@pytest.mark.parametrize(
    ("schedules", "kwargs", "error", "message"),
    [
        ([], {}, ValueError, "plot_schedule: give at least one schedule"),
        ([WARM], dict(steps=0), ValueError, "plot_schedule: steps must be an integer of at least 1, got 0"),
        ([WARM], dict(labels=["a", "b"]), ValueError, "labels must be 1 names, one for each schedule, got"),
        ([WARM], dict(labels="a"), ValueError, "labels must be 1 names, one for each schedule, got 'a'"),
        ([0.1], {}, TypeError, "plot_schedule: 0.1 is not a schedule; see constant_schedule"),
        ([WARM, lambda step: jnp.ones(2)], {}, ValueError, "must give one number for a step"),
        ([gx.reduce_on_plateau(0.1)], {}, TypeError, "is a stateful schedule"),
    ],
)
def test_schedules_that_cannot_be_drawn(schedules, kwargs, error, message):
    ax = Figure().subplots()
    with pytest.raises(error, match=message):
        plot_schedule(*schedules, **dict(steps=10) | kwargs, ax=ax)
    assert not ax.get_lines()
