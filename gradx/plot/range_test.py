"""The result of the learning rate range test."""

from typing import Any

import numpy as np

from gradx.plot.canvas import Axes, legend, new_axes

__all__ = ["plot_range_test"]


def plot_range_test(found: Any, ax: Axes | None = None) -> Axes:
    """Draw the losses of a range test against the rate, with the suggestions; returns Matplotlib's axes.

    Arguments:
      found: a `RangeTest`, as `lr_range_test` returns it.
      ax: the axes to draw into; new ones if not given.
    """
    is_new = ax is None
    ax = new_axes() if ax is None else ax
    rates, smoothed = found.learning_rates, found.smoothed
    ax.plot(rates, found.losses, ls="", marker=".", ms=4, color="0.6", label="loss")
    ax.plot(rates, smoothed, color="black", lw=1.6, label="smoothed")
    for name, rate, marker in (("steepest", found.steepest, "v"), ("minimum / 10", found.minimum_tenth, "o")):
        height = np.interp(np.log(rate), np.log(rates), smoothed)
        own = {"marker": marker, "ms": 8, "ls": "", "color": "white", "markeredgecolor": "black"}
        ax.plot([rate], [height], label=f"{name}: {rate:.2g}", **own)
    low, high = found.losses.min(), smoothed[: np.argmin(smoothed) + 1].max()
    if high > low:  # the losses beyond would flatten the rest
        ax.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    ax.set(xscale="log", xlabel="learning rate (log scale)", ylabel="loss", title="learning rate range test")
    ax.grid(alpha=0.3)
    legend(ax, ax.get_lines(), grow=is_new)
    return ax
