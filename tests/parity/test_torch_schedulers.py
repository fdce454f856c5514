"""The schedulers of torch.optim.lr_scheduler, step by step over whole runs, in float64."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from gradx.torch import lr_scheduler as ours

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


RATES = [
    ("StepLR", dict(step_size=7), 50),
    ("StepLR", dict(step_size=1, gamma=0.9), 50),
    ("MultiStepLR", dict(milestones=[30, 12, 12], gamma=0.3), 50),
    ("ConstantLR", dict(), 20),
    ("ConstantLR", dict(factor=0.5, total_iters=9), 20),
    ("LinearLR", dict(), 20),
    ("LinearLR", dict(start_factor=0.1, end_factor=0.7, total_iters=30), 50),
    ("ExponentialLR", dict(gamma=0.95), 100),
    ("PolynomialLR", dict(), 20),
    ("PolynomialLR", dict(total_iters=40, power=2.0), 60),
    ("PolynomialLR", dict(total_iters=40, power=0.5), 60),
    ("CosineAnnealingLR", dict(T_max=40), 200),
    ("CosineAnnealingLR", dict(T_max=7, eta_min=0.02), 100),
    ("CosineAnnealingWarmRestarts", dict(T_0=10), 60),
    ("CosineAnnealingWarmRestarts", dict(T_0=5, T_mult=2, eta_min=0.01), 200),
    ("CosineAnnealingWarmRestarts", dict(T_0=1, T_mult=3), 100),
    ("LambdaLR", dict(lr_lambda=lambda step: 0.95**step), 50),
]


@pytest.mark.parametrize(("name", "kwargs", "steps"), RATES)
def test_rates_are_those_of_torch(name, kwargs, steps, lenient):
    expected = torch_run(0.3, lambda optimizer: getattr(theirs, name)(optimizer, **kwargs), steps)[:, 0]
    seen = our_run(getattr(ours, name)(0.3, **kwargs), steps)
    assert seen.dtype == np.float64
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-12)


PAIRS = [
    ("OneCycleLR", dict(max_lr=0.3, total_steps=101)),
    ("OneCycleLR", dict(max_lr=0.3, epochs=4, steps_per_epoch=25, anneal_strategy="linear")),
    ("OneCycleLR", dict(max_lr=0.3, total_steps=100, three_phase=True, pct_start=0.37)),
    (
        "OneCycleLR",
        dict(max_lr=0.3, total_steps=100, three_phase=True, anneal_strategy="linear", pct_start=0.251),
    ),
    ("OneCycleLR", dict(max_lr=0.3, total_steps=100, pct_start=0.123, div_factor=7.0, final_div_factor=3.0)),
    ("OneCycleLR", dict(max_lr=0.3, total_steps=100, base_momentum=0.5, max_momentum=0.99)),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=7)),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=7, step_size_down=4, mode="triangular2")),
    (
        "CyclicLR",
        dict(base_lr=0.1, max_lr=0.3, step_size_up=4, step_size_down=9, mode="exp_range", gamma=0.97),
    ),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=5, base_momentum=0.6, max_momentum=0.95)),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=5, scale_fn=lambda x: 0.8**x)),
    (
        "CyclicLR",
        dict(base_lr=0.1, max_lr=0.3, step_size_up=5, scale_fn=lambda x: 0.9**x, scale_mode="iterations"),
    ),
]


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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ours.OneCycleLR(0.1), TypeError, "give total_steps, or epochs and steps_per_epoch"),
        (lambda: ours.OneCycleLR(0.1, 10, anneal_strategy="cosine"), ValueError, "must be 'cos' or 'linear'"),
        (lambda: ours.CyclicLR(0.1, 1.0, scale_mode="step"), ValueError, "must be 'cycle' or 'iterations'"),
        (lambda: ours.CosineAnnealingLR(0.1, 0), ValueError, "CosineAnnealingLR: T_max must be at least 1"),
        (lambda: ours.ChainedScheduler([ours.StepLR(0.1, 5)], 0.0), ValueError, "lr must be more than 0"),
        (lambda: ours.SequentialLR([ours.OneCycleLR(0.1, 50)], []), TypeError, "is not a schedule"),
    ],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_equal_calls_are_equal():
    double = lambda x: 2.0
    make = [
        lambda: ours.OneCycleLR(0.1, 50),
        lambda: ours.CyclicLR(0.1, 1.0, scale_fn=double),
        lambda: ours.ReduceLROnPlateau(0.1),
        lambda: ours.LambdaLR(0.1, double),
        lambda: ours.CosineAnnealingLR(0.1, 5),
    ]
    for f in make:
        assert f() == f()
        assert hash(f()) == hash(f())
    assert repr(make[4]()) == "CosineAnnealingLR(0.1, 5)"
