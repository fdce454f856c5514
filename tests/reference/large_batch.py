"""LARS and LAMB for all arrays of a model together, each as one source has it.

Sent lists of gradients and parameters, they yield the list of updates. `spared` says of each array whether it
is a bias or the scale of a norm; what that means is what the sources disagree on.
"""

import numpy as np

norm = np.linalg.norm


def lars_of_the_paper(lr, wd, spared, eta=0.001, m=0.9):
    """You, Gitman & Ginsburg 2017, algorithm 1: all arrays alike, the global rate within the velocity."""
    v, us = None, None
    while True:
        gs, ws = yield us
        v = v or [0.0] * len(gs)
        for i, (g, w) in enumerate(zip(gs, ws, strict=True)):
            local = eta * norm(w) / (norm(g) + wd * norm(w)) if norm(g) > 0 and norm(w) > 0 else 1.0
            v[i] = m * v[i] + lr * local * (g + wd * w)
        us = [-x for x in v]


def lars_of_mlperf(lr, wd, spared, eta=0.001, m=0.9, eps=1e-7):
    """mlcommons/training, image_classification/tensorflow2: its skip list has neither ratio nor decay."""
    mom, us = None, None
    while True:
        gs, ws = yield us
        mom = mom or [0.0] * len(gs)
        for i, (g, w) in enumerate(zip(gs, ws, strict=True)):
            scaled_lr = lr
            if not spared[i]:
                above, below = norm(w), norm(g)
                scaled_lr *= eta * above / (below + wd * above + eps) if above > 0 and below > 0 else 1.0
                g = g + wd * w
            mom[i] = mom[i] * m - g * scaled_lr
        us = list(mom)


def lars_of_nvidia(lr, wd, spared, eta=0.001, m=0.9, nesterov=True):
    """FusedLARS of apex, multi_tensor_lars.cu: a skipped group has no ratio, and decays."""
    mom, us = None, None
    while True:
        gs, ws = yield us
        mom, us = mom or [0.0] * len(gs), []
        for i, (g, w) in enumerate(zip(gs, ws, strict=True)):
            scaled_lr = lr
            if not spared[i] and norm(g) > 0 and norm(w) > 0:
                scaled_lr = lr * eta * norm(w) / (norm(g) + norm(w) * wd)
            step = scaled_lr * (g + wd * w)
            mom[i] = mom[i] * m - step
            us.append(mom[i] * m - step if nesterov else mom[i])


def lamb_of_the_paper(lr, wd, spared, b1=0.9, b2=0.999, eps=1e-6, low=0.0, high=np.inf):
    """You et al. 2020, algorithm 2: all arrays alike, φ between two bounds."""
    m, v, t, us = None, None, 0, None
    while True:
        gs, xs = yield us
        m, v, t, us = m or [0.0] * len(gs), v or [0.0] * len(gs), t + 1, []
        for i, (g, x) in enumerate(zip(gs, xs, strict=True)):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            r = m[i] / (1 - b1**t) / (np.sqrt(v[i] / (1 - b2**t)) + eps)
            step = r + wd * x
            safe = norm(x) > 0 and norm(step) > 0
            us.append(-lr * (min(max(norm(x), low), high) / norm(step) if safe else 1.0) * step)


def lamb_of_mlperf(lr, wd, spared, b1=0.9, b2=0.999, eps=1e-6, clip_norm=1.0):
    """mlcommons/training, BERT: clipped before; what its patterns exclude has neither decay nor ratio."""
    m, v, t, us = None, None, 0, None
    while True:
        gs, ws = yield us
        whole = np.sqrt(sum(norm(g) ** 2 for g in gs))
        gs = [g * clip_norm * min(1 / whole, 1 / clip_norm) for g in gs]
        m, v, t, us = m or [0.0] * len(gs), v or [0.0] * len(gs), t + 1, []
        for i, (g, w) in enumerate(zip(gs, ws, strict=True)):
            m[i] = m[i] * b1 + g * (1 - b1)
            v[i] = v[i] * b2 + g * g * (1 - b2)
            update = (m[i] / (1 - b1**t)) / (np.sqrt(v[i] / (1 - b2**t)) + eps)
            ratio = 1.0
            if not spared[i]:
                update = update + wd * w
                ratio = norm(w) / norm(update) if norm(w) > 0 and norm(update) > 0 else 1.0
            us.append(-ratio * lr * update)


def lamb_of_nvidia(lr, wd, spared, b1=0.9, b2=0.999, eps=1e-6, max_grad_norm=1.0, use_nvlamb=False):
    """FusedLAMB of apex, multi_tensor_lamb.cu: a group with decay 0 has the ratio with use_nvlamb only."""
    m, v, t, us = None, None, 0, None
    while True:
        gs, ps = yield us
        whole = np.sqrt(sum(norm(g) ** 2 for g in gs))
        clipped = whole / max_grad_norm if whole > max_grad_norm else 1.0
        m, v, t, us = m or [0.0] * len(gs), v or [0.0] * len(gs), t + 1, []
        for i, (g, p) in enumerate(zip(gs, ps, strict=True)):
            decay, scaled = 0.0 if spared[i] else wd, g / clipped
            m[i] = m[i] * b1 + (1 - b1) * scaled
            v[i] = v[i] * b2 + (1 - b2) * scaled * scaled
            update = m[i] / (1 - b1**t) / (np.sqrt(v[i] / (1 - b2**t)) + eps) + decay * p
            ratio = lr
            if (use_nvlamb or decay != 0) and norm(update) != 0 and norm(p) != 0:
                ratio = lr * norm(p) / norm(update)
            us.append(-ratio * update)
