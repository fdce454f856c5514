"""RAdam, Ranger (with Lookahead and centralization), Polyak's step size, and L-BFGS."""

import numpy as np

from tests.reference.first import at, decays


def radam_direction(
    b1, b2, eps, eps_root=0.0, threshold=5.0, nesterov=False, eps_before_correction=False, rate=1.0
):
    m, v, t, u = 0.0, 0.0, 0, None
    rho_inf = 2 / (1 - b2) - 1
    while True:
        g = yield u
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        if rho < threshold:
            u = m_hat
            continue
        r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        if eps_before_correction:
            u = m_hat * r * np.sqrt(1 - b2**t) / (np.sqrt(v) + eps)
        else:
            u = m_hat * r / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)


def radam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, **variant):
    direction = radam_direction(b1, b2, eps, **variant)
    next(direction)
    t, u = 0, None
    while True:
        g, _ = yield u
        u = -at(learning_rate, t) * direction.send(g)
        t += 1


def ranger(
    learning_rate,
    b1=0.95,
    b2=0.999,
    eps=1e-5,
    weight_decay=0.0,
    mask=None,
    sync_period=6,
    slow_step_size=0.5,
    centralized=True,
):
    """As two nested loops: the fast weights take sync_period steps, then the slow ones take one."""
    direction = radam_direction(b1, b2, eps)
    next(direction)
    u, slow = None, None
    while True:
        for k in range(1, sync_period + 1):
            g, p = yield u
            slow = p if slow is None else slow
            if centralized and g.ndim >= 2:
                g = g - np.stack([np.full_like(row, row.mean()) for row in g])
            decay = weight_decay if decays(mask, p) else 0.0
            fast = p - learning_rate * (direction.send(g) + decay * p)
            if k == sync_period:
                fast = slow = (1 - slow_step_size) * slow + slow_step_size * fast
            u = fast - p


def polyak_sgd(max_learning_rate=1.0, scaling=1.0, f_min=0.0, eps=0.0, variant="sps", value=1.0):
    u = None
    while True:
        g, _ = yield u
        gap = max(value - f_min, 0.0) if variant == "sps+" else value - f_min
        below = np.dot(g, g) + eps
        u = -scaling * (min(gap / below, max_learning_rate) if below else 0.0) * g


def lbfgs(learning_rate, memory_size=10, scale_init_precond=True, linesearch=None, min_curvature=1e-8):
    """The two loops as Nocedal & Wright write them, over a list of (s, y)."""
    assert linesearch is None
    pairs, before, u = [], None, None
    while True:
        g, p = yield u
        if before is not None:
            s, y = p - before[0], g - before[1]
            kept = s @ y > min_curvature * np.linalg.norm(s) * np.linalg.norm(y)
            pairs = [*pairs, (s, y) if kept else None][-memory_size:]
        before = p, g
        kept = [pair for pair in pairs if pair is not None]
        q, alphas = g, []
        for s, y in reversed(kept):
            alphas.append(s @ q / (s @ y))
            q = q - alphas[-1] * y
        if scale_init_precond:
            s, y = kept[-1] if kept else (None, None)
            q = q * (s @ y / (y @ y) if kept else min(1.0, 1 / np.linalg.norm(g)))
        for s, y in kept:
            q = q + (alphas.pop() - y @ q / (s @ y)) * s
        u = -learning_rate * q
