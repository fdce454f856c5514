"""What a run did: the same from a loop, a scan and a file, each in its panel."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import gradx as gx
from gradx.plot import plot_history
from tests.plot.drawn import are_inside, data, texts


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
        ({}, ValueError, r"the history has no name that is drawn.*found: \[\]"),
        (
            {"accuracy": [1.0, 2.0]},
            ValueError,
            r"loss, learning_rate, \.\.\._norm or trust_ratio/\.\.\.; found: \['accuracy'\]",
        ),
        (
            [{"loss": 1.0}, {"los": 1.0}],
            ValueError,
            r"names of entry 1 differ from the first entry; missing: \['loss'\], new: \['los'\]",
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
