"""The common parts of all pictures: Matplotlib, axes, styles that differ in grey, legends beside the data."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.transforms import ScaledTranslation
except ImportError as e:
    raise ImportError("gradx.plot needs Matplotlib: pip install 'gradx[plot]'") from e

from gradx.core.display import text

__all__ = []

COLORS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito
LINES = ("-", "--", "-.", ":")
MARKERS = ("", "o", "s", "^", "D", "v", "P")  # seven and four have no common divisor: 28 pairs
MOST = 1000  # columns of pixels, about, in a picture


def style(i: int, points: int) -> dict[str, Any]:
    """The style of line `i`: no two of 28 share both line and marker."""
    every = max(1, points // 12)
    own = {"color": COLORS[i % 7], "linestyle": LINES[i % 4], "marker": MARKERS[i % 7]}
    return own | {"markevery": (i * every // 5 % every, every), "markersize": 4, "linewidth": 1.4}


def new_axes(width: float = 7, height: float = 4) -> Axes:
    """The axes of a new figure, in inches, in which nothing is cut off."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def labels_of(owner: str, kind: str, drawn: Sequence[Any], labels: Sequence[str] | None) -> list[str]:
    """The given labels, one for each object that is drawn; else their calls or names."""
    if not drawn:
        raise ValueError(f"{owner}: give at least one {kind}")
    if labels is not None:
        if isinstance(labels, str) or len(labels) != len(drawn):
            raise ValueError(
                f"{owner}: labels must be {len(drawn)} names, one for each {kind}, got {labels!r}"
            )
        return [str(label) for label in labels]
    named = [text(x) for x in drawn]
    known = [" at 0x" not in name and name != "<lambda>" for name in named]
    return [name if ok else f"{kind} {i}" for i, (name, ok) in enumerate(zip(named, known, strict=True), 1)]


def legend(ax: Axes, lines: Sequence[Any], *, above: bool = False, grow: bool = False) -> None:
    """Draw a legend outside of the axes: below the label of x, or above; long labels are wrapped.

    `grow` makes the figure higher by the height of the legend.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    letters = ax.get_window_extent().width / figure.dpi * 72 / 4.6  # of the small font, on average
    letters = int(letters * (0.65 if above else 1.0))  # a heat map below takes the rest for its labels
    labels = [textwrap.fill(str(line.get_label()), max(20, letters - 8)) for line in lines]
    longest = max(len(line) for label in labels for line in label.splitlines())
    rows = -(-len(lines) // max(1, letters // (8 + longest)))
    if grow:
        figure.set_figheight(figure.get_figheight() + 0.17 * rows * (1 + max(x.count("\n") for x in labels)))
    away = ScaledTranslation(0, (3 if above else -36) / 72, figure.dpi_scale_trans)  # -36: ticks and a label
    loc, corner = ("lower left", (0, 1)) if above else ("upper center", (0.5, 0))
    place = {"loc": loc, "bbox_to_anchor": corner, "bbox_transform": ax.transAxes + away, "borderaxespad": 0}
    columns = -(-len(lines) // rows)
    ax.legend(lines, labels, ncols=columns, fontsize="small", frameon=False, handlelength=3.5, **place)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first, least, greatest and last point of each of many stretches: they look like all points."""
    if len(x) <= 2 * MOST:
        return x, y
    stretches = np.array_split(np.arange(len(x)), MOST // 2)
    kept = np.unique([(i[0], i[np.argmin(y[i])], i[np.argmax(y[i])], i[-1]) for i in stretches])
    return x[kept], y[kept]
