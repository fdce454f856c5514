"""Defects found in other libraries, each with what gradx does instead."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

pytestmark = pytest.mark.usefixtures("lenient")


def path(tx, gs, p, **extra):
    """The parameters after each step."""
    state, update, seen = tx.init(p), jax.jit(tx.update), []
    for g in gs:
        u, state = update(g, state, p, **extra)
        p = gx.apply_updates(p, u)
        seen.append(p)
    return seen


def test_adadelta_descends_by_default():
    """Without a rate, Optax's keeps the sign of the gradient."""
    g = jnp.ones(1)
    assert path(gx.adadelta(), [g], jnp.zeros(1))[0] < 0


def test_rprop_moves_at_once():
    """Optax's emits the move of the step before: 0 at first."""
    p = path(gx.rprop(0.1), [jnp.full(1, g) for g in (1.0, 1.0, 1.0, -1.0, -1.0, -1.0)], jnp.zeros(1))
    np.testing.assert_allclose(
        np.diff([0.0, *np.ravel(p)]), [-0.1, -0.12, -0.144, 0.0, 0.072, 0.0864], rtol=1e-5, atol=1e-7
    )


def test_a_mask_function_under_injection_is_a_mask():
    """Optax takes it for a schedule, and turns the decay off."""
    mask = lambda p: jax.tree.map(lambda x: True, p)
    tx = gx.inject_hyperparams(gx.adamw)(0.1, weight_decay=1.0, mask=mask)
    np.testing.assert_allclose(path(tx, [jnp.zeros(1)], jnp.ones(1))[0], 0.9, rtol=1e-6)


def test_normalization_of_a_zero_micro_gradient_does_not_leak_nan():
    """chain(normalize, sgd) inside MultiSteps, which multiplies what it discards by 0: 0 / 0 reaches it."""
    tx = optax.MultiSteps(gx.chain(gx.normalize_by_update_norm(), gx.sgd(0.1)), 2)
    p = path(tx, [jnp.zeros(2), jnp.ones(2)], jnp.ones(2))
    np.testing.assert_allclose(p[0], 1.0)
    np.testing.assert_allclose(p[1], 1 - 0.1 / 2**0.5, rtol=1e-5)


def test_what_a_micro_batch_would_have_given_does_not_leak_nan():
    """The same with a normalization of one's own, that knows no better than 0 / 0: it is not run at all."""
    naive = optax.stateless(lambda g, _: jax.tree.map(lambda x: x / jnp.linalg.norm(x), g))
    gs = [jnp.zeros(2), jnp.ones(2)]
    theirs = optax.MultiSteps(optax.chain(naive, optax.sgd(0.1)), 2)
    assert jnp.isnan(path(theirs, gs, jnp.ones(2))[0]).all()
    for accumulate in (gx.accumulate, gx.MultiSteps):
        p = path(accumulate(optax.chain(naive, optax.sgd(0.1)), 2), gs, jnp.ones(2))
        np.testing.assert_array_equal(p[0], 1.0)
        np.testing.assert_allclose(p[1], 1 - 0.1 / 2**0.5, rtol=1e-5)


def test_clipping_float16_gradients_of_large_norm():
    """The norm in 16 bit is inf from 256 on, and the updates 0."""
    u, _ = gx.clip_by_global_norm(1.0).update(jnp.full(10, 300, jnp.float16), gx.EmptyState())
    np.testing.assert_allclose(u, 10**-0.5, rtol=1e-3)


def test_the_second_moment_of_bf16_parameters_does_not_stall():
    """0.999 is 1 in bf16: after 3,000 gradients of 1, Optax has 0.5."""
    tx, p = gx.scale_by_adam(), jnp.ones(1, jnp.bfloat16)
    step = lambda state, _: (tx.update(p, state)[1], None)
    state, _ = jax.lax.scan(step, tx.init(p), length=3000)
    np.testing.assert_allclose(state.nu, 1 - 0.999**3000, rtol=1e-4)


def test_bf16_parameters_take_small_steps():
    """A hundred steps of 0.001 from 1, which bf16 alone rounds away one by one."""
    gs, p = [jnp.ones(1, jnp.bfloat16)] * 100, jnp.ones(1, jnp.bfloat16)
    assert path(optax.sgd(1e-3), gs, p)[-1] == 1.0
    end = path(gx.chain(gx.sgd(1e-3), gx.master_weights()), gs, p)[-1]
    assert end.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(end), 0.9, atol=0.002)


def test_a_plateau_of_patience_3_ends_at_the_fifth_value():
    """Optax reduces at the fourth."""
    tx = gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(1.0, factor=0.5, patience=3))
    p, moves = jnp.zeros(1), []
    state = tx.init(p)
    for _ in range(7):
        u, state = tx.update(jnp.ones(1), state, p, value=1.0)
        moves.append(-float(u[0]))
    assert moves == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


def test_lookahead_takes_plain_parameters():
    """Optax wants pairs of them."""
    p = path(gx.lookahead(gx.sgd(1.0), 2, 0.5), [jnp.ones(1)] * 4, jnp.zeros(1))
    np.testing.assert_allclose(np.ravel(p), [-1.0, -1.0, -2.0, -2.0])


@pytest.mark.parametrize("name", ["sm3", "rprop"])
def test_sm3_and_rprop_take_a_schedule(name):
    schedule = gx.linear_schedule(0.1, 0.0, 10)
    p = path(getattr(gx, name)(schedule), [jnp.ones(2)] * 3, jnp.zeros(2))
    assert p[2][0] < p[1][0] < p[0][0] < 0
    with pytest.raises(TypeError):
        path(getattr(optax, name)(schedule), [jnp.ones(2)], jnp.zeros(2))


def test_bias_correction_under_a_scheduled_beta():
    """A constant gradient and a b1 that cycles: Optax and torch give 0.0866 where 0.1 is right."""
    tx = gx.adam(0.1, b1=lambda count: 0.9 - 0.05 * jnp.sin(2 * jnp.pi * count / 50))
    moves = np.diff(np.ravel(path(tx, [jnp.ones(1)] * 100, jnp.zeros(1))))
    np.testing.assert_allclose(moves, -0.1, rtol=1e-4)


def test_cosine_holds_its_end_and_one_cycle_knots_are_an_option():
    """torch's cosine climbs again after its end, and its one-cycle is one step shorter than Optax's."""
    cosine = gx.cosine_decay_schedule(1.0, 10)
    np.testing.assert_allclose([cosine(10), cosine(15), cosine(1000)], 0.0, atol=1e-7)
    assert gx.torch.CosineAnnealingLR(1.0, 10)(15) > 0.4
    by_steps = gx.one_cycle_schedule(1.0, 100).learning_rate
    inclusive = gx.one_cycle_schedule(1.0, 100, inclusive=True).learning_rate
    np.testing.assert_allclose([by_steps(30), inclusive(29)], 1.0, rtol=1e-6)
    np.testing.assert_allclose(by_steps(100), inclusive(99), rtol=1e-5)
