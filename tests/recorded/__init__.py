"""Numbers of PyTorch and Keras in files, for where they are not installed; NumPy alone reads them."""

import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
HALF, STEPS = 7, 14  # the step after which the state is recorded too, and the last


def start():
    """A matrix and a vector."""
    return [np.linspace(-1.0, 1.0, 6).reshape(2, 3), np.array([0.5, -0.25])]


def gradient(step):
    """Gradients that fall, and change their signs."""
    places = [np.arange(6.0).reshape(2, 3), np.arange(2.0) + 0.5]
    return [2 * 0.9**step * np.sin(1 + 1.7 * step + 2.3 * place) for place in places]


def load(name):
    return json.loads((HERE / f"{name}.json").read_text())


def arrays(lists):
    """Nested lists of numbers as arrays of their shapes."""
    return [np.array(x, np.float64) for x in lists]
