"""What is wrong with a torch state is said by name; tests/parity has the runs that go on."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

MODEL = {"dense": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}}
BIAS, KERNEL = np.full(2, 0.5), np.full((3, 2), 2.0)


def moments(x, step=4.0, **more):
    return {"step": np.float32(step), "exp_avg": x, "exp_avg_sq": x * x, **more}


def saved(*states):
    return {"state": dict(enumerate(states)), "param_groups": [{"params": list(range(len(states)))}]}


ADAM = gx.torch.Adam()
GOOD = saved(moments(BIAS), moments(KERNEL))


def test_arrays_steps_and_paths_come_over():
    turned = saved(moments(KERNEL.T), moments(BIAS))
    transposed = lambda path, x: x.T
    state = gx.import_torch_state(
        ADAM, MODEL, turned, paths=["dense/kernel", "dense/bias"], convert=transposed
    )
    assert int(gx.get_slot(state, MODEL, "count")) == 4
    np.testing.assert_array_equal(gx.get_slot(state, MODEL, "mu")["dense"]["kernel"], KERNEL)
    np.testing.assert_array_equal(gx.get_slot(state, MODEL, "nu")["dense"]["bias"], BIAS * BIAS)


def test_what_torch_has_no_state_for_starts_anew():
    """A parameter that never had a gradient, and one that torch did not train."""
    some = {"state": {0: moments(KERNEL)}, "param_groups": [{"params": [0]}]}
    state = gx.import_torch_state(ADAM, MODEL, some, paths=["dense/kernel"])
    mu = gx.get_slot(state, MODEL, "mu")["dense"]
    assert (float(mu["kernel"][0, 0]), float(mu["bias"][0])) == (2.0, 0.0)


ERRORS = [
    (
        gx.torch.AdamW(amsgrad=True),
        GOOD,
        {},
        "nu_max of dense/bias is not in torch's state, which has ['exp_avg",
    ),
    (
        gx.torch.SGD(momentum=0.9),
        GOOD,
        {},
        "trace of dense/bias is not in torch's state, which has ['exp_avg', 'exp_avg_sq', 'step']; trace of "
        "dense/kernel is not in torch's state",
    ),
    (
        ADAM,
        saved(moments(BIAS, max_exp_avg_sq=BIAS), moments(KERNEL)),
        {},
        "torch's max_exp_avg_sq of dense/bias",
    ),
    (
        ADAM,
        saved(moments(BIAS, mu_product=0.5), moments(KERNEL)),
        {},
        "torch's mu_product of dense/bias has no",
    ),
    (
        ADAM,
        saved(moments(BIAS, 1.0), moments(KERNEL)),
        {},
        "step is [1.0, 4.0] for different parameters: give st",
    ),
    (
        ADAM,
        saved(moments(BIAS), moments(KERNEL.T)),
        {},
        "mu of dense/kernel has shape (3, 2), and torch's exp_avg (2, 3): give paths in torch's",
    ),
    (
        ADAM,
        saved(moments(BIAS)),
        {},
        "torch's state has 1 parameters, and there are 2 paths: ['dense/bias', 'de",
    ),
    (
        ADAM,
        GOOD,
        {"paths": ["dense/bias", "w"]},
        "paths must be different ones of ['dense/bias', 'dense/kernel']",
    ),
    (
        ADAM,
        GOOD,
        {"paths": ["dense/bias"] * 2},
        "paths must be different ones of ['dense/bias', 'dense/kernel']",
    ),
    (
        gx.torch.SGD(gx.linear_schedule(1.0, 0.0, 10), momentum=0.9),
        saved({"momentum_buffer": BIAS}, {"momentum_buffer": KERNEL}),
        {},
        "step is not in torch's state: give step=...",
    ),
    (
        gx.torch.NAdam(),
        GOOD,
        {},
        "mu_product is not in torch's state",
    ),
    (
        gx.torch.Adam(betas=(gx.linear_schedule(0.8, 0.9, 10), 0.999)),
        GOOD,
        {},
        "weights/b1, of a beta that follows a schedule, is not in torch's state",
    ),
]


@pytest.mark.parametrize(("tx", "state", "kwargs", "text"), ERRORS, ids=[text[:50] for *_, text in ERRORS])
def test_errors_name_what_does_not_fit(tx, state, kwargs, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        gx.import_torch_state(tx, MODEL, state, **kwargs)


def test_what_is_no_state_dict():
    with pytest.raises(TypeError, match=re.escape("must be the result of a torch optimizer's state_dict()")):
        gx.import_torch_state(ADAM, MODEL, {"dense.weight": KERNEL})
    with pytest.raises(TypeError, match="tx of import_torch_state is not a gradient transformation"):
        gx.import_torch_state(gx.torch.Adam, MODEL, GOOD)


# Two parameters of one shape, which torch registered as z, a. After one step of Adam exp_avg is 0.1 * g.
TWINS = {"a": jnp.ones(2), "z": jnp.ones(2)}
ONE_STEP = {"z": moments(np.full(2, 0.5), 1.0), "a": moments(np.full(2, 0.1), 1.0)}
NAMED = {
    "param_names": {
        "state": {0: ONE_STEP["z"], 1: ONE_STEP["a"]},
        "param_groups": [{"params": [0, 1], "param_names": ["z", "a"]}],
    },
    "names for ids": {"state": ONE_STEP, "param_groups": [{"params": ["z", "a"]}]},
    "two groups": {"state": ONE_STEP, "param_groups": [{"params": ["z"]}, {"params": ["a"]}]},
}


def mu_of(params, saved, **kwargs):
    state = gx.import_torch_state(gx.adam(1e-3), params, saved, **kwargs)
    return jax.tree.map(lambda x: round(float(x.ravel()[0]), 6), gx.get_slot(state, params, "mu"))


def named(**states):
    """A state by torch's names, in which "__" stands for the dot."""
    states = {name.replace("__", "."): state for name, state in states.items()}
    return {"state": states, "param_groups": [{"params": list(states)}]}


@pytest.mark.parametrize("saved", NAMED.values(), ids=NAMED)
def test_names_decide_and_not_the_order(saved):
    assert mu_of(TWINS, saved) == {"a": 0.1, "z": 0.5}


@pytest.mark.parametrize("kind", ["weight", "kernel", "scale", "embedding"])
@pytest.mark.parametrize("around", ["", "module__", "_orig_mod__module__"])
@pytest.mark.parametrize("flax", [False, True])
def test_names_that_mean_the_same(kind, around, flax):
    """What is around the whole model, and the word for a layer's weights, may differ."""
    inside = {"dense": {"bias": jnp.ones(2), kind: jnp.ones(2)}, "norm": jnp.ones(2)}
    saved = {
        f"{around}norm__weight": moments(np.full(2, 3.0)),
        f"{around}dense__weight": moments(np.full(2, 1.0)),
        f"{around}dense__bias": moments(np.full(2, 2.0)),
    }
    mu = mu_of({"params": inside} if flax else inside, named(**saved))
    assert (mu["params"] if flax else mu) == {"dense": {"bias": 2.0, kind: 1.0}, "norm": 3.0}


def test_a_dict_of_paths_is_for_names_that_differ():
    saved = named(first=ONE_STEP["z"], a=ONE_STEP["a"])
    assert mu_of(TWINS, saved, paths={"first": "z"}) == {"a": 0.1, "z": 0.5}
    both = named(z=ONE_STEP["z"], a=ONE_STEP["a"])
    assert mu_of(TWINS, both, paths={"z": "a", "a": "z"}) == {"a": 0.5, "z": 0.1}  # as it is meant


def test_what_names_do_not_list_starts_from_init_if_that_is_said():
    saved = named(z=ONE_STEP["z"])
    assert mu_of(TWINS, saved, paths={}) == {"a": 0.0, "z": 0.5}
    with pytest.raises(ValueError, match=re.escape("torch has no names for ['a']: give paths={} to start")):
        mu_of(TWINS, saved)


def test_a_name_without_a_state_needs_no_place():
    saved = {"state": {"z": ONE_STEP["z"]}, "param_groups": [{"params": ["z", "a", "gone"]}]}
    assert mu_of(TWINS, saved) == {"a": 0.0, "z": 0.5}


SQUARE = {"dense": {"kernel": jnp.ones((2, 2))}}
EDGE = np.array([[1.0, 2.0], [3.0, 4.0]])
NAMING_ERRORS = [
    (TWINS, named(y=ONE_STEP["z"], a=ONE_STEP["a"]), {}, "torch's ['y'] match none of the parameters ['z']"),
    (
        TWINS,
        named(b=ONE_STEP["z"], c=ONE_STEP["a"]),
        {},
        "match none of the parameters ['a', 'z']",
    ),
    (  # two that the name may mean
        {"a": {"kernel": jnp.ones(2), "scale": jnp.ones(2)}},
        named(a__weight=ONE_STEP["a"]),
        {},
        "torch's ['a.weight'] match none of the parameters ['a/kernel', 'a/scale']",
    ),
    (TWINS, NAMED["param_names"], {"paths": ["a", "z"]}, "paths has 'a' where torch's name is 'z', which is"),
    (TWINS, NAMED["param_names"], {"paths": {"y": "a"}}, "paths has ['y'], and torch's names are ['z', 'a']"),
    (
        TWINS,
        NAMED["param_names"],
        {"paths": {"z": "y"}},
        "different ones of ['a', 'z'], got ['y']",
    ),
    (TWINS, saved(ONE_STEP["z"], ONE_STEP["a"]), {"paths": {"z": "z"}}, "has no names: give paths as a list"),
    (
        SQUARE,
        named(dense__weight=moments(EDGE)),
        {},
        "torch's dense.weight is (outputs, inputs), and dense/kernel may be (inputs, outputs): give convert",
    ),
]


@pytest.mark.parametrize(
    ("params", "saved", "kwargs", "text"), NAMING_ERRORS, ids=[text[:50] for *_, text in NAMING_ERRORS]
)
def test_errors_name_what_has_no_place(params, saved, kwargs, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        gx.import_torch_state(gx.adam(1e-3), params, saved, **kwargs)


def test_a_square_kernel_is_turned_by_convert():
    saved, turn = named(dense__weight=moments(EDGE)), lambda path, x: x.T
    state = gx.import_torch_state(gx.adam(1e-3), SQUARE, saved, convert=turn)
    np.testing.assert_array_equal(gx.get_slot(state, SQUARE, "mu")["dense"]["kernel"], EDGE.T)


def test_without_names_the_order_of_the_leaves_is_not_taken_in_silence():
    numbered = saved(ONE_STEP["z"], ONE_STEP["a"])
    with pytest.warns(UserWarning, match=re.escape("some of the parameters ['a', 'z'] have the same shape")):
        assert mu_of(TWINS, numbered) == {"a": 0.5, "z": 0.1}
    assert mu_of(TWINS, numbered, paths=["z", "a"]) == {"a": 0.1, "z": 0.5}
    assert mu_of(list(TWINS.values()), numbered) == [0.5, 0.1]  # the order that its maker gave it


def test_complex_slots_are_of_gradx_torch():
    """torch keeps a square for each part; gradx's own Adam has one, which is real."""
    p, z = {"z": jnp.ones(2, jnp.complex64)}, np.full(2, 0.5 + 0.25j, np.complex64)
    numbered = saved({"step": 1.0, "exp_avg": z, "exp_avg_sq": z})
    state = gx.import_torch_state(ADAM, p, numbered)
    np.testing.assert_array_equal(gx.get_slot(state, p, "nu")["z"], z)
    with pytest.raises(ValueError, match="nu is float32, which cannot hold complex64"):
        gx.import_torch_state(gx.adam(1e-3), p, numbered)
