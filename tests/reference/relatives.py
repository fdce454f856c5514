"""Adam's relatives, signs, Fromage and optimistic gradients."""

import numpy as np

from tests.reference.first import adam_direction, decays


def stepped(direction, learning_rate, weight_decay=0.0, mask=None):
    """The update from a generator of directions: decoupled decay, then the learning rate."""
    next(direction)
    u = None
    while True:
        g, p = yield u
        decay = weight_decay if decays(mask, p) else 0.0
        u = -learning_rate * (direction.send(g) + decay * p)


def amsgrad(
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    bias_correction_mu=True,
    bias_correction_nu=True,
    variant="corrected",
):
    def direction():
        m, v, top, t, u = 0.0, 0.0, 0.0, 0, None
        while True:
            g = yield u
            t += 1
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            of_m = 1 - b1**t if bias_correction_mu and variant != "paper" else 1.0
            of_v = 1 - b2**t if bias_correction_nu and variant != "paper" else 1.0
            if variant == "corrected":
                top = v_hat = np.maximum(top, v / of_v)
            else:
                top = np.maximum(top, v)
                v_hat = top / of_v
            u = m / of_m / (np.sqrt(v_hat + eps_root) + eps)

    return stepped(direction(), learning_rate)


def nadamw(
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=1e-4,
    mask=None,
    momentum_decay=None,
):
    def momentum(t):
        return b1 if momentum_decay is None else b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    def direction():
        m, v, product, t, u = 0.0, 0.0, 1.0, 0, None
        while True:
            g = yield u
            t += 1
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            now, ahead = momentum(t), momentum(t + 1)
            product *= now
            looked_ahead = ahead * m / (1 - product * ahead) + (1 - now) * g / (1 - product)
            u = looked_ahead / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)

    return stepped(direction(), learning_rate, weight_decay, mask)


def nadam(learning_rate, **kwargs):
    return nadamw(learning_rate, **kwargs, weight_decay=0.0)


def adamaxw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4, mask=None):
    def direction():
        m, largest, t, u = 0.0, 0.0, 0, None
        while True:
            g = yield u
            t += 1
            m = b1 * m + (1 - b1) * g
            largest = np.maximum(b2 * largest, np.abs(g) + eps)
            u = m / ((1 - b1**t) * largest)

    return stepped(direction(), learning_rate, weight_decay, mask)


def adamax(learning_rate, **kwargs):
    return adamaxw(learning_rate, **kwargs, weight_decay=0.0)


def yogi(learning_rate, b1=0.9, b2=0.999, eps=1e-3):
    def direction():
        m, v, t, u = 1e-6, 1e-6, 0, None
        while True:
            g = yield u
            t += 1
            m = b1 * m + (1 - b1) * g
            v = v - (1 - b2) * np.sign(v - g**2) * g**2
            u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)

    return stepped(direction(), learning_rate)


def adabelief(learning_rate, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, nesterov=False):
    def direction():
        m, s, t, u = 0.0, 0.0, 0, None
        while True:
            g = yield u
            t += 1
            m = b1 * m + (1 - b1) * g
            s = b2 * s + (1 - b2) * (g - m) ** 2 + eps_root
            m_hat = m / (1 - b1**t)
            if nesterov:
                m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
            u = m_hat / (np.sqrt(s / (1 - b2**t)) + eps)

    return stepped(direction(), learning_rate)


def signum(learning_rate, beta=0.9):
    def direction():
        m, u = 0.0, None
        while True:
            g = yield u
            m = beta * m + (1 - beta) * g
            u = np.sign(m)

    return stepped(direction(), learning_rate)


def sign_sgd(learning_rate):
    u = None
    while True:
        g, _ = yield u
        u = -learning_rate * np.sign(g)


def fromage(learning_rate, min_norm=1e-6):
    u = None
    while True:
        g, p = yield u
        ratio = max(np.linalg.norm(p), min_norm) / max(np.linalg.norm(g), min_norm)
        u = (p - learning_rate * ratio * g) / np.sqrt(1 + learning_rate**2) - p


def optimistic(direction, alpha, beta):
    next(direction)
    previous, u = None, None
    while True:
        g = yield u
        d = direction.send(g)
        u = alpha * d + (0.0 if previous is None else beta * (d - previous))
        previous = d


def unchanged():
    u = None
    while True:
        u = yield u


def optimistic_gradient_descent(learning_rate, alpha=1.0, beta=1.0):
    return stepped(optimistic(unchanged(), alpha, beta), learning_rate)


def optimistic_adam(learning_rate, optimism, b1=0.9, b2=0.999, eps=1e-8):
    return stepped(optimistic(adam_direction(b1, b2, eps, nesterov=True), learning_rate, optimism), 1.0)


def optimistic_adam_v2(learning_rate, alpha=1.0, beta=1.0, b1=0.9, b2=0.999, eps=1e-8):
    return stepped(optimistic(adam_direction(b1, b2, eps, nesterov=True), alpha, beta), learning_rate)
