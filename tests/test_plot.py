"""`gradx.plot`: what is drawn, number by number, and that it can be told apart without colour."""

import importlib
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

import gradx as gx
from gradx.plot import plot_history, plot_range_test, plot_schedule, plot_trajectory, trajectory

WARM = gx.warmup_cosine_decay_schedule(0.0, 0.1, 20, 200)
STEPS = gx.step_schedule(0.1, 50)


@pytest.fixture(autouse=True)
def closed():
    """No window, and no figure that outlives a test."""
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def valley(xy):
    return 0.5 * (xy[0] ** 2 + 30 * xy[1] ** 2)


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def data(line):
    return [np.asarray(x, float) for x in line.get_data()]


def are_inside(figure):
    """Nothing that is drawn, labels and legends too, is cut off by the edge."""
    figure.canvas.draw()
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    return (
        box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= whole.width + 0.01 and box.y1 <= whole.height + 0.01
    )


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
    assert plot_schedule(WARM, steps=run, labels=["rate"], ax=ax) is ax
    assert plot_schedule(lambda step: 0.9, steps=run, ylabel="b1", ax=ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel(), texts(ax)) == ("epoch", "b1", ["rate", "schedule 1"])
    x, y = data(ax.get_lines()[1])
    assert (x[0], x[-1], set(y.round(6))) == (0.0, 4.0, {0.9})
    assert ax.get_lines()[0].get_linestyle() != ax.get_lines()[1].get_linestyle()
    assert plot_schedule(WARM, steps=gx.Run(steps=9)).get_xlabel() == "step"


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


@pytest.mark.parametrize("tx", [gx.sgd(0.03, momentum=0.9), gx.adamw(WARM), gx.polyak_sgd()], ids=repr)
def test_trajectory_is_that_of_a_loop(tx):
    points = trajectory(valley, tx, (-4, 1), 12)
    assert points.shape == (13, 2)
    xy = jnp.array([-4.0, 1.0])
    state = tx.init(xy)
    for i in range(13):
        np.testing.assert_allclose(points[i], xy, rtol=1e-4, atol=2e-5)
        value, grad = jax.value_and_grad(valley)(xy)
        updates, state = tx.update(grad, state, xy, value=value)
        xy = gx.apply_updates(xy, updates)


def test_trajectory_compiles_once_for_equal_transformations():
    traced = []

    def counted(xy):
        traced.append(1)
        return valley(xy)

    trajectory(counted, gx.sgd(0.01), (1.0, 1.0), 3)
    first = len(traced)
    trajectory(counted, gx.sgd(0.01), (2.0, 1.0), 3)
    assert first >= 2
    assert len(traced) <= first + 1  # for the check of what it gives


def test_trajectory_of_optax_and_of_a_line_search(lenient):
    for tx in (optax.adam(0.1), gx.lbfgs()):
        points = trajectory(valley, tx, (-4.0, 1.0), 30)
        assert valley(points[-1]) < 0.1 * valley(points[0])


def test_trajectories():
    chained = gx.chain(gx.trace(0.9), gx.scale_by_learning_rate(0.03))
    adam = gx.adam(0.3)
    ax = plot_trajectory(valley, chained, adam, start=(-4.0, 1.0), steps=40, minimum=(0.0, 0.0))
    *paths, start, minimum = ax.get_lines()
    for line, tx in zip(paths, (chained, adam), strict=True):
        np.testing.assert_array_equal(np.stack(data(line), 1), trajectory(valley, tx, (-4.0, 1.0), 40))
    assert np.ravel(data(start)).tolist() == [-4.0, 1.0]
    assert np.ravel(data(minimum)).tolist() == [0.0, 0.0]
    assert texts(ax) == [repr(chained), repr(adam), "start", "minimum"]
    lines = ax.get_lines()
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 4
    assert all(line.get_marker() not in ("", "None") for line in lines)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    for points, (low, high) in zip(
        np.concatenate([data(p) for p in paths], 1), (ax.get_xlim(), ax.get_ylim())
    ):
        assert low < points.min()
        assert points.max() < high
    assert are_inside(ax.figure)


def contours(ax):
    return next(c for c in ax.collections if isinstance(c, ContourSet))


def test_contours_of_a_quadratic_are_at_even_distances():
    bounds = ((-3.0, 3.0), (-3.0, 3.0))
    bowl = lambda xy: xy[0] ** 2 + xy[1] ** 2 - 5
    ax = plot_trajectory(bowl, gx.sgd(0.1), start=(1.0, 1.0), steps=2, bounds=bounds)
    assert (ax.get_xlim(), ax.get_ylim()) == bounds
    radii = np.sqrt(contours(ax).levels + 5)
    whole = radii[radii < 3]
    assert len(whole) > 8
    np.testing.assert_allclose(np.diff(whole), np.diff(whole).mean(), rtol=0.1)
    assert {dashes for _, dashes in contours(ax).get_linestyle()} == {None}  # below 0 too


def test_the_valley_of_rosenbrock_is_seen():
    rosenbrock = lambda xy: (1 - xy[0]) ** 2 + 100 * (xy[1] - xy[0] ** 2) ** 2
    ax = plot_trajectory(
        rosenbrock, gx.sgd(1e-3), start=(-1.5, 2.0), steps=3, bounds=((-2.0, 2.0), (-1.0, 3.0))
    )
    levels = contours(ax).levels
    assert levels[0] < 1 < levels[4] < 100 < levels[-1]


def test_a_path_that_diverges_leaves_the_picture_to_the_others():
    with_it = plot_trajectory(valley, gx.sgd(0.01), gx.sgd(0.1), start=(-4.0, 1.0), steps=200)
    (x0, x1), (y0, y1) = with_it.get_xlim(), with_it.get_ylim()
    assert not np.isfinite(data(with_it.get_lines()[1])[1]).all()
    assert (x0, x1) == pytest.approx((-4.35, -0.19), abs=0.01)
    assert -2.5 < y0 < y1 < 2.5
    with_it.figure.canvas.draw()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(start=1.0), ValueError, r"start must be of shape \(2,\), x and y, got 1.0"),
        (dict(start=(1.0, 2.0, 3.0)), ValueError, r"start must be of shape \(2,\), .* got \(1.0, 2.0, 3.0\)"),
        (dict(steps=0), ValueError, "steps must be an integer of at least 1, got 0"),
        (dict(f=lambda x, y: x + y), TypeError, r"f must give a scalar for one array .*missing 1"),
        (dict(f=lambda xy: xy), TypeError, r"f must give a scalar .*got .*shape=\(2,\)"),
        (dict(f=lambda xy: sum(a * b for a, b in [xy[:1], xy])), TypeError, "f must give a scalar.*unpack"),
        (dict(tx=gx.sgd), TypeError, "tx of trajectory is not a gradient transformation.*call it"),
    ],
)
@pytest.mark.parametrize("draw", [False, True], ids=["trajectory", "plot_trajectory"])
def test_what_has_no_path(draw, kwargs, error, message):
    given = dict(f=valley, tx=gx.sgd(0.1), start=(1.0, 1.0), steps=3) | kwargs
    with pytest.raises(error, match=message):
        plot_trajectory(given.pop("f"), given.pop("tx"), **given) if draw else trajectory(**given)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("txs", "kwargs", "message"),
    [
        ([], {}, "plot_trajectory: give at least one transformation"),
        ([gx.sgd(0.1)], dict(labels=[]), r"labels must be 1 names, one for each transformation, got \[\]"),
        ([gx.sgd(0.1)], dict(minimum=0.0), r"minimum must be of shape \(2,\), x and y, got 0.0"),
        ([gx.sgd(0.1)], dict(start=(np.nan, 1.0)), "plot_trajectory: f is nan at the start"),
    ],
)
def test_trajectories_that_cannot_be_drawn(txs, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plot_trajectory(valley, *txs, **dict(start=(1.0, 1.0), steps=2) | kwargs)


def measured_run(layers, steps=6):
    """The metrics of a few steps, as a loop has them: a list of dicts of arrays of JAX."""
    params = {f"layer_{i}": {"kernel": jnp.full((2, 2), 1.0 + i)} for i in range(layers)}
    tx = gx.measured(gx.lamb(gx.linear_schedule(0.1, 0.01, steps), weight_decay=0.01))
    state, rows = tx.init(params), []
    step = jax.jit(tx.update)
    for i in range(steps):
        updates, state = step(jax.tree.map(lambda p: p * 0.1 + i, params), state, params)
        params = gx.apply_updates(params, updates)
        rows.append({"loss": jnp.asarray(2.0 / (1 + i))} | gx.metrics(state))
    return rows


def heat(ax):
    return next(c for c in ax.collections if isinstance(c, QuadMesh))


def test_history_of_a_loop():
    rows = measured_run(layers=2)
    loss, rate, norm, ratio = axes = plot_history(rows)
    assert [ax.get_ylabel() for ax in axes] == [
        "loss",
        "learning rate",
        "norm\n(log scale)",
        "trust ratio\n(log scale)",
    ]
    assert [ax.get_yscale() for ax in axes] == ["linear", "linear", "log", "log"]
    assert axes[-1].get_xlabel() == "step"
    assert texts(norm) == ["gradient", "parameter", "update"]
    assert texts(ratio) == ["layer_0/kernel", "layer_1/kernel"]
    names = ["loss", "learning_rate", "gradient_norm", "parameter_norm", "update_norm"]
    names += ["trust_ratio/layer_0/kernel", "trust_ratio/layer_1/kernel"]
    lines = [line for ax in axes for line in ax.get_lines()]
    for line, name in zip(lines, names, strict=True):
        x, y = data(line)
        assert x.tolist() == list(range(6))
        np.testing.assert_array_equal(y, [float(row[name]) for row in rows])
    assert len({(line.get_linestyle(), line.get_marker()) for line in norm.get_lines()}) == 3
    assert are_inside(loss.figure)
    assert rate.get_legend() is None


def test_trust_ratios_of_many_layers_are_a_heat_map():
    rows = measured_run(layers=8)
    ax = plot_history(rows)[-1]
    names = [f"trust_ratio/layer_{i}/kernel" for i in range(8)]
    expected = np.array([[float(row[name]) for row in rows] for name in names])
    np.testing.assert_array_equal(heat(ax).get_array(), expected)
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"layer_{i}/kernel" for i in range(8)]
    norm = heat(ax).norm
    assert isinstance(norm, LogNorm)
    assert norm(1.0) == pytest.approx(0.5)  # 1 is in the middle
    assert norm.vmin <= expected.min() <= expected.max() <= norm.vmax
    bar = heat(ax).colorbar
    assert bar.ax.get_ylabel() == "trust ratio (log scale)"
    assert 1.0 in bar.get_ticks()
    large = [row | {names[0]: 1300.0} for row in rows]
    assert heat(plot_history(large)[-1]).colorbar.ax.get_yticklabels()[-1].get_text() == "1,300"
    shades = plt.get_cmap(heat(ax).cmap.name)(np.linspace(0, 1, 64))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(shades) > 0).all()  # told apart in grey
    assert are_inside(ax.figure)


def test_ratios_that_are_no_ratio_are_left_out_of_the_colours():
    history = {f"trust_ratio/{i}": np.full(4, 1.5) for i in range(9)}
    history["trust_ratio/3"] = np.array([0.0, np.nan, np.inf, 1.0])
    mesh = heat(plot_history(history)[0])
    assert mesh.get_array().mask.sum() == mesh.get_array().mask[3].sum() == 3
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.5, 2.0)


def test_history_of_a_long_run():
    x = np.arange(10_000)
    history = {f"trust_ratio/{i}": 1.0 + x for i in range(7)} | {"loss": np.where(x == 777, 9.0, 1.0)}
    loss, ratio = plot_history(history)
    assert data(loss.get_lines()[0])[1].max() == 9.0
    np.testing.assert_array_equal(heat(ratio).get_array()[0], 1.0 + x[::10])


def test_history_of_a_scan_and_of_a_file_are_those_of_a_loop(tmp_path):
    rows = measured_run(layers=2)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    with gx.CSVWriter(tmp_path / "metrics.csv") as writer:
        for i, row in enumerate(rows):
            writer.write(10 * i, row)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("60,0.5")  # as a kill leaves it
    drawn = [[data(line) for ax in plot_history(h) for line in ax.get_lines()] for h in (rows, stacked)]
    read = [data(line) for ax in plot_history(str(tmp_path / "metrics.csv")) for line in ax.get_lines()]
    assert len(read) == len(drawn[0]) == 7
    for (x, y), (x_scan, y_scan), (x_file, y_file) in zip(*drawn, read, strict=True):
        np.testing.assert_array_equal(y, y_scan)
        np.testing.assert_array_equal(y, y_file)
        np.testing.assert_array_equal(10 * x, x_file)
        np.testing.assert_array_equal(x, x_scan)


def test_names_of_groups_and_losses_find_their_panels():
    names = [
        "train_loss",
        "val/loss",
        "groups/head/learning_rate",
        "learning_rate_2",
        "loss_scale",
        "skipped",
    ]
    history = dict.fromkeys([*names, "trust_ratio/loss", "gradient_norm_2", "norm"], np.ones(3))
    loss, rate, norm, ratio = plot_history(history)
    assert texts(loss) == ["train_loss", "val/loss"]
    assert texts(rate) == ["groups/head/learning_rate", "learning_rate_2"]
    assert texts(norm) == ["gradient_norm_2", "norm"]
    assert ratio.get_ylabel() == "trust ratio/loss\n(log scale)"


def test_history_into_axes_that_are_there():
    axes = Figure().subplots(1, 2)
    assert (
        plot_history({"loss": [2.0, 1.0], "learning_rate": [0.1, 0.1]}, axes=axes).tolist() == axes.tolist()
    )
    assert axes[0].get_lines()[0].get_ydata().tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match=r"1 axes are needed, for \['loss'\], got 2"):
        plot_history({"loss": [2.0, 1.0]}, axes=axes)


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([], ValueError, "plot_history: the history is empty"),
        ({}, ValueError, r"nothing that is drawn is in the history.*found: \[\]"),
        (
            {"accuracy": [1.0, 2.0]},
            ValueError,
            r"loss, learning_rate, \.\.\._norm or trust_ratio/\.\.\.; found: \['accuracy'\]",
        ),
        (
            [{"loss": 1.0}, {"los": 1.0}],
            ValueError,
            r"names of entry 1 are not those of the first; missing: \['loss'\], new: \['los'\]",
        ),
        (
            {"loss": [1.0, 2.0], "val_loss": [1.0]},
            ValueError,
            "all must have as many steps, two or more; found: {'loss': 2, 'val_loss': 1",
        ),
        ([{"loss": 1.0}], ValueError, "two or more; found: {'loss': 1"),
        ([{"loss": np.ones(2)}] * 2, ValueError, r"loss must be one number a step, got .* shape \(2, 2\)"),
        ([{"loss": "low"}] * 2, ValueError, "loss must be one number a step: could not convert"),
        (3.0, TypeError, "must be a list of dicts, a dict of arrays or the path of a CSV file, got float"),
        ([1.0], TypeError, "history must be a list of dicts"),
    ],
)
def test_histories_that_cannot_be_drawn(history, error, message):
    with pytest.raises(error, match=message):
        plot_history(history)
    assert not plt.get_fignums()


def test_an_empty_file_says_so(tmp_path):
    gx.CSVWriter(tmp_path / "empty.csv").close()
    with pytest.raises(ValueError, match="plot_history: the history is empty"):
        plot_history(tmp_path / "empty.csv")


def test_range_test():
    rates = np.geomspace(1e-3, 1.0, 30)
    losses = 2 - np.sin(np.linspace(0, 3, 30))
    found = gx.RangeTest(rates, losses + 0.1, losses, True)
    ax = plot_range_test(found)
    loss, smoothed, *marks = ax.get_lines()
    for line, y in ((loss, losses + 0.1), (smoothed, losses)):
        np.testing.assert_array_equal(data(line), [rates, y])
    suggested = [float(data(line)[0][0]) for line in marks]
    assert suggested == [found.steepest, found.minimum_tenth]
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.get_lines()}) == 4
    assert are_inside(ax.figure)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    found = gx.RangeTest(np.ones(2), np.ones(2), np.ones(2), False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for name in [name for name in sys.modules if name.startswith("gradx.pictures") or name == "gradx.plot"]:
        monkeypatch.delitem(sys.modules, name)
    for ask in (lambda: importlib.import_module("gradx.plot"), found.plot):
        with pytest.raises(ImportError, match=r"gradx.plot needs Matplotlib: pip install 'gradx\[plot\]'"):
            ask()
