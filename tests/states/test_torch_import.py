"""What is wrong with a torch state is said by name; tests/parity has the runs that go on."""

import re

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
