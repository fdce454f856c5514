"""The links in NumPy float64, where no optimizer in this folder is the link alone."""

import numpy as np

from tests.reference.first import decays


def stateless(f):
    """A reference from a function of the gradient, the parameter and the arguments."""

    def rule(**kwargs):
        u = None
        while True:
            g, p = yield u
            u = f(g, p, **kwargs)

    return rule


def uphill(optimizer):
    """The rule of an optimizer alone: its update at a learning rate of -1."""
    return lambda **kwargs: optimizer(-1.0, **kwargs)


@stateless
def unchanged(g, p, **_):
    return g


@stateless
def scale(g, p, step_size):
    return step_size * g


@stateless
def scale_by_learning_rate(g, p, learning_rate, flip_sign=True):
    return (-learning_rate if flip_sign else learning_rate) * g


@stateless
def sign(g, p):
    return np.sign(g)


@stateless
def add_decayed_weights(g, p, weight_decay=0.0, mask=None):
    return g + (weight_decay if decays(mask, p) else 0.0) * p


@stateless
def clip(g, p, max_delta):
    return np.clip(g, -max_delta, max_delta)


@stateless
def zero_nans(g, p):
    return np.where(np.isnan(g), 0.0, g)


@stateless
def keep_params_nonnegative(g, p):
    return np.maximum(g, -p)


@stateless
def centralize(g, p, output_axis=0):
    return g if g.ndim < 2 else g - g.mean(axis=1 - output_axis % 2, keepdims=True)


@stateless
def clip_by_block_rms(g, p, threshold):
    return g / max(1.0, np.sqrt(np.mean(g**2)) / threshold)


@stateless
def clip_by_global_norm(g, p, max_norm, eps=0.0):
    norm = np.linalg.norm(g) + eps
    return g * max_norm / norm if norm > max_norm else g


@stateless
def adaptive_grad_clip(g, p, clipping, eps=1e-3, axis=None):
    axis = 0 if axis is None else axis  # of vectors all, of matrices the rows
    g_norm, p_norm = (np.linalg.norm(x, axis=axis, keepdims=True) for x in (g, p))
    most = clipping * np.maximum(p_norm, eps)
    return np.where(g_norm > most, g * most / np.where(g_norm == 0, 1.0, g_norm), g)


@stateless
def normalize_by_update_norm(g, p, scale_factor=1.0, eps=1e-6):
    norm = np.linalg.norm(g) + eps
    return g * scale_factor / norm if norm else g


@stateless
def scale_by_param_block_norm(g, p, min_scale=1e-3):
    return g * max(np.linalg.norm(p), min_scale)


@stateless
def scale_by_param_block_rms(g, p, min_scale=1e-3):
    return g * max(np.sqrt(np.mean(p**2)), min_scale)


@stateless
def scale_by_trust_ratio(
    g, p, min_norm=0.0, trust_coefficient=1.0, eps=0.0, phi_bounds=(0.0, np.inf), summed_decay=0.0
):
    above, below = (max(np.linalg.norm(x), min_norm) for x in (p, g))
    usable = above > 0 and below > 0
    ratio = (
        trust_coefficient * np.clip(above, *phi_bounds) / (below + summed_decay * above + eps)
        if usable
        else 1.0
    )
    return ratio * (g + summed_decay * p)


@stateless
def descend(
    g,
    p,
    direction,
    learning_rate,
    weight_decay,
    decay_mode="decoupled",
    decay_order="simultaneous",
    max_learning_rate=None,
):
    """Along the gradient itself."""
    peak = learning_rate if max_learning_rate is None else max_learning_rate
    share = {
        "decoupled": learning_rate * weight_decay,
        "l2": learning_rate * weight_decay,
        "independent": learning_rate / peak * weight_decay,
        "corrected": learning_rate**2 / peak * weight_decay,
    }[decay_mode]
    step = -learning_rate * g
    return step - share * (p + step if decay_order == "after" else p)


def scale_by_schedule(step_size_fn):
    t, u = 0, None
    while True:
        g, _ = yield u
        u = float(step_size_fn(t)) * g
        t += 1


def ema(decay, debias=True):
    mean, t, u = 0.0, 0, None
    while True:
        g, _ = yield u
        t += 1
        mean = decay * mean + (1 - decay) * g
        u = mean / (1 - decay**t) if debias else mean


def scale_by_lion(b1=0.9, b2=0.99, variant="hard", smooth_beta=1.0):
    b2 = b1 if b2 is None else b2
    m, u = 0.0, None
    while True:
        g, _ = yield u
        x = b1 * m + (1 - b1) * g
        m = b2 * m + (1 - b2) * g
        if variant == "hard":
            u = np.sign(x)
        else:
            u = np.tanh(smooth_beta * x) if variant == "smooth" else np.clip(x, -1, 1)


def scale_by_rss(initial_accumulator_value=0.0, eps=1e-7, eps_in_sqrt=False):
    s, u = initial_accumulator_value, None
    while True:
        g, _ = yield u
        s = s + g**2
        below = np.sqrt(s + eps) if eps_in_sqrt else np.sqrt(s) + eps
        u = g / np.where(s == 0, 1.0, below)


def scale_by_amsgrad_of_keras(b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, **_):
    m, v, top, t, u = 0.0, 0.0, 0.0, 0, None
    while True:
        g, _ = yield u
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        top = np.maximum(top, v)
        u = m / (1 - b1**t) * np.sqrt(1 - b2**t) / (np.sqrt(top + eps_root) + eps)


def scale_by_adamax(b1=0.9, b2=0.999, eps=1e-8, eps_in_max=True):
    m, top, t, u = 0.0, 0.0, 0, None
    while True:
        g, _ = yield u
        t += 1
        m = b1 * m + (1 - b1) * g
        top = np.maximum(b2 * top, abs(g) + (eps if eps_in_max else 0.0))
        u = m / (1 - b1**t) / (top + (0.0 if eps_in_max else eps))


def scale_by_yogi(b1=0.9, b2=0.999, eps=1e-3, eps_root=0.0, initial_accumulator_value=1e-6):
    m, v, t, u = initial_accumulator_value, initial_accumulator_value, 0, None
    while True:
        g, _ = yield u
        t += 1
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g**2) * g**2
        u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)


def scale_by_sm3(b1=0.9, b2=1.0, eps=1e-8):
    """Of an array of two axes; a vector keeps every element's own sum."""
    rows, columns, mean, u = 0.0, 0.0, 0.0, None
    fresh = 1.0 if b2 == 1 else 1 - b2
    while True:
        g, _ = yield u
        s = b2 * np.minimum(rows, columns) + fresh * g**2
        rows, columns = (s, s) if g.ndim < 2 else (s.max(1, keepdims=True), s.max(0, keepdims=True))
        mean = b1 * mean + (1 - b1) * np.where(s == 0, 0.0, g / np.sqrt(np.where(s == 0, 1.0, s + eps)))
        u = mean


def negative(rule):
    """The updates of a reference with the other sign."""
    next(rule)
    u = None
    while True:
        u = -rule.send((yield u))
