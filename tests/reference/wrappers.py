"""Wrappers once more, as loops over the calls, in NumPy float64; all arrays are one vector.

A model is a generator: it is sent what a call is given, and yields what the call must leave behind.
"""

import numpy as np


class Momentum:
    """What the wrappers are around: momentum whose rate falls with its count; it keeps what it is given."""

    def __init__(self):
        self.v, self.count, self.given = 0.0, 0, {}

    def step(self, g, **given):
        self.v, self.given = 0.5 * self.v + g, given
        self.count += 1
        return -0.1 / self.count * self.v


def mean(parts):
    return sum(w * x for w, x in parts) / sum(w for w, _ in parts)


def number(every, steps):
    return max(1, round(every(steps))) if callable(every) else every


def accumulate(every, weight, averaged, drop_nonfinite):
    """Each call is sent a list with a gradient, a weight and the values of each device."""
    inner, mini, steps, dropped, parts, found = Momentum(), 0, 0, [0, 0], [], None
    while True:
        call = yield found
        parts = parts if mini else [[] for _ in call]
        for i, (g, w, values) in enumerate(call):
            if drop_nonfinite and w != 0 and not np.isfinite([*g, *values.values()]).all():
                dropped[i] += 1
            elif w != 0:
                parts[i].append((w, g, values))
        mini += 1
        whole, u = [x for part in parts for x in part], None
        if mini >= number(every, steps):
            mini = 0
            if whole:
                given = {name: mean([(w, values[name]) for w, _, values in whole]) for name in averaged}
                given |= {weight: sum(w for w, *_ in whole)} if weight else {}
                u, steps = inner.step(mean([(w, g) for w, g, _ in whole]), **given), steps + 1
        acc = [mean([(w, g) for w, g, _ in part]) if part else 0.0 for part in parts]
        found = dict(u=u, mini=mini, steps=steps, dropped=list(dropped), acc=acc, inner=inner)


def multi_steps(every, mean_of_all, skip):
    """Micro-batches that `skip` refuses do not count."""
    inner, mini, steps, parts, found = Momentum(), 0, 0, [], None
    while True:
        g = yield found
        parts = parts if mini else []
        skipped, u = skip(g), None
        if not skipped:
            parts, mini = [*parts, g], mini + 1
        acc = sum(parts) / (len(parts) if mean_of_all else 1) if parts else 0.0
        if mini >= number(every, steps):
            u, steps, mini = inner.step(acc), steps + 1, 0
        found = dict(u=u, mini=mini, steps=steps, acc=acc, skipped=skipped, inner=inner)


def lookahead(p, sync_period, slow_step_size, reset_state):
    """The fast weights take sync_period steps, and then the slow ones one."""
    inner, slow, t, found = Momentum(), p, 0, None
    while True:
        g = yield found
        before, p = p, p + inner.step(g)
        part = slow_step_size(t) if callable(slow_step_size) else slow_step_size
        t += 1
        if t % sync_period == 0:
            slow = p = (1 - part) * slow + part * p
            inner = Momentum() if reset_state else inner
        found = dict(u=p - before, slow=slow, count=t, inner=inner)


class Nonfinite:
    name = "nonfinite"

    def bad(self, norm, loss):
        return not (np.isfinite(norm) and (loss is None or np.isfinite(loss)))

    def accept(self, norm, loss):
        pass


class Spike:
    """The running mean and variance, by Welford's rule with a share that stops falling."""

    def __init__(self, of, sigmas, window, warmup):
        self.name, self.sigmas, self.window, self.warmup = f"spike_{of}", sigmas, window, warmup
        self.of = (lambda norm, loss: loss) if of == "loss" else (lambda norm, loss: norm)
        self.steps, self.mean, self.variance = 0, 0.0, 0.0

    def bad(self, norm, loss):
        x = self.of(norm, loss)
        far = self.steps >= self.warmup and x - self.mean > self.sigmas * np.sqrt(self.variance)
        return bool(far or not np.isfinite(x))

    def accept(self, norm, loss):
        self.steps += 1
        a, off = 1 / min(self.steps, self.window), self.of(norm, loss) - self.mean
        self.mean, self.variance = self.mean + a * off, (1 - a) * (self.variance + a * off**2)


def skip_if(conditions, max_consecutive):
    """Each call is sent the list of the devices' gradients, and of their losses (None if not given)."""
    inner, total, consecutive, exceeded, found = Momentum(), 0, 0, False, None
    by_condition = {c.name: 0 for c in conditions}
    while True:
        gs, losses = yield found
        norm = np.sqrt(np.mean([np.sum(g**2) for g in gs]))
        loss = None if losses[0] is None else np.mean(losses)
        bad, u = [c.name for c in conditions if c.bad(norm, loss)], None
        for name in bad:
            by_condition[name] += 1
        if bad:
            total, consecutive = total + 1, consecutive + 1
            exceeded = exceeded or consecutive >= max_consecutive
        else:
            consecutive, u = 0, inner.step(np.mean(gs, 0))
            for c in conditions:
                c.accept(norm, loss)
        counts = dict(total=total, consecutive=consecutive, exceeded=exceeded)
        memory = {c.name: (c.steps, c.mean, c.variance) for c in conditions if isinstance(c, Spike)}
        found = dict(u=u, **counts, by_condition=dict(by_condition), memory=memory, inner=inner)


def dynamic_loss_scale(init_scale, growth_interval, factor, min_scale, max_scale, max_consecutive):
    """The rule of torch's GradScaler, between two bounds."""
    skipping = skip_if([Nonfinite()], max_consecutive)
    next(skipping)
    scale, good, found = init_scale, 0, None
    while True:
        g = yield found
        found = skipping.send(([g / scale], [None]))
        if found["u"] is None:
            scale, good = max(scale / factor, min_scale), 0
        else:
            good += 1
            if good == growth_interval:
                scale, good = min(scale * factor, max_scale), 0
        found = found | dict(scale=scale, good=good)
