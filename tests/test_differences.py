"""Every row of the table of differences in docs/coming_from_optax.md: what Optax does, what gradx does."""

import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

pytestmark = pytest.mark.usefixtures("lenient")
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "coming_from_optax.md"

NONE = gx.EmptyState()
INF, NAN = float("inf"), float("nan")


def first(tx, g, p=None):
    """The first update, and the state after it."""
    p = g if p is None else p
    return tx.update(g, tx.init(p), p)


def test_the_table_and_the_tests_are_the_same():
    table = PAGE.read_text().split("## Where gradx differs")[1].split("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)` \|$", table, re.MULTILINE))
    assert named == {name for name in globals() if name.startswith("test_")} - {
        "test_the_table_and_the_tests_are_the_same"
    }


def test_slots_of_16_bit_parameters():
    p = jnp.ones(2, jnp.bfloat16)
    assert optax.scale_by_adam().init(p).nu.dtype == jnp.bfloat16
    assert gx.scale_by_adam().init(p).nu.dtype == jnp.float32
    assert gx.scale_by_adam(mu_dtype=jnp.bfloat16).init(p).mu.dtype == jnp.bfloat16


def test_updates_of_16_bit_gradients():
    g, exact = jnp.ones(2, jnp.bfloat16), jnp.full(2, 0.7**3, jnp.bfloat16)
    cubed = lambda m: first(m.chain(*[m.scale(0.7)] * 3), g)[0]
    assert cubed(optax).dtype == cubed(gx).dtype == jnp.bfloat16
    np.testing.assert_array_equal(cubed(gx), exact)
    assert np.all(cubed(optax) != exact)


def test_injected_hyperparameters():
    p = jnp.ones(2, jnp.bfloat16)
    assert optax.inject_hyperparams(optax.adamw)(1e-3).init(p).hyperparams["b2"] == 1.0
    np.testing.assert_allclose(
        gx.inject_hyperparams(gx.adamw)(1e-3).init(p).hyperparams["b2"], 0.999, rtol=1e-6
    )


def test_a_mask_under_injection():
    p = {"w": jnp.ones(2)}
    moved = []
    for m in (optax, gx):
        tx = m.inject_hyperparams(m.adamw)(
            0.1, weight_decay=1.0, mask=lambda p: jax.tree.map(lambda x: x.ndim >= 1, p)
        )
        moved.append(float(first(tx, {"w": jnp.zeros(2)}, p)[0]["w"][0]))
    np.testing.assert_allclose(moved, [0.0, -0.1], rtol=1e-6)


def test_an_unknown_hyperparameter():
    tx = gx.inject_hyperparams(gx.sgd)(0.1)
    state = tx.init(jnp.ones(1))
    state.hyperparams["lr"] = 0.5
    with pytest.raises(KeyError, match=r"\['learning_rate'\]; 'lr' is unknown"):
        tx.update(jnp.ones(1), state)


def test_norms_of_16_bit_gradients():
    g = jnp.full(10, 300, jnp.float16)
    assert not np.any(first(optax.clip_by_global_norm(1.0), g)[0])
    np.testing.assert_array_equal(first(gx.clip_by_global_norm(1.0), g)[0], np.float16(10**-0.5))


def test_clipping_what_is_not_finite():
    g = jnp.array([INF, 1.0])
    np.testing.assert_array_equal(first(optax.clip_by_global_norm(1.0), g)[0], [NAN, 0.0])
    np.testing.assert_array_equal(first(gx.clip_by_global_norm(1.0), g)[0], [INF, 0.0])


def test_clipping_what_overflows():
    g = jnp.array([2e19, -2e19])
    np.testing.assert_array_equal(first(optax.clip_by_global_norm(1.0), g)[0], [0.0, 0.0])
    u, _ = first(gx.clip_by_global_norm(1.0), g)
    assert 0 < u[0] == -u[1]


def test_trust_ratio_of_an_infinite_norm():
    g, p = jnp.array([INF, 1.0]), jnp.ones(2)
    np.testing.assert_array_equal(first(optax.scale_by_trust_ratio(), g, p)[0], [NAN, 0.0])
    np.testing.assert_array_equal(first(gx.scale_by_trust_ratio(), g, p)[0], g)


def test_a_gradient_of_none():
    p, g = {"a": jnp.ones(1), "b": jnp.ones(1)}, {"a": jnp.ones(1), "b": None}
    assert first(optax.trace(0.9), g, p)[1].trace["b"] is None
    u, state = first(gx.trace(0.9), g, p)
    assert state.trace["b"] == 0.0
    assert gx.apply_updates(p, u)["b"] == 1.0


def test_shapes_that_only_broadcast():
    g, p = {"w": jnp.ones(3)}, {"w": jnp.ones((3, 1))}
    assert first(optax.add_decayed_weights(0.1), g, p)[0]["w"].shape == (3, 3)
    with pytest.raises(ValueError, match=r"\['w'\]: the update has shape \(3,\), its parameter shape"):
        first(gx.add_decayed_weights(0.1), g, p)
    p = {"w": jnp.ones((3, 3))}
    assert first(optax.adam(0.1), g, p)[0]["w"].shape == (3, 3)
    with pytest.raises(ValueError, match=r"\['w'\]: an update of shape \(3,\) became one of \(3, 3\)"):
        first(gx.adam(0.1), g, p)


def test_integer_parameters():
    p = {"n": jnp.arange(3)}
    assert optax.trace(0.9).init(p).trace["n"].dtype == jnp.int32
    assert gx.trace(0.9).init(p).trace["n"] is None
    with pytest.raises(ValueError, match=r"\['n'\]: the state has no trace"):
        first(gx.trace(0.9), p)


def test_values_out_of_range():
    optax.adamw(-1.0, b1=2.0)
    with pytest.raises(ValueError, match="b1 must be between 0 and 1"):
        gx.adamw(1.0, b1=2.0)


def test_a_beta_of_one():
    theirs, ours = (first(m.scale_by_adam(b1=1.0), jnp.ones(1))[0] for m in (optax, gx))
    assert jnp.isnan(theirs)
    assert ours == 0.0  # the mean stays at its start


def test_a_warm_up_of_no_steps():
    kwargs = dict(init_value=0.1, peak_value=1.0, warmup_steps=0)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(optax.warmup_constant_schedule(**kwargs)(5), 0.1, rtol=1e-6)
    np.testing.assert_allclose(gx.warmup_constant_schedule(**kwargs)(5), 1.0)


def test_a_chain_of_nothing():
    with pytest.raises(ValueError, match="not enough values"):
        optax.chain()
    assert first(gx.chain(), jnp.ones(1))[0] == 1.0


def test_the_decay_rate_of_adafactor(x64):
    """The second step of constant gradients g, 2g: v = (1 + 3 / 2**0.8) g²."""
    errors = []
    for m in (optax, gx):
        tx = m.scale_by_factored_rms()
        x = jnp.ones(1)
        _, state = first(tx, x)
        u, _ = tx.update(2 * x, state, x)
        errors.append(abs(float(u[0]) - 2 / (1 + 3 * 2**-0.8) ** 0.5))
    assert errors[0] > 1e-9
    assert errors[1] < 1e-15


def test_an_offset_that_is_not_reached():
    g = jnp.array([3.0, -0.5])
    assert np.all(np.isnan(first(optax.scale_by_factored_rms(step_offset=2), g)[0]))
    np.testing.assert_allclose(first(gx.scale_by_factored_rms(step_offset=2), g)[0], [1.0, -1.0], rtol=1e-6)


def test_sm3_of_everything():
    g = jnp.array([3.0])
    for m, error in ((optax, TypeError), (gx, None)):
        make = lambda m=m: first(m.sm3(lambda step: 0.5), g)[0]
        if error:
            with pytest.raises(error):
                make()
        else:
            np.testing.assert_allclose(make(), -0.05, rtol=1e-5)
    with pytest.raises(IndexError):
        first(optax.sm3(0.5), jnp.array(3.0))
    np.testing.assert_allclose(first(gx.sm3(0.5), jnp.array(3.0))[0], -0.05, rtol=1e-5)
    with pytest.raises(ValueError, match="complex"):
        first(optax.sm3(0.5), jnp.array([3 + 4j]))
    np.testing.assert_allclose(first(gx.sm3(0.5), jnp.array([3 + 4j]))[0], [-0.03 - 0.04j], rtol=1e-5)


def test_adaptive_clipping_of_tiny_gradients():
    g, p = jnp.array([5e-7]), jnp.zeros(1)  # the bound: 1e-4 * 1e-3
    np.testing.assert_allclose(first(optax.adaptive_grad_clip(1e-4), g, p)[0], [5e-8], rtol=1e-5)
    np.testing.assert_allclose(first(gx.adaptive_grad_clip(1e-4), g, p)[0], [1e-7], rtol=1e-5)


def test_normalizing_nothing():
    g = jnp.zeros(2)
    assert np.all(np.isnan(first(optax.normalize_by_update_norm(eps=0.0), g)[0]))
    assert not np.any(first(gx.normalize_by_update_norm(eps=0.0), g)[0])


def test_noise_without_a_key():
    with pytest.warns(UserWarning, match="Specifying a key will be required"):
        optax.noisy_sgd(0.1)
    with pytest.raises(TypeError, match="give one of key and seed"):
        gx.noisy_sgd(0.1)


def test_patience_on_a_plateau():
    x = jnp.ones(1)
    txs = [
        optax.contrib.reduce_on_plateau(factor=0.5, patience=3),
        gx.inject_hyperparams(gx.scale)(gx.reduce_on_plateau(1.0, factor=0.5, patience=3)),
    ]
    moves = []
    for tx in txs:
        state, seen = tx.init(x), []
        for _ in range(6):
            u, state = tx.update(x, state, x, value=1.0)
            seen.append(float(u[0]))
        moves.append(seen)
    assert moves == [[1.0, 1.0, 1.0, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]]


def test_a_plateau_below_zero():
    """A loss that rises from -1 by less than the threshold at every step: no improvement."""
    x = jnp.ones(1)
    seen = []
    for tx in (
        optax.contrib.reduce_on_plateau(factor=0.5, patience=3, rtol=1e-4),
        gx.inject_hyperparams(gx.scale)(gx.reduce_on_plateau(1.0, factor=0.5, patience=3, threshold=1e-4)),
    ):
        state = tx.init(x)
        for i in range(6):
            u, state = tx.update(x, state, x, value=-1.0 + 5e-5 * i)
        seen.append(float(u[0]))
    assert seen == [1.0, 0.5]


def test_a_schedule_for_any_number():
    decay = lambda step: 0.5
    with pytest.raises(TypeError):
        first(optax.trace(decay), jnp.ones(1))
    tx = gx.trace(decay)
    _, state = first(tx, jnp.ones(1))
    assert tx.update(jnp.ones(1), state)[0] == 1.5


def test_where_eps_stands():
    g = jnp.array([1e-3])
    for m, eps_in_sqrt in ((optax, True), (gx, False)):
        expected = g / jnp.sqrt(0.1 * g**2 + 1e-4) if eps_in_sqrt else g / (jnp.sqrt(0.1) * g + 1e-4)
        np.testing.assert_allclose(first(m.scale_by_rms(eps=1e-4), g)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        first(gx.scale_by_rss(0.1, eps_in_sqrt=True), g)[0], first(optax.scale_by_rss(), g)[0], rtol=1e-6
    )


def test_the_start_of_adagrad():
    g = jnp.ones(1)
    assert optax.scale_by_rss().init(g).sum_of_squares == np.float32(0.1)
    assert gx.scale_by_rss().init(g).sum_of_squares == 0


def test_adadelta_without_a_rate():
    g = jnp.ones(1)
    assert first(optax.adadelta(), g)[0] > 0
    np.testing.assert_allclose(first(gx.adadelta(), g)[0], -((1e-6 / 0.100001) ** 0.5), rtol=1e-5)


def test_rprop_moves_at_once():
    """As torch's: [-0.1, -0.12, -0.144, 0, +0.072, +0.0864]."""
    gs = [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    moves = {}
    for m in (optax, gx):
        tx, x = m.rprop(0.1), jnp.zeros(1)
        state, moves[m] = tx.init(x), []
        for g in gs:
            u, state = tx.update(jnp.array([g]), state)
            moves[m].append(float(u[0]))
    np.testing.assert_allclose(moves[gx], [-0.1, -0.12, -0.144, 0.0, 0.072, 0.0864], rtol=1e-5)
    np.testing.assert_allclose(moves[optax], [0.0, -0.1, -0.12, 0.0, 0.0, 0.072], rtol=1e-5)


def test_rprop_with_a_schedule():
    x, schedule = jnp.ones(1), gx.linear_schedule(0.1, 0.0, 10)
    with pytest.raises(TypeError):
        optax.rprop(schedule).init(x)
    np.testing.assert_allclose(first(gx.rprop(schedule), x)[0], -0.1, rtol=1e-6)


def test_bias_correction_under_a_schedule():
    """A constant gradient, and a b1 that goes from 0.95 to 0.85 and back, as in one-cycle training."""
    g, b1 = jnp.ones(1), lambda count: 0.9 + 0.05 * jnp.cos(2 * jnp.pi * count / 100)
    last = {}
    for m in (optax, gx):
        tx = m.inject_hyperparams(m.adam)(0.1, b1=b1)
        state, update, seen = tx.init(g), jax.jit(tx.update), []
        for _ in range(50):
            u, state = update(g, state)
            seen.append(float(u[0]))
        last[m] = max(abs(np.array(seen) + 0.1))
    assert last[optax] > 0.005
    assert last[gx] < 1e-5


def test_the_shrinkage_of_fromage():
    g, p = jnp.zeros(1), jnp.full(1, 3.0)
    rate = lambda step: jnp.float32(1e-4)
    assert first(optax.fromage(rate), g, p)[0] == 0.0
    np.testing.assert_allclose(first(gx.fromage(rate), g, p)[0], -3 * 1e-8 / 2, rtol=1e-5)


def test_optimistic_adam():
    g, rate = jnp.ones(1), lambda step: 0.1
    with pytest.warns(DeprecationWarning, match="optimistic_adam_v2"):
        optax.optimistic_adam(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="does not support learning rate schedules"):
            optax.optimistic_adam(rate)
    np.testing.assert_allclose(first(gx.optimistic_adam(rate), g)[0], first(gx.optimistic_adam(0.1), g)[0])


def test_lookahead_on_plain_parameters():
    p = jnp.ones(1)
    theirs = optax.lookahead(optax.sgd(0.1), 2, 0.5)
    with pytest.raises(AttributeError, match="fast"):
        theirs.update(p, (optax.sgd(0.1).init(p), jnp.zeros((), jnp.int32)), p)
    tx = gx.lookahead(gx.sgd(0.1), 2, 0.5)
    u, state = first(tx, p)
    p = gx.apply_updates(p, u)
    np.testing.assert_allclose(gx.apply_updates(p, tx.update(jnp.ones(1), state, p)[0]), 0.9, rtol=1e-6)


def test_radam_in_float32():
    """The sixth step, the first that is rectified, against float64."""
    g, b2 = np.ones(1), 0.9999
    with jax.enable_x64():
        state = gx.ScaleByAdamState(jnp.int32(5), jnp.zeros(1), jnp.zeros(1))
        exact = float(gx.scale_by_radam(b2=b2).update(jnp.asarray(g), state)[0][0])
    state = gx.ScaleByAdamState(jnp.int32(5), jnp.zeros(1), jnp.zeros(1))
    ours, theirs = (float(m.scale_by_radam(b2=b2).update(jnp.ones(1), state)[0][0]) for m in (gx, optax))
    np.testing.assert_allclose(ours, exact, rtol=1e-5)
    assert abs(theirs / exact - 1) > 0.3


def test_radam_with_a_low_threshold():
    g, state = jnp.ones(1), gx.ScaleByAdamState(jnp.int32(2), jnp.zeros(1), jnp.zeros(1))
    assert jnp.isnan(optax.scale_by_radam(threshold=0.0).update(g, state)[0][0])
    u, _ = gx.scale_by_radam(threshold=0.0).update(g, state)
    np.testing.assert_allclose(u, 0.1 / (1 - 0.9**3), rtol=1e-5)


def test_the_scaling_of_polyak_sgd():
    """Both document s * min(gap / ‖g‖², rate): doubling s doubles the step."""
    g = jnp.array([3.0, 4.0])
    steps = [
        [
            m.polyak_sgd(scaling=s).update(g, m.polyak_sgd(scaling=s).init(g), g, value=1.0)[0][0]
            for s in (1.0, 2.0)
        ]
        for m in (optax, gx)
    ]
    np.testing.assert_allclose(steps, [[-3 / 25, -1.5 / 25], [-3 / 25, -6 / 25]], rtol=1e-6)


def test_polyak_at_small_gradients():
    g = jnp.full(1, 1e-8)
    update = lambda m: m.polyak_sgd(1e9).update(g, m.polyak_sgd(1e9).init(g), g, value=1e-9)[0][0]
    assert update(optax) == 0
    np.testing.assert_allclose(update(gx), -0.1, rtol=1e-5)


def test_lbfgs_after_negative_curvature():
    """The gradient grows along the step: the direction must still be the gradient's, to be subtracted."""
    p, g = jnp.array([1.0]), jnp.array([-2.0])
    signs = []
    for m in (optax, gx):
        tx = m.scale_by_lbfgs()
        _, state = first(tx, g, p)
        u, _ = tx.update(2 * g, state, 2 * p)
        signs.append(float(jnp.sign(jnp.vdot(u, g))))
    assert signs == [-1.0, 1.0]


def test_a_line_search_on_a_float32_loss_in_x64_mode():
    def update(m):
        tx, p = m.scale_by_backtracking_linesearch(5, store_grad=True), jnp.ones(2, jnp.float32)
        return tx.update(
            -p, tx.init(p), p, value=jnp.float32(2.0), grad=2 * p, value_fn=lambda p: jnp.sum(p * p)
        )

    with jax.enable_x64():
        with pytest.raises(TypeError, match="cotangent type does not match"):
            update(optax)
        np.testing.assert_array_equal(update(gx)[0], -1.0)


def test_a_label_that_no_parameter_has():
    p = {"w": jnp.ones(2)}
    make = lambda m: m.partition({"w": m.sgd(0.1), "bias": m.sgd(0.1)}, {"w": "w"})
    make(optax).init(p)
    with pytest.raises(ValueError, match="no parameter has the label 'bias'; the parameters are\n  w: 'w'"):
        make(gx).init(p)


def test_extra_arguments_of_multi_steps():
    def step(m):
        tx = m.chain(m.MultiSteps(m.polyak_sgd(1.0), 1).gradient_transformation())
        return tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1), value=0.5)[0]

    with pytest.raises(TypeError, match="value"):
        step(optax)
    np.testing.assert_allclose(step(gx), -0.5)


def test_between_the_steps_of_multi_steps():
    """Optax runs the optimizer there too, and multiplies by 0; and adding 0 loses the sign of -0."""
    naive = optax.stateless(lambda g, _: g / jnp.linalg.norm(g))
    p = jnp.array([-0.0, 1.0])
    theirs, ours = (first(m.MultiSteps(naive, 2), jnp.zeros(2), p)[0] for m in (optax, gx))
    assert jnp.isnan(theirs).all()
    assert np.asarray(gx.apply_updates(p, ours)).tobytes() == np.asarray(p).tobytes()


def test_the_accumulator_of_multi_steps():
    """It stays until the next micro-batch; and is float64 for float64 parameters."""
    kept = [first(m.MultiSteps(m.sgd(0.1), 1), jnp.ones(1))[1].acc_grads for m in (optax, gx)]
    np.testing.assert_array_equal(kept, [[0.0], [1.0]])
    with jax.enable_x64():
        p = jnp.ones(1, jnp.float64)
        dtypes = [m.MultiSteps(m.sgd(0.1), 2).init(p).acc_grads.dtype for m in (optax, gx)]
        assert dtypes == [jnp.float32, jnp.float64]


def test_the_state_of_split_real_and_imaginary():
    z = jnp.array([3 + 4j])
    tx = optax.contrib.split_real_and_imaginary(optax.scale_by_adam())
    assert [x.dtype for x in tx.init(z).inner_state.nu] == [jnp.float32] * 2
    with pytest.raises(TypeError, match="value"):
        tx.update(z, tx.init(z), z, value=1.0)
    tx = gx.split_real_and_imaginary(gx.scale_by_adam())
    _, state = tx.update(z, tx.init(z), z, value=1.0)
    np.testing.assert_allclose(state.nu, [0.009 + 0.016j], rtol=1e-5)  # 0.001 * (3², 4²)


def test_has_updated_after_a_skip():
    seen = []
    for m in (optax, gx):
        tx = m.MultiSteps(m.sgd(0.1), 1, should_skip_update_fn=m.skip_not_finite)
        _, state = first(tx, jnp.ones(1))
        seen.append(bool(tx.has_updated(tx.update(jnp.full(1, NAN), state)[1])))
    assert seen == [True, False]


def test_schedules_that_cannot_be_meant():
    assert optax.polynomial_schedule(1.0, 0.0, 1, -1)(5) == optax.exponential_decay(1.0, 10, 0.0)(5) == 1.0
    with pytest.raises(ValueError, match="transition_steps must be at least 0"):
        gx.polynomial_schedule(1.0, 0.0, 1, -1)
    with pytest.raises(ValueError, match="decay_rate must be more than 0"):
        gx.exponential_decay(1.0, 10, 0.0)


def test_a_schedule_longer_than_a_count():
    optax.cosine_decay_schedule(1.0, 2**31)
    with pytest.raises(ValueError, match=r"decay_steps must be at least 1 and below 2\*\*31"):
        gx.cosine_decay_schedule(1.0, 2**31)


def test_a_real_dtype_for_complex_slots():
    p = jnp.ones(2, jnp.complex64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert optax.trace(0.9, accumulator_dtype=jnp.float32).init(p).trace.dtype == jnp.float32
    with pytest.raises(TypeError, match="cannot be stored in float32"):
        gx.trace(0.9, accumulator_dtype=jnp.float32).init(p)


def test_an_unknown_mode_of_lion():
    optax.scale_by_lion(mode="loud")
    with pytest.raises(ValueError, match="variant must be"):
        gx.scale_by_lion(variant="loud")


def test_unknown_static_args():
    with pytest.raises(ValueError, match="static_args"):
        optax.inject_hyperparams(optax.sgd, static_args="rate")
    with pytest.raises(KeyError, match="sgd has no hyperparameter 'rate'; it has"):
        gx.inject_hyperparams(gx.sgd, static_args="rate")


def test_all_take_extra_arguments():
    kind = optax.GradientTransformationExtraArgs
    assert not isinstance(optax.scale(1.0), kind)
    assert isinstance(gx.scale(1.0), kind)
    gx.scale(1.0).update(jnp.ones(1), gx.EmptyState(), tag="any")
