"""The range test, and what is said without Matplotlib."""

import importlib
import sys

import numpy as np
import pytest

import gradx as gx
from gradx.plot import plot_range_test
from tests.plot.drawn import are_inside, data


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
    for name in [name for name in sys.modules if name.startswith("gradx.plot")]:
        monkeypatch.delitem(sys.modules, name)
    for ask in (lambda: importlib.import_module("gradx.plot"), found.plot):
        with pytest.raises(ImportError, match=r"gradx.plot needs Matplotlib: pip install 'gradx\[plot\]'"):
            ask()
