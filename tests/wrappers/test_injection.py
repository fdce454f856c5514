"""Hyperparameters in the state: dtype, no recompilation, schedules, masks, sweeps, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import aval, grads, params

SCHEDULE = gx.linear_schedule(0.1, 0.0, 10)


def test_hyperparameters_are_float32_whatever_the_parameters_are():
    """bf16 parameters: in Optax b2 = 0.999 becomes 1, and the first update NaN."""
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = gx.inject_hyperparams(gx.adamw)(1e-3)
    state = tx.init(p)
    assert {x.dtype for x in state.hyperparams.values()} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(state.hyperparams["b2"], 0.999, rtol=1e-6)
    u, _ = tx.update(p, state, p)
    np.testing.assert_allclose(u["w"], -1e-3, rtol=1e-3)


def test_it_computes_what_the_plain_transformation_computes(lenient):
    p = params()
    plain = gx.adamw(SCHEDULE, b1=0.8, weight_decay=0.1, mask=gx.matrices_only)
    tx = gx.inject_hyperparams(gx.adamw)(SCHEDULE, b1=0.8, weight_decay=0.1, mask=gx.matrices_only)
    s, t = plain.init(p), tx.init(p)
    for i in range(4):
        u, s = plain.update(grads(i, p), s, p)
        v, t = tx.update(grads(i, p), t, p)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), u, v)


def test_changing_a_value_does_not_recompile():
    traced = []
    tx = gx.inject_hyperparams(gx.sgd)(0.1)
    p = params()

    @jax.jit
    def step(state):
        traced.append(1)
        return tx.update(grads(0, p), state, p)

    u, state = step(tx.init(p))
    v, state = step(gx.set_hyperparams(state, learning_rate=0.2))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(2 * x, y, rtol=1e-6), u, v)
    assert len(traced) == 1
    assert aval(state) == aval(tx.init(p))


def test_a_value_put_into_the_dict_by_hand_counts_too():
    tx = gx.inject_hyperparams(gx.sgd)(0.1)
    x = jnp.ones(1)
    state = tx.init(x)
    state.hyperparams["learning_rate"] = 0.5
    u, state = tx.update(x, state)
    assert u[0] == -0.5
    assert aval(state) == aval(tx.init(x))


def test_a_schedule_shows_its_present_value():
    tx = gx.inject_hyperparams(gx.sgd)(SCHEDULE, momentum=lambda step: 0.5)
    x = jnp.ones(1)
    state = tx.init(x)
    shown = [float(state.hyperparams["learning_rate"])]
    for _ in range(3):
        _, state = tx.update(x, state)
        shown.append(float(state.hyperparams["learning_rate"]))
    np.testing.assert_allclose(shown, [0.1, 0.1, 0.09, 0.08], rtol=1e-6)  # that of the step just taken
    assert state.hyperparams["momentum"] == 0.5


def test_a_stateful_schedule_sees_the_extra_arguments(lenient):
    class HalveWhenLossRises:
        def init(self):
            return {"best": jnp.float32(jnp.inf), "rate": jnp.float32(1.0)}

        def update(self, state, *, value, **extra):
            rate = jnp.where(value > state["best"], state["rate"] / 2, state["rate"])
            return {"best": jnp.minimum(state["best"], value), "rate": rate}

        def __call__(self, state, **extra):
            return state["rate"]

    tx = gx.inject_hyperparams(gx.sgd)(HalveWhenLossRises())
    x = jnp.ones(1)
    state = tx.init(x)
    moves = []
    for value in (1.0, 2.0, 0.5, 0.4):
        u, state = tx.update(x, state, x, value=value)
        moves.append(float(u[0]))
    assert moves == [-1.0, -1.0, -0.5, -0.5]


def test_a_callable_mask_is_not_a_schedule():
    """In Optax the mask is called with a step, and decay is silently off everywhere."""
    decay_all = lambda p: jax.tree.map(lambda x: True, p)
    for mask in (decay_all, gx.matrices_only, "matrices_only", {"w": True}):
        tx = gx.inject_hyperparams(gx.adamw)(0.1, weight_decay=1.0, mask=mask)
        p = {"w": jnp.ones((2, 2))}
        state = tx.init(p)
        assert "mask" not in state.hyperparams
        u, _ = tx.update({"w": jnp.zeros((2, 2))}, state, p)
        np.testing.assert_allclose(u["w"], -0.1, rtol=1e-6)


def test_a_sweep_over_learning_rates():
    rates = jnp.array([0.1, 0.2, 0.4])
    tx = gx.inject_hyperparams(gx.adamw)(1.0, weight_decay=0.0)
    p = params()
    states = jax.vmap(lambda rate: gx.set_hyperparams(tx.init(p), learning_rate=rate))(rates)
    u, _ = jax.jit(jax.vmap(tx.update, in_axes=(None, 0, None)))(grads(0, p), states, p)
    for i, rate in enumerate(rates):
        one = gx.adamw(float(rate), weight_decay=0.0)
        v, _ = one.update(grads(0, p), one.init(p), p)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[i], y, rtol=1e-5), u, v)


def test_a_sweep_over_factories():
    """The factory itself may be called with a traced learning rate."""
    p = params()

    def first_update(rate):
        tx = gx.inject_hyperparams(gx.sgd)(rate)
        return tx.update(grads(0, p), tx.init(p), p)[0]

    u = jax.vmap(first_update)(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(2 * u["b"][0], u["b"][1], rtol=1e-6)


def test_the_state_is_that_of_optax(lenient):
    ours, theirs = gx.inject_hyperparams(gx.adamw)(SCHEDULE), optax.inject_hyperparams(optax.adamw)(SCHEDULE)
    assert jax.tree.structure(ours.init(params())) == jax.tree.structure(theirs.init(params()))
    u, _ = ours.update(grads(0, params()), theirs.init(params()), params())
    v, _ = theirs.update(grads(0, params()), theirs.init(params()), params())
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), u, v)


def test_it_injects_into_factories_of_optax(lenient):
    tx = gx.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
    x = jnp.ones(1)
    u, _ = tx.update(x, gx.set_hyperparams(tx.init(x), learning_rate=0.5))
    assert u[0] == -0.5


def test_what_is_held_in_the_state():
    def factory(rate, steps: int = 5, flag=False, name="a", rng=None, power=2):
        assert isinstance(steps, int)
        return gx.scale(rate)

    tx = gx.inject_hyperparams(factory, static_args="power")(1, steps=3, power=7.0)
    assert list(tx.init(jnp.ones(1)).hyperparams) == ["rate"]
    wide = gx.inject_hyperparams(gx.sgd, hyperparam_dtype=jnp.bfloat16)(0.1)
    assert wide.init(jnp.ones(1)).hyperparams["learning_rate"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: gx.inject_hyperparams(gx.adamw)(lr=0.1),
            KeyError,
            r"adamw has no hyperparameter 'lr'; it has \['learn",
        ),
        (lambda: gx.inject_hyperparams(gx.adamw, "masks"), KeyError, r"adamw has no hyperparameter 'masks'"),
        (
            lambda: gx.inject_hyperparams(lambda rate, **rest: gx.sgd(rate)),
            TypeError,
            r"inject_hyperparams needs named arguments, and <lambda>\(rate, \*\*rest\) has others",
        ),
        (
            lambda: gx.inject_hyperparams(gx.adamw)(),
            TypeError,
            r"missing a required argument: 'learning_rate'",
        ),
        (lambda: gx.inject_hyperparams(gx.adamw)(-0.1), ValueError, r"learning_rate must be at least 0"),
    ],
)
def test_mistakes_are_named_at_construction(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_schedule_is_called_first_for_the_state():
    numbers = {}
    tx = gx.inject_hyperparams(gx.adamw)(lambda step: numbers["rate"], mask=lambda params: True)
    numbers["rate"] = 0.25
    assert tx.init(jnp.ones(1)).hyperparams["learning_rate"] == 0.25
    tx = gx.inject_hyperparams(gx.scale_by_polyak)(f_min=lambda step: numbers["least"])  # has no range
    numbers["least"] = 0.5
    assert tx.init(jnp.ones(1)).hyperparams["f_min"] == 0.5
    tx = gx.inject_hyperparams(gx.adamw)(lambda step: jnp.ones(2))
    with pytest.raises(ValueError, match=r"^adamw: the schedule for learning_rate must give one number"):
        tx.init(jnp.ones(1))


def test_unknown_names_in_the_state_are_refused():
    tx = gx.chain(gx.clip(1.0), gx.inject_hyperparams(gx.sgd)(SCHEDULE, momentum=0.9))
    x = jnp.ones(1)
    state = tx.init(x)
    assert gx.set_hyperparams(state, momentum=0.5)[1].hyperparams["momentum"] == 0.5
    with pytest.raises(
        KeyError, match=r"no hyperparameter is named 'lr'; the state has \['learning_rate', 'momentum'\]"
    ):
        gx.set_hyperparams(state, lr=0.5)
    with pytest.raises(ValueError, match="learning_rate follows a schedule"):
        gx.set_hyperparams(state, learning_rate=0.5)
    with pytest.raises(ValueError, match="momentum must be between 0 and 1, got 2"):
        gx.set_hyperparams(state, momentum=2.0)
    swept = jax.vmap(lambda m: gx.set_hyperparams(state, momentum=m))(jnp.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="momentum must be between 0 and 1, got nan"):
        gx.set_hyperparams(swept, momentum=jnp.array([0.5, jnp.nan]))
    state[1].hyperparams["lr"] = 0.5
    with pytest.raises(
        KeyError, match=r"hyperparams must be \['learning_rate', 'momentum'\]; 'lr' is unknown"
    ):
        tx.update(x, state, x)


def test_the_state_has_buffers_of_its_own():
    """Donating the state does not delete the caller's array, nor one buffer twice."""
    rate, x = jnp.float32(0.1), jnp.ones(1)
    tx = gx.chain(gx.inject_hyperparams(gx.scale)(rate), gx.inject_hyperparams(gx.scale)(lambda step: rate))
    state = gx.inject_hyperparams(gx.adamw)(0.1).init(x)
    state = gx.set_hyperparams(state, learning_rate=rate, weight_decay=rate)
    for leaves in (jax.tree.leaves((tx.init(x), rate)), jax.tree.leaves((state, rate))):
        pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
        assert len(set(pointers)) == len(pointers)


def test_a_schedule_that_branches_on_the_step_serves_eager_use():
    tx = gx.inject_hyperparams(gx.sgd)(lambda step: 0.1 if step < 1 else 0.2)
    x = jnp.ones(1)
    u, state = tx.update(x, tx.init(x))
    v, _ = tx.update(x, state)
    np.testing.assert_allclose([u[0], v[0]], [-0.1, -0.2], rtol=1e-6)


def test_a_scheduled_state_is_not_a_plain_one():
    x = jnp.ones(1)
    plain, scheduled = gx.inject_hyperparams(gx.sgd)(0.1), gx.inject_hyperparams(gx.sgd)(SCHEDULE)
    for a, b in ((plain, scheduled), (scheduled, plain)):
        with pytest.raises(
            KeyError, match="'learning_rate' follows a schedule in only one of the state and the transf"
        ):
            a.update(x, b.init(x))


def test_a_dtype_is_no_schedule():
    """jnp.bfloat16(step) is a number, and yet no hyperparameter."""
    tx = gx.inject_hyperparams(gx.adamw)(1e-3, mu_dtype=jnp.bfloat16)
    state = tx.init(jnp.ones(2))
    assert "mu_dtype" not in state.hyperparams
    assert state.inner_state[0].mu.dtype == jnp.bfloat16
    assert "dtype_momentum" not in gx.inject_hyperparams(gx.adafactor)(0.1).init(jnp.ones(2)).hyperparams


@pytest.mark.parametrize(
    ("factory", "kwargs"),
    [
        (gx.torch.SGD, {}),
        (gx.torch.SGD, dict(momentum=0.9, dampening=0.5)),
        (gx.torch.SGD, dict(momentum=0.9, nesterov=True)),
        (gx.torch.RMSprop, dict(momentum=0.9)),
        (gx.torch.Adagrad, dict(lr_decay=0.1)),
        (gx.keras.SGD, dict(momentum=0.9)),
        (gx.keras.RMSprop, {}),
        (gx.adamw, dict(learning_rate=0.1, decay_mode="corrected", max_learning_rate=0.2)),
        (gx.adaptive_grad_clip, dict(clipping=0.01, axis=0)),
    ],
)
def test_no_argument_must_be_known_when_the_step_is_compiled(factory, kwargs):
    """A factory that asks whether a number is 0 must not ask it of one that the state holds."""
    plain, injected = factory(**kwargs), gx.inject_hyperparams(factory)(**kwargs)
    x, (s, t) = jnp.array([1.0, -2.0]), (tx.init(jnp.ones(2)) for tx in (plain, injected))
    for _ in range(3):
        u, s = plain.update(x, s, x)
        v, t = jax.jit(injected.update)(x, t, x)
        np.testing.assert_allclose(v, u, rtol=1e-5)


def test_a_number_that_was_zero_can_be_changed():
    tx = gx.inject_hyperparams(gx.torch.SGD)(lr=1.0)
    x = jnp.ones(1)
    state = tx.update(x, gx.set_hyperparams(tx.init(x), momentum=0.5), x)[1]
    assert tx.update(x, state, x)[0][0] == -1.5


def test_decay_by_the_share_of_the_peak_asks_for_it_of_an_injected_schedule_too():
    """Without it the share would be 1 at every step."""
    with pytest.raises(ValueError, match="give max_learning_rate, the highest learning rate"):
        gx.inject_hyperparams(gx.adamw)(SCHEDULE, decay_mode="independent")


@pytest.mark.parametrize("made", [np.bool_, np.array, jnp.bool_, jnp.array])
def test_bools_of_any_kind_are_no_numbers(made):
    """They choose what is compiled, and stay out of the state."""
    tx, x = gx.inject_hyperparams(gx.sgd)(0.1, momentum=0.9, nesterov=made(True)), jnp.ones(3)
    state = tx.init(x)
    assert state.hyperparams.keys() == {"learning_rate", "momentum"}
    u, _ = jax.jit(tx.update)(x, state, x)
    np.testing.assert_allclose(u, -0.19, rtol=1e-6)
