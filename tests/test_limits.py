"""The ends of the ranges are rules with one meaning: an average that stays, a clip that clips nothing."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from gradx.core.ranges import FRACTION, range_of
from tests.cases import FIRST
from tests.test_optimizers import run, start

# Of a decay rate of 1, RAdam's ρ∞ has no value.
REFUSED = [(gx.radam, "b2"), (gx.ranger, "b2")]


def decays(case):
    """The decay rates of an optimizer, by name."""
    names = inspect.signature(case.optimizer).parameters
    rates = [name for name in names if range_of(case.optimizer.__name__, name) is FRACTION]
    return [name for name in rates if (case.optimizer, name) not in REFUSED]


def at_one(case, name):
    """The row with a decay rate of 1, for Optax too."""
    kwargs = None if case.optax_kwargs is None else case.optax_kwargs | {name: 1.0}
    return case._replace(kwargs=case.kwargs | {name: 1.0}, optax_kwargs=kwargs)


# Rules whose second moment is more than 0 though it never moves: Optax divides it by 0, and so stands still.
BY_ZERO = {(gx.yogi, "b2"), (gx.adabelief, "b2")}
ROWS = [(case, name) for case in FIRST for name in decays(case)]
each = pytest.mark.parametrize("row", ROWS, ids=[f"{case.optimizer.__name__}-{name}" for case, name in ROWS])


@each
def test_an_average_that_stays_gives_numbers(row, together, x64, lenient):
    """Optax's, where it has any: there the correction of the zero start divides 0 by 0."""

    def both(row, p, gs):
        case, name = row
        one = at_one(case, name)
        followed = case.make(**{name: lambda step: jnp.where(step < 0, 0.5, 1.0)})
        is_known = (
            one.optax
            and "test_agrees_with_optax" not in case.exempt
            and (case.optimizer, name) not in BY_ZERO
        )
        theirs = [one.make_optax()] if is_known else []
        return [run(tx, p, gs)[1] for tx in (one.make(), followed, *theirs)]

    ours, followed, *theirs = together(both, *start(jnp.float64, 3), row="row")
    for x, y, z in zip(*map(jax.tree.leaves, (ours, followed, *(theirs or [ours]))), strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)  # a schedule of ones is no other rule
        known = np.isfinite(z)
        np.testing.assert_allclose(x[known], z[known], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("factory", "name"), REFUSED)
def test_what_has_no_value_is_refused(factory, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and less than 1"):
        factory(0.1, **{name: 1.0})


def updates_of(tx):
    """The updates of three steps with gradients of 2, for a parameter of 1."""
    p, gs = jnp.ones(1), jnp.full((3, 1), 2.0)
    return run(tx, p, gs)[1][:, 0]


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (gx.ema(1.0), 0.0),
        (gx.ema(1.0, debias=False), 0.0),
        (gx.scale_by_adam(b1=1.0), 0.0),
        (gx.scale_by_adam(b2=1.0, eps=0.5), 4.0),  # nu stays 0
        (gx.scale_by_adam(b2=1.0, eps=0.5, eps_hat=True), 4.0),
        (gx.scale_by_rms(1.0, eps=0.0, initial_scale=4.0), 1.0),
        (gx.scale_by_rms(1.0, eps=0.0, initial_scale=4.0, bias_correction=True), 1.0),
        (gx.scale_by_stddev(1.0, eps=0.5, initial_scale=4.0), 0.8),
        (gx.scale_by_adadelta(1.0), 2.0),
        (gx.scale_by_adamax(b2=1.0, eps=0.0), 1.0),  # the largest of all
        (gx.scale_by_sm3(b1=1.0), 0.0),
        (gx.signum(0.1, beta=1.0), 0.0),
        (gx.lion(0.1, b1=1.0, weight_decay=0.0), [0.0, -0.1, -0.1]),
        (gx.lion(0.1, b2=1.0, weight_decay=0.0), -0.1),
        (gx.clip(None), 2.0),
        (gx.clip(jnp.inf), 2.0),
        (gx.clip_by_global_norm(None), 2.0),
        (gx.clip_by_global_norm(jnp.inf), 2.0),
        (gx.clip_by_block_rms(None), 2.0),
        (gx.clip_by_block_rms(jnp.inf), 2.0),
        (gx.adaptive_grad_clip(None), 2.0),
        (gx.adaptive_grad_clip(jnp.inf), 2.0),
    ],
    ids=repr,
)
def test_a_limit_by_hand(tx, expected):
    np.testing.assert_allclose(updates_of(tx), jnp.broadcast_to(jnp.asarray(expected), 3), rtol=1e-6)


@pytest.mark.parametrize(
    "make", [gx.clip, gx.clip_by_global_norm, gx.clip_by_block_rms, gx.adaptive_grad_clip]
)
def test_no_clip_has_the_state_of_a_clip_and_touches_nothing(make):
    bad = jnp.array([jnp.nan, jnp.inf, 1e30])
    tx = make(None)
    assert tx.init(bad) == make(1.0).init(bad)
    np.testing.assert_array_equal(tx.update(bad, tx.init(bad))[0], bad)
    assert repr(tx) == f"{make.__name__}(None)"


def test_an_average_of_parameters_that_stays():
    """The average is the present parameters until it begins. Then it stays at the parameters of that step."""
    for kwargs, kept in ((dict(), 1.0), (dict(start=2), 3.0), (dict(debias=False, start=2), 3.0)):
        tx = gx.ema_params(1.0, **kwargs)
        p, state = jnp.ones(1), tx.init(jnp.ones(1))
        for _ in range(4):
            u, state = tx.update(jnp.ones(1), state, p)
            p = p + u
        np.testing.assert_allclose(gx.eval_params(state, p), kept)


def test_a_search_by_the_first_condition_only():
    """Optax: `curv_rtol=jnp.inf` leaves out the condition on the slope."""
    fn = lambda x: 0.05 * jnp.sum((x - 3.0) ** 2)
    steps = []
    for rtol in (jnp.inf, 0.1):
        both = []
        for m in (gx, optax):
            tx = m.scale_by_zoom_linesearch(15, curv_rtol=rtol)
            x = jnp.zeros(2)
            value, grad = jax.value_and_grad(fn)(x)
            with jax.numpy_dtype_promotion("standard"):
                u, _ = tx.update(-grad, tx.init(x), x, value=value, grad=grad, value_fn=fn)
            both.append(u)
        np.testing.assert_allclose(*both, rtol=1e-6)
        steps.append(both[0])
    assert not np.allclose(*steps)
