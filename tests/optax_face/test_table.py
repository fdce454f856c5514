"""Every row of the table in docs/coming_from_optax.md of what differs in `gradx.optax`."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx.optax as face

pytestmark = pytest.mark.usefixtures("lenient")
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "coming_from_optax.md"
HALF = jnp.ones(2, jnp.bfloat16)


def first(tx, g, p=None):
    """The first update."""
    p = g if p is None else p
    return tx.update(g, tx.init(p), p)[0]


def test_the_table_and_the_tests_are_the_same():
    table = PAGE.read_text().split("## What differs in gradx.optax")[1].split("\n## ")[0]
    named = re.findall(r"`(test_\w+)` \|$", table, re.MULTILINE)
    assert set(named) == {name for name in globals() if name.startswith("test_")} - {
        "test_the_table_and_the_tests_are_the_same"
    }
    assert len(named) <= 15


def test_16_bit_numbers_are_kept_and_computed_in_float32():
    assert optax.scale_by_adam().init(HALF).nu.dtype == jnp.bfloat16
    state = face.scale_by_adam().init(HALF)
    assert state.nu.dtype == jnp.float32
    assert first(face.adam(0.1), HALF).dtype == first(optax.adam(0.1), HALF).dtype == jnp.bfloat16
    assert face.global_norm(HALF * 2e2).dtype == jnp.float32
    injected = face.inject_hyperparams(face.adamw)(1e-3).init(HALF).hyperparams["b2"]
    assert (injected.dtype, injected < 1) == (jnp.float32, True)


def test_numbers_out_of_range_are_refused():
    optax.adam(0.1, b1=1.5)
    for make in (lambda: face.adam(0.1, b1=1.5), lambda: face.adam(float("nan")), lambda: face.sgd(-1.0)):
        with pytest.raises(ValueError, match="must be"):
            make()


def test_what_overflows_or_divides_zero_by_zero_stays_finite():
    zeros = jnp.zeros(2)
    assert jnp.isnan(first(optax.normalize_by_update_norm(eps=0.0), zeros)).all()
    assert (first(face.normalize_by_update_norm(eps=0.0), zeros) == 0).all()
    large = jnp.array([3e38, 3e38])
    assert (first(optax.clip_by_global_norm(1.0), large) == 0).all()
    assert (first(face.clip_by_global_norm(1.0), large) > 0).all()


def test_faults_are_not_copied():
    """Among them the bias correction under a scheduled beta: a constant gradient is its own mean."""
    beta = lambda count: 0.9 - 0.4 * (count > 0)
    for m, right in ((optax, False), (face, True)):
        tx = m.inject_hyperparams(m.scale_by_adam)(b1=beta, b2=0.999)
        state = tx.init(jnp.ones(1))
        for _ in range(2):
            u, state = tx.update(jnp.ones(1), state)
        assert np.allclose(u, 1, rtol=1e-4) == right


def test_a_gradient_of_none_leaves_the_slots():
    p = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = face.adam(0.1)
    u, state = tx.update({"a": jnp.ones(2), "b": None}, tx.init(p), p)
    assert u["b"] is None
    assert state[0].mu["b"].shape == (2,)


def test_shapes_that_only_broadcast_are_refused():
    assert first(optax.adam(0.1), jnp.ones(2), jnp.ones((3, 2))).shape == (3, 2)
    with pytest.raises(ValueError, match="shape"):
        first(face.adam(0.1), jnp.ones(2), jnp.ones((3, 2)))


def test_integer_parameters_have_no_slots():
    p = {"w": jnp.ones(2), "n": jnp.array(3)}
    assert optax.adam(0.1).init(p)[0].mu["n"].dtype == jnp.int32
    assert face.adam(0.1).init(p)[0].mu["n"] is None
    assert first(optax.adam(0.1), p)["n"].dtype == jnp.float32
    with pytest.raises(ValueError, match=r"\['n'\]: the state has no mu"):
        first(face.adam(0.1), p)
    for module in (optax, face):  # nothing is kept, and so the update goes out
        assert first(module.sgd(0.1), p)["n"] == jnp.float32(-0.3)


def test_a_real_dtype_for_complex_slots_is_refused():
    p = jnp.ones(2, jnp.complex64)
    assert optax.scale_by_adam(mu_dtype=jnp.float32).init(p).mu.dtype == jnp.float32
    with pytest.raises(TypeError, match="complex"):
        face.scale_by_adam(mu_dtype=jnp.float32).init(p)


def test_unknown_hyperparameters_in_a_state_are_refused():
    for m, is_refused in ((optax, False), (face, True)):
        tx = m.inject_hyperparams(m.scale)(step_size=0.1)
        state = tx.init(jnp.ones(2))
        state.hyperparams["stepsize"] = 0.2
        if is_refused:
            with pytest.raises(KeyError, match="stepsize"):
                tx.update(jnp.ones(2), state)


def test_an_unknown_mode_is_refused_at_once():
    optax.scale_by_lion(mode="soft")
    with pytest.raises(ValueError, match="mode must be 'hard', 'smooth' or 'refined'"):
        face.scale_by_lion(mode="soft")


def test_all_take_extra_arguments():
    assert not isinstance(optax.scale(0.1), optax.GradientTransformationExtraArgs)
    assert isinstance(face.scale(0.1), face.GradientTransformationExtraArgs)
    face.MultiSteps(face.sgd(0.1), 1).gradient_transformation().update(
        HALF, face.MultiSteps(face.sgd(0.1), 1).init(HALF), HALF, value=1.0
    )


def test_between_its_steps_multi_steps_does_not_run_the_optimizer():
    bad = jnp.full(2, jnp.nan)
    for m, is_nan in ((optax, True), (face, False)):
        always = m.stateless(lambda g, p: bad)
        tx = m.MultiSteps(always, 2)
        u, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))
        assert jnp.isnan(u).all() == is_nan


def test_a_state_is_checked():
    """Optax's clip takes anything; for Adam another link's state fails in other words."""
    optax.clip(1.0).update(jnp.ones(2), jnp.ones(3))
    with pytest.raises(TypeError, match="EmptyState"):
        face.clip(1.0).update(jnp.ones(2), jnp.ones(3))


def test_eager_updates_compile_themselves():
    """Equal transformations share the programs; Optax's run operation by operation."""
    tx, p = face.adam(0.1), jnp.ones(3)
    assert tx == face.adam(0.1)
    assert optax.adam(0.1) != optax.adam(0.1)
    np.testing.assert_allclose(first(tx, p), jax.jit(lambda p: first(tx, p))(p), rtol=1e-6)
