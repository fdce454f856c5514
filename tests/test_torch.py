"""gradx.torch, where torch is not installed; tests/parity compares it with torch itself."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from gradx.torch import lr_scheduler as ours
from tests.problems import aval, complex_params, grads

ROWS = {
    "SGD": gx.torch.SGD(0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    "Adagrad": gx.torch.Adagrad(initial_accumulator_value=0.5, weight_decay=0.1),
    "RMSprop": gx.torch.RMSprop(momentum=0.9, centered=True, eps=1e-4),
    "Adadelta": gx.torch.Adadelta(weight_decay=0.1),
    "Adam": gx.torch.Adam(0.01, amsgrad=True, weight_decay=0.1),
    "AdamW": gx.torch.AdamW(maximize=True),
    "NAdam": gx.torch.NAdam(weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": gx.torch.RAdam(betas=(0.8, 0.95), weight_decay=0.1),
    "Adamax": gx.torch.Adamax(weight_decay=0.1),
    "Rprop": gx.torch.Rprop(),
    "ASGD": gx.torch.ASGD(0.1, lambd=0.01, t0=2, weight_decay=0.1),
}
each = pytest.mark.parametrize("name", ROWS)
P = complex_params()


def parts(tree):
    """Each complex array as real numbers with a last axis of 2, as torch views it."""
    view = lambda x: jnp.stack([x.real, x.imag], -1) if jnp.iscomplexobj(x) else x
    return jax.tree.map(view, tree)


@pytest.fixture(scope="module")
def runs():
    """Parameters and states of every optimizer after some steps, of complex numbers and of their parts."""
    step = lambda tx, carry, g: after(tx.update(g, carry[1], carry[0]), carry[0])
    after = lambda new, p: (gx.apply_updates(p, new[0]), new[1])
    all_of_them = jax.jit(lambda c, g: {k: step(tx, c[k], g) for k, tx in ROWS.items()})
    ours = {k: (P, tx.init(P)) for k, tx in ROWS.items()}
    theirs = {k: (parts(P), tx.init(parts(P))) for k, tx in ROWS.items()}
    for i in range(8):
        g = grads(i, P)
        ours, theirs = all_of_them(ours, g), all_of_them(theirs, parts(g))
    return ours, theirs


@each
def test_a_complex_parameter_is_two_real_numbers(runs, name):
    """Parameters and slots alike: netket #1009."""
    ours, theirs = (run[name] for run in runs)
    for x, y in zip(jax.tree.leaves(parts(ours)), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@each
def test_the_slots_of_a_complex_parameter_are_complex(runs, name):
    """All of them, of its shape: a checkpoint of torch has these."""
    _, state = runs[0][name]
    assert aval(state) == aval(ROWS[name].init(P))
    for slot in gx.slots(state, P):
        dtype, shape = (jnp.float32, (4,)) if slot.path == "b" else (jnp.complex64, None)
        assert slot.array.dtype == dtype
        assert slot.array.shape == (shape or {"z": (3, 4), "layers/0": ()}[slot.path])


def test_the_first_step_of_adam_is_the_rate_in_each_part():
    """1+1j - 0.1 * (1+1j) for a gradient of 3+0.1j, and so is AdaMax's and, without eps, Adagrad's."""
    p, g = {"a": jnp.array([1 + 1j])}, {"a": jnp.array([3 + 0.1j])}
    for make in (gx.torch.Adam, gx.torch.Adamax, gx.torch.Adagrad):
        tx = make(lr=0.1)
        u, _ = tx.update(g, tx.init(p), p)
        np.testing.assert_allclose(gx.apply_updates(p, u)["a"], [0.9 + 0.9j], rtol=1e-5)


def test_adafactor_goes_by_the_modulus(lenient):
    """torch's refuses complex parameters: what turns both parameter and gradient turns the update."""
    tx, turn = gx.torch.Adafactor(0.1), lambda tree: jax.tree.map(lambda x: 1j * x, tree)
    p, g = {"z": P["z"]}, {"z": grads(0, P)["z"]}
    u, state = tx.update(g, tx.init(p), p)
    turned, _ = tx.update(turn(g), tx.init(p), turn(p))
    np.testing.assert_allclose(turned["z"], 1j * u["z"], rtol=1e-5)
    assert not any(map(jnp.iscomplexobj, jax.tree.leaves(state)))


@pytest.mark.parametrize("name", [*ROWS, "Adafactor"])
def test_they_are_known_by_their_call(name):
    make = getattr(gx.torch, name)
    climbing = make(lr=0.5, maximize=True)
    assert repr(climbing) == f"{name}(lr=0.5, maximize=True)"
    assert climbing == make(0.5, maximize=True) == pickle.loads(pickle.dumps(climbing)) != make(0.5)


@pytest.mark.parametrize("name", [*ROWS, "Adafactor"])
def test_maximize_turns_the_gradients(name):
    """Both signs give the same step, bit by bit."""
    make, p = getattr(gx.torch, name), {"w": jnp.array([1.0, -2.0])}
    down, up = make(lr=0.1), make(lr=0.1, maximize=True)
    g = {"w": jnp.array([0.5, 0.25])}
    u, _ = down.update(g, down.init(p), p)
    v, _ = up.update({"w": -g["w"]}, up.init(p), p)
    np.testing.assert_array_equal(u["w"], v["w"])


def test_arguments_of_torch_that_say_how_to_compute_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'foreach'"):
        gx.torch.Adam(foreach=True)


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
