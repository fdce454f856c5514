"""SGD, Adam and AdamW, Lion, LARS and LAMB."""

import numpy as np


def at(value, t):
    """A hyperparameter at a step, 0 at first: a number, or a schedule."""
    return value(t) if callable(value) else value


def sgd(learning_rate, momentum=None, nesterov=False, rate_in_velocity=False):
    v, t, u = 0.0, 0, None
    while True:
        g, _ = yield u
        rate = at(learning_rate, t)
        inside, outside = (rate, 1.0) if rate_in_velocity else (1.0, rate)
        t += 1
        v = inside * g + (momentum * v if momentum else 0.0)
        u = -outside * (momentum * v + inside * g if nesterov else v)


def adam_direction(b1, b2, eps, eps_root=0.0, nesterov=False, bias_correction=True, eps_hat=False):
    m, v, t, of_m, of_v, u = 0.0, 0.0, 0, 1.0, 1.0, None
    while True:
        g = yield u
        d1, d2 = at(b1, t), at(b2, t)
        t += 1
        of_m, of_v = of_m * d1, of_v * d2  # b1ᵗ and b2ᵗ, where they stay
        m = d1 * m + (1 - d1) * g
        v = d2 * v + (1 - d2) * g**2
        m_hat, v_hat = m, v
        if nesterov:
            m_hat = d1 * m + (1 - d1) * g
        if bias_correction:
            m_hat, v_hat = m / (1 - of_m), v / (1 - of_v)
            if nesterov:
                m_hat = d1 * m / (1 - of_m * d1) + (1 - d1) * g / (1 - of_m)
        u = m_hat / (np.sqrt(v_hat + eps_root) + eps)
        if eps_hat:
            correction = np.sqrt(1 - of_v) if bias_correction else 1.0
            u = m_hat * correction / (np.sqrt(v + eps_root) + eps)


def adamw(
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=1e-4,
    mask=None,
    decay_mode="decoupled",
    decay_order="simultaneous",
    max_learning_rate=None,
    **variant,
):
    direction = adam_direction(b1, b2, eps, eps_root, **variant)
    next(direction)
    t, u = 0, None
    while True:
        g, p = yield u
        decay = at(weight_decay, t) if decays(mask, p) else 0.0
        rate = at(learning_rate, t)
        peak = rate if max_learning_rate is None else max_learning_rate
        t += 1
        if decay_mode == "l2":
            u = -rate * direction.send(g + decay * p)
            continue
        shares = {"decoupled": rate, "independent": rate / peak, "corrected": rate**2 / peak}
        share = shares[decay_mode] * decay
        d = rate * direction.send(g)
        u = ((p - d) * (1 - share) if decay_order == "after" else p * (1 - share) - d) - p


def adam(learning_rate, **kwargs):
    return adamw(learning_rate, **kwargs, weight_decay=0.0)


def lion(learning_rate, b1=0.9, b2=0.99, weight_decay=1e-3, mask=None):
    b2 = b1 if b2 is None else b2
    m, u = 0.0, None
    while True:
        g, p = yield u
        decay = weight_decay if decays(mask, p) else 0.0
        u = -learning_rate * (np.sign(b1 * m + (1 - b1) * g) + decay * p)
        m = b2 * m + (1 - b2) * g


def lars(
    learning_rate,
    weight_decay=0.0,
    weight_decay_mask=None,
    trust_coefficient=0.001,
    eps=0.0,
    trust_ratio_mask=None,
    momentum=0.9,
    nesterov=False,
    phi_bounds=(0.0, np.inf),
    variant="optax",
):
    v, t, u = 0.0, 0, None
    while True:
        g, p = yield u
        rate = at(learning_rate, t)
        t += 1
        above = np.linalg.norm(p)
        if variant == "optax":
            decay = weight_decay if decays(weight_decay_mask, p) else 0.0
            below = np.linalg.norm(g + decay * p)
        else:
            decay = weight_decay if variant == "nvidia" or decays(trust_ratio_mask, p) else 0.0
            below = np.linalg.norm(g) + decay * above
        usable = above > 0 and (below if variant == "optax" else np.linalg.norm(g)) > 0
        ratio = trust_coefficient * np.clip(above, *phi_bounds) / (below + eps) if usable else 1.0
        if not decays(trust_ratio_mask, p):
            ratio = 1.0
        step = -rate * ratio * (g + decay * p)
        v = momentum * v + step
        u = momentum * v + step if nesterov else v


def lamb(
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    eps_root=0.0,
    weight_decay=0.0,
    mask=None,
    trust_ratio_mask=None,
    phi_bounds=(0.0, np.inf),
    bias_correction=True,
    variant="paper",
    max_grad_norm=np.inf,
):
    assert max_grad_norm > 1e6, "one array cannot know the norm of all"
    never = trust_ratio_mask is None and variant == "nvidia" and weight_decay == 0
    if trust_ratio_mask is None and variant in ("mlperf", "nvidia"):
        trust_ratio_mask = mask
    direction = adam_direction(b1, b2, eps, eps_root, bias_correction=bias_correction)
    next(direction)
    t, u = 0, None
    while True:
        g, p = yield u
        d = direction.send(g) + (weight_decay if decays(mask, p) else 0.0) * p
        above, below = np.linalg.norm(p), np.linalg.norm(d)
        ratio = np.clip(above, *phi_bounds) / below if above > 0 and below > 0 else 1.0
        u = -at(learning_rate, t) * (ratio if decays(trust_ratio_mask, p) and not never else 1.0) * d
        t += 1


def decays(mask, p):
    """The references know one mask: biases and norms are spared, or not."""
    return mask is None or mask is True or p.ndim >= 2
