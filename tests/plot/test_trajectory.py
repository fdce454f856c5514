"""Paths on a surface: those of a loop, over contours."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from matplotlib.contour import ContourSet

import gradx as gx
from gradx.plot import plot_trajectory, trajectory
from tests.plot.drawn import are_inside, data, texts

WARM = gx.warmup_cosine_decay_schedule(0.0, 0.1, 20, 200)


def valley(xy):
    return 0.5 * (xy[0] ** 2 + 30 * xy[1] ** 2)


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
