"""Adagrad, RMSprop, Adadelta, Rprop, ASGD."""

import numpy as np

from tests.reference.first import at


def adagrad(learning_rate, initial_accumulator_value=0.0, eps=1e-7, eps_in_sqrt=False):
    s, u = initial_accumulator_value, None
    while True:
        g, _ = yield u
        s = s + g**2
        u = -learning_rate * g / (np.sqrt(s + eps) if eps_in_sqrt else np.sqrt(s) + eps)


def rmsprop(
    learning_rate,
    decay=0.9,
    eps=1e-8,
    initial_scale=0.0,
    eps_in_sqrt=False,
    centered=False,
    momentum=None,
    nesterov=False,
    bias_correction=False,
    rate_in_velocity=True,
):
    mean, square, v, t, u = 0.0, initial_scale, 0.0, 0, None
    while True:
        g, _ = yield u
        t += 1
        mean = decay * mean + (1 - decay) * g
        square = decay * square + (1 - decay) * g**2
        c = 1 / (1 - decay**t) if bias_correction else 1.0
        variance = np.maximum(c * square - (c * mean) ** 2, 0.0) if centered else c * square
        d = g / (np.sqrt(variance + eps) if eps_in_sqrt else np.sqrt(variance) + eps)
        rate = at(learning_rate, t - 1)
        d = rate * d if rate_in_velocity else d
        if momentum is not None:
            v = momentum * v + d
            d = momentum * v + d if nesterov else v
        u = -d if rate_in_velocity else -rate * d


def adadelta(learning_rate=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
    square, moves, u = 0.0, 0.0, None
    while True:
        g, p = yield u
        g = g + weight_decay * p
        square = rho * square + (1 - rho) * g**2
        d = np.sqrt((moves + eps) / (square + eps)) * g
        moves = rho * moves + (1 - rho) * d**2
        u = -learning_rate * d


def rprop(learning_rate, eta_minus=0.5, eta_plus=1.2, min_step_size=1e-6, max_step_size=50.0):
    """Without backtracking: where the sign turns there is no move, and no memory of the gradient."""
    before, u = None, None
    while True:
        g, _ = yield u
        if before is None:
            before, size = np.zeros_like(g), np.full_like(g, learning_rate)
        same, turned = g * before > 0, g * before < 0
        size = np.where(same, np.minimum(size * eta_plus, max_step_size), size)
        size = np.where(turned, np.maximum(size * eta_minus, min_step_size), size)
        g = np.where(turned, 0.0, g)
        u, before = -np.sign(g) * size, g


def asgd(learning_rate, lambd=1e-4, alpha=0.75, t0=1e6):
    t, u = 0, None
    while True:
        g, p = yield u
        eta = learning_rate / (1 + lambd * learning_rate * t) ** alpha
        u = p * (1 - lambd * eta) - eta * g - p
        t += 1
