"""The history of a run: loss, learning rate, norms, trust ratios."""

import csv
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gradx.plot.canvas import MOST, Axes, legend, plt, style, thinned

__all__ = ["plot_history"]

# The names of each panel. A name that fits two, such as a parameter named "loss", belongs to the later one.
PANELS = {
    "loss": r"(.*/)?(\w+_)?loss",
    "learning rate": r"(.*/)?learning_rate(_\d+)?",
    "norm": r"(.*/)?(\w+_)?norm(_\d+)?",
    "trust ratio": r"(.*/)?trust_ratio(_\d+)?(/.*)?",
}
FEW = 6  # trust ratios that are drawn as lines


def plot_history(history: Any, *, axes: Any = None) -> np.ndarray:
    """Draw the history of a run: loss, learning rate, norms and trust ratios, a panel for each.

    A history has the numbers that `metrics` reads of a state, and losses. It draws
    `learning_rate`, `gradient_norm`, `trust_ratio/<path>`, also in a group, and names that end in `loss`.
    More than 6 trust ratios become a heat map with 1 in the middle of its scale; of more than 1000 steps it
    has every k-th.

    Arguments:
      history: a list of dicts of scalars, one for each step; a dict of arrays, one element a step, as a scan
        stacks them; or the path of a file that `CSVWriter` wrote. A column `step` is x, else 0, 1, ...
      axes: one for each panel; a new figure if not given.

    Returns an array of Matplotlib's axes, one for each panel. Raises ValueError, with the names
    found, for a history of fewer than two steps, with names that come and go, or with no name that is drawn.

    >>> import gradx.plot
    >>> history = [{"loss": 1 / (1 + i), "learning_rate": 0.1} for i in range(10)]
    >>> [ax.get_ylabel() for ax in gradx.plot.plot_history(history)]
    ['loss', 'learning rate']
    """
    found = table(history)
    panels = sorted_into_panels(found)
    x, drawn = checked(found, [name for names in panels.values() for name in names])
    kinds = list(panels)
    is_new = axes is None
    axes = new_panels(kinds, panels) if axes is None else np.ravel(np.array(axes, dtype=object))
    if len(axes) != len(kinds):
        raise ValueError(f"plot_history: {len(kinds)} axes are needed, for {kinds}, got {len(axes)}")
    for ax, panel in zip(axes, kinds, strict=True):
        columns = {name: drawn[name] for name in panels[panel]}
        if is_map(panel, columns):
            heat_map(ax, x, columns)
        else:
            lines(ax, panel, x, columns, grow=is_new)
    axes[-1].set_xlabel("step")
    return axes


def table(history: Any) -> Mapping[str, Any]:
    """Columns by name."""
    if isinstance(history, str | os.PathLike):  # a kill may leave half a row
        with pathlib.Path(history).open(newline="") as file:
            history = [row for row in csv.DictReader(file) if None not in row.values()]
    if isinstance(history, Mapping):
        return jax.device_get(dict(history))
    if not isinstance(history, Sequence) or not all(isinstance(row, Mapping) for row in history):
        raise TypeError(
            "plot_history: history must be a list of dicts, a dict of arrays or the path of a CSV file, got "
            f"{type(history).__name__}"
        )
    if not history:
        raise ValueError("plot_history: the history is empty")
    names = history[0].keys()
    for i, row in enumerate(history):
        if row.keys() != names:
            raise ValueError(
                f"plot_history: the names of entry {i} differ from the first entry; missing: "
                f"{sorted(names - row.keys())}, new: {sorted(row.keys() - names)}"
            )
    rows = jax.device_get([list(row.values()) for row in history])
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def sorted_into_panels(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names that each panel draws, in the order of the panels."""
    panels: dict[str, list[str]] = {panel: [] for panel in PANELS}
    for name in found:
        fits = [panel for panel, pattern in PANELS.items() if re.fullmatch(pattern, name)]
        if fits:
            panels[fits[-1]].append(name)
    if not any(panels.values()):
        raise ValueError(
            "plot_history: the history has no name that is drawn, such as loss, learning_rate, ..._norm or "
            f"trust_ratio/...; found: {sorted(found)}"
        )
    return {panel: names for panel, names in panels.items() if names}


def checked(found: Mapping[str, Any], names: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The steps, and the columns to draw over them, all of one length."""
    drawn = {name: column(name, found[name]) for name in names}
    count = len(drawn[names[0]])
    x = column("step", found["step"]) if "step" in found else np.arange(count)
    lengths = {name: len(y) for name, y in drawn.items()} | {"step": len(x)}
    if len(set(lengths.values())) > 1 or count < 2:
        raise ValueError(f"plot_history: all must have as many steps, two or more; found: {lengths}")
    return x, drawn


def column(name: str, x: Any) -> np.ndarray:
    """One number a step."""
    try:
        y = np.asarray(x, float)
    except (TypeError, ValueError) as e:
        raise ValueError(f"plot_history: {name} must be one number a step: {e}") from e
    if y.ndim != 1:
        raise ValueError(f"plot_history: {name} must be one number a step, got an array of shape {y.shape}")
    return y


def is_map(panel: str, columns: Sequence[str] | Mapping[str, Any]) -> bool:
    return panel == "trust ratio" and len(columns) > FEW


def new_panels(kinds: list[str], panels: dict[str, list[str]]) -> np.ndarray:
    """Panels over one x, one below the other; a heat map is as high as its rows need."""
    heights = [0.7 + 0.16 * min(len(panels[k]), 40) if is_map(k, panels[k]) else 1.9 for k in kinds]
    size = (7, sum(heights) + 0.5)
    grid = {"height_ratios": heights, "sharex": True, "squeeze": False}
    return plt.subplots(len(kinds), figsize=size, layout="constrained", **grid)[1][:, 0]


def layer(name: str) -> str:
    """`<path>` from `trust_ratio/<path>`: the panel says the rest."""
    return re.sub(r"trust_ratio(_\d+)?/", "", name)


def lines(ax: Axes, panel: str, x: np.ndarray, columns: dict[str, np.ndarray], *, grow: bool) -> None:
    """Draw a line for each column; norms and trust ratios on a log scale."""
    drawn = []
    for i, (name, y) in enumerate(columns.items()):
        x_drawn, y_drawn = thinned(x, y)
        drawn += ax.plot(x_drawn, y_drawn, label=layer(name).removesuffix("_norm"), **style(i, len(x_drawn)))
    title = panel if len(columns) > 1 else next(iter(columns)).replace("_", " ")
    if panel in ("norm", "trust ratio") and any((y > 0).any() for y in columns.values()):
        ax.set_yscale("log", nonpositive="mask")
        title = f"{title}\n(log scale)"
    ax.set_ylabel(title)
    ax.grid(alpha=0.3)
    if len(columns) > 1:
        legend(ax, drawn, above=True, grow=grow)


def heat_map(ax: Axes, x: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """A row for each layer, dark below 1 and light above."""
    every = -(-len(x) // MOST)
    z = np.stack(list(columns.values()))[:, ::every]
    z = np.ma.masked_where(~(np.isfinite(z) & (z > 0)), z)
    most = max(2.0, z.max(), 1 / z.min()) if z.count() else 2.0  # less than 2 is no event
    rows = np.arange(len(columns))
    scale = {"norm": "log", "vmin": 1 / most, "vmax": most, "cmap": "cividis"}
    mesh = ax.pcolormesh(x[::every], rows, z, shading="nearest", rasterized=True, **scale)
    skip = -(-len(rows) // 40)
    ax.set_yticks(rows[::skip], [layer(name) for name in columns][::skip], fontsize="x-small")
    ax.invert_yaxis()
    ticks = [1 / most, most**-0.5, 1.0, most**0.5, most]
    figure = ax.get_figure(root=True)
    assert figure is not None
    short = lambda x, _: f"{x:,.0f}" if x >= 100 else f"{x:.2g}"
    bar = figure.colorbar(mesh, ax=ax, label="trust ratio (log scale)", ticks=ticks, format=short)
    bar.ax.minorticks_off()
