"""Adafactor, SM3, NovoGrad, Adan and SGD with noise."""

import numpy as np

from tests.reference.first import at


def adafactor(
    learning_rate=None,
    min_dim_size_to_factor=128,
    decay_rate=0.8,
    decay_offset=0,
    multiply_by_parameter_scale=True,
    clipping_threshold=1.0,
    momentum=None,
    weight_decay_rate=0.0,
    eps=1e-30,
    weight_decay_mask=None,
    relative_step=False,
    min_scale=1e-3,
    floor=None,
    factored=True,
    factored_axes="largest",
    dtype_momentum=None,
):
    """For matrices: the mean of the squares is the outer product of its margins over their mean."""
    rows, columns, full, mean, t, u = 0.0, 0.0, 0.0, 0.0, 0, None
    least = np.finfo(np.float64).eps if floor == "machine" else floor or 0.0
    while True:
        g, p = yield u
        t += 1
        b = 1 - max(t - decay_offset, 1) ** -decay_rate
        squares = g**2 + eps
        pair = np.argsort(g.shape, kind="stable")[-2:] if factored_axes == "largest" else range(g.ndim)[-2:]
        if factored and g.ndim >= 2 and min(g.shape[i] for i in pair) >= min_dim_size_to_factor:
            row, column = pair
            rows = b * rows + (1 - b) * squares.mean(column, keepdims=True)
            columns = b * columns + (1 - b) * squares.mean(row, keepdims=True)
            second = rows * columns / np.maximum(rows.mean(row, keepdims=True), least)
        else:
            full = b * full + (1 - b) * squares
            second = full
        d = g / np.sqrt(np.maximum(second, least**2))
        if clipping_threshold is not None:
            d = d / max(1.0, np.sqrt(np.mean(d**2)) / clipping_threshold)
        rate = 1.0 if learning_rate is None else at(learning_rate, t - 1)
        d = d * (min(rate, t**-0.5) if relative_step else rate)
        if multiply_by_parameter_scale:
            d = d * max(np.sqrt(np.mean(p**2)), min_scale)
        if momentum is not None:
            mean = momentum * mean + (1 - momentum) * d
            d = mean
        u = -d - (weight_decay_rate if weight_decay_mask is None or p.ndim >= 2 else 0.0) * p


def sm3(learning_rate, momentum=0.9, eps=1e-8):
    """Algorithm SM3-II, whose covers are the rows and the columns."""
    sums, mean, u = None, 0.0, None
    while True:
        g, _ = yield u
        if g.ndim < 2:
            sums = g**2 + (0.0 if sums is None else sums)
            accumulated = sums
        else:
            rows, columns = (
                np.zeros(g.shape[0]) if sums is None else sums[0],
                0.0 if sums is None else sums[1],
            )
            accumulated = np.minimum(rows[:, None], columns) + g**2
            sums = accumulated.max(1), accumulated.max(0)
        mean = momentum * mean + (1 - momentum) * g / np.sqrt(accumulated + eps)
        u = -learning_rate * mean


def novograd(learning_rate, b1=0.9, b2=0.25, eps=1e-6, eps_root=0.0, weight_decay=0.0):
    m, v, u = 0.0, None, None
    while True:
        g, p = yield u
        v = np.sum(g**2) if v is None else b2 * v + (1 - b2) * np.sum(g**2)
        m = b1 * m + (g / (np.sqrt(v + eps_root) + eps) + weight_decay * p)
        u = -learning_rate * m


def adan(learning_rate, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-8, weight_decay=0.0, mask=None):
    m, v, n, t, before, u = 0.0, 0.0, 0.0, 0, None, None
    while True:
        g, p = yield u
        t += 1
        difference = 0 * g if before is None else g - before
        before = g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * difference
        n = b3 * n + (1 - b3) * (g + (1 - b2) * difference) ** 2
        step = m / (1 - b1**t) + (1 - b2) * v / (1 - b2**t)
        direction = step / (np.sqrt(n / (1 - b3**t) + eps_root) + eps)
        u = -learning_rate * (direction + (weight_decay if mask is None or p.ndim >= 2 else 0.0) * p)


def noisy_sgd(learning_rate, eta, **_):
    """Without the noise: the rows ask for so little that it is below the tolerance."""
    assert eta <= 1e-28
    u = None
    while True:
        g, _ = yield u
        u = -learning_rate * g
