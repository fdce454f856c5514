"""SGD, Adam and AdamW, Lion, LARS and LAMB."""

import numpy as np


def sgd(learning_rate, momentum=None, nesterov=False, rate_in_velocity=False):
    inside, outside = (learning_rate, 1.0) if rate_in_velocity else (1.0, learning_rate)
    v, u = 0.0, None
    while True:
        g, _ = yield u
        v = inside * g + (momentum * v if momentum else 0.0)
        u = -outside * (momentum * v + inside * g if nesterov else v)


def adam_direction(b1, b2, eps, eps_root=0.0, nesterov=False, bias_correction=True, eps_hat=False):
    m, v, t, u = 0.0, 0.0, 0, None
    while True:
        g = yield u
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m, v
        if nesterov:
            m_hat = b1 * m + (1 - b1) * g
        if bias_correction:
            m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
            if nesterov:
                m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        u = m_hat / (np.sqrt(v_hat + eps_root) + eps)
        if eps_hat:
            u = m_hat * np.sqrt(1 - b2**t) / (np.sqrt(v + eps_root) + eps)


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
    **variant,
):
    direction = adam_direction(b1, b2, eps, eps_root, **variant)
    next(direction)
    u = None
    while True:
        g, p = yield u
        decay = weight_decay if decays(mask, p) else 0.0
        if decay_mode == "l2":
            u = -learning_rate * direction.send(g + decay * p)
            continue
        share = decay if decay_mode == "independent" else learning_rate * decay
        d = learning_rate * direction.send(g)
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
    v, u = 0.0, None
    while True:
        g, p = yield u
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
        step = -learning_rate * ratio * (g + decay * p)
        v = momentum * v + step
        u = momentum * v + step if nesterov else v


def lamb(
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    weight_decay=0.0,
    mask=None,
    trust_ratio_mask=None,
    phi_bounds=(0.0, np.inf),
    bias_correction=True,
    variant="paper",
    max_grad_norm=np.inf,
):
    assert max_grad_norm > 1e6, "one array cannot know the norm of all"
    trust_ratio_mask = mask if variant == "mlperf" and trust_ratio_mask is None else trust_ratio_mask
    direction = adam_direction(b1, b2, eps, bias_correction=bias_correction)
    next(direction)
    u = None
    while True:
        g, p = yield u
        d = direction.send(g) + (weight_decay if decays(mask, p) else 0.0) * p
        above, below = np.linalg.norm(p), np.linalg.norm(d)
        ratio = np.clip(above, *phi_bounds) / below if above > 0 and below > 0 else 1.0
        u = -learning_rate * (ratio if decays(trust_ratio_mask, p) else 1.0) * d


def decays(mask, p):
    """The references know one mask: biases and norms are spared, or not."""
    return mask is None or p.ndim >= 2
