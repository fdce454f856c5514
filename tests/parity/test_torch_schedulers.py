"""The schedulers of torch.optim.lr_scheduler, step by step over whole runs, in float64."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from gradx.torch import lr_scheduler as ours
from tests.recorded.rows import PAIRS, RATES

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")
theirs = torch.optim.lr_scheduler

pytestmark = pytest.mark.usefixtures("x64")


def sgd(lr, momentum=0.9):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr, momentum)


def torch_run(lr, make, steps):
    """Learning rates and momenta of torch, `make` being a function from the optimizer to a scheduler."""
    optimizer = sgd(lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR warns of itself
        scheduler = make(optimizer)
        seen = []
        for _ in range(steps):
            group = optimizer.param_groups[0]
            seen.append((float(group["lr"]), group["momentum"]))
            optimizer.step()
            scheduler.step()
    return np.array(seen)


def our_run(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps, dtype=jnp.int32)))


@pytest.mark.parametrize(("name", "kwargs", "steps"), RATES)
def test_rates_are_those_of_torch(name, kwargs, steps, lenient):
    expected = torch_run(0.3, lambda optimizer: getattr(theirs, name)(optimizer, **kwargs), steps)[:, 0]
    seen = our_run(getattr(ours, name)(0.3, **kwargs), steps)
    assert seen.dtype == np.float64
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "kwargs"), PAIRS)
def test_rates_and_momenta_are_those_of_torch(name, kwargs, lenient):
    expected = torch_run(0.1, lambda optimizer: getattr(theirs, name)(optimizer, **kwargs), 100)
    pair = getattr(ours, name)(**kwargs)
    np.testing.assert_allclose(our_run(pair.learning_rate, 100), expected[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(our_run(pair.momentum, 100), expected[:, 1], rtol=0, atol=1e-12)
    assert getattr(ours, name)(**kwargs, cycle_momentum=False) == pair.learning_rate


def test_sequences_are_those_of_torch():
    def make(module, lr):
        parts = [
            module.LinearLR(lr, 0.1, total_iters=10),
            module.CosineAnnealingLR(lr, 30, eta_min=0.01),
            module.ExponentialLR(lr, 0.9),
        ]
        return module.SequentialLR(*([lr] if module is theirs else []), parts, milestones=[10, 40])

    expected = torch_run(0.3, lambda optimizer: make(theirs, optimizer), 60)[:, 0]
    np.testing.assert_allclose(our_run(make(ours, 0.3), 60), expected, rtol=0, atol=1e-12)


def test_chains_are_those_of_torch():
    def make(module, lr):
        return [
            module.ConstantLR(lr, 0.1, total_iters=20),
            module.ExponentialLR(lr, 0.9),
            module.StepLR(lr, 7, 0.5),
        ]

    expected = torch_run(0.3, lambda o: theirs.ChainedScheduler(make(theirs, o)), 60)[:, 0]
    seen = our_run(ours.ChainedScheduler(make(ours, 0.3), 0.3), 60)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-12)


def test_the_cosine_of_torch_climbs_again_and_ours_stays():
    expected = torch_run(0.3, lambda optimizer: theirs.CosineAnnealingLR(optimizer, 10), 21)[:, 0]
    seen = our_run(gx.cosine_decay_schedule(0.3, 10), 21)
    np.testing.assert_allclose(seen[:11], expected[:11], rtol=0, atol=1e-12)
    assert (seen[10:] == 0).all()
    np.testing.assert_allclose(expected[20], 0.3, rtol=1e-12)


def losses(mode):
    """A curve with plateaus, small improvements, noise and a NaN."""
    rng = np.random.default_rng(0)
    falling = 2.0 * 0.9 ** np.minimum(np.arange(150), 40) + 0.02 * rng.standard_normal(150)
    falling[100:] -= 0.08
    falling[[20, 120]] = np.nan
    return falling if mode == "min" else 3.0 - falling


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 4])
@pytest.mark.parametrize("rest", [dict(patience=3, min_lr=2e-5), dict(patience=0, threshold=0.05, eps=1e-3)])
def test_plateaus_are_those_of_torch(mode, threshold_mode, cooldown, rest, lenient):
    """Step by step: the rate that an update uses, and what its loss makes of it."""
    kwargs = dict(mode=mode, threshold_mode=threshold_mode, cooldown=cooldown, factor=0.3, **rest)
    optimizer = sgd(0.5)
    scheduler = theirs.ReduceLROnPlateau(optimizer, **kwargs)
    tx = gx.inject_hyperparams(gx.sgd, hyperparam_dtype=jnp.float64)(ours.ReduceLROnPlateau(0.5, **kwargs))
    x = jnp.ones(1)
    state = tx.init(x)
    update = jax.jit(lambda state, value: tx.update(x, state, x, value=value))
    expected, seen = [], []
    for value in losses(mode):
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
        updates, state = update(state, value)
        seen.append(-updates[0])
    assert len(set(expected)) > 2
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ours.__all__)
def test_has_torchs_arguments_and_defaults(name):
    """But for the optimizer, in whose place is `lr` where no other argument says it, and the last epoch."""
    left_out = {"optimizer", "lr", "last_epoch"}
    parameters = lambda f: inspect.signature(f).parameters.items()
    describe = lambda f: {k: p.default for k, p in parameters(f) if k not in left_out}
    assert describe(getattr(ours, name)) == describe(getattr(theirs, name))
