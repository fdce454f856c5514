"""The ranges of hyperparameters: declared beside each rule, and described as they are."""

import inspect
import itertools
import math
import pkgutil
import re
from importlib import import_module

import jax.numpy as jnp
import pytest

import gradx as gx
from gradx.core.ranges import DECAY, FRACTION, RANGES, Range, declare_ranges, range_of

SAMPLES = [-math.inf, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 2.0, 2**31 - 1, 2**31, math.inf]


def arguments_by_function():
    """The names of the arguments of each function that a module of gradx defines."""
    found = {}
    for module in pkgutil.walk_packages(gx.__path__, "gradx."):
        if module.name == "gradx.flax":
            continue  # an extra
        names = vars(import_module(module.name)).items()
        for name, f in names:  # torch and Keras share names
            if inspect.isfunction(f):
                found[name] = found.get(name, set()) | {*inspect.signature(f).parameters}
    return found


def test_no_range_is_declared_in_vain():
    """A renamed argument would lose its range in silence."""
    functions = arguments_by_function()
    everywhere = set(itertools.chain(*functions.values()))
    for key in RANGES:
        owner, _, name = key.rpartition(".")
        assert name in (functions[owner] if owner else everywhere), key


def allows(words, x):
    """Whether words such as "at least 0 and less than 1" allow a number."""
    words = words.replace("between 0 and 1", "at least 0 and at most 1").replace("2**31", str(2**31))
    tests = {
        "at least": lambda a: x >= a,
        "at most": lambda a: x <= a,
        "more than": lambda a: x > a,
        "less than": lambda a: x < a,
        "below": lambda a: x < a,
    }
    pairs = re.findall(rf"({'|'.join(tests)}) (\d+)", words)
    assert pairs
    return all(tests[words](float(a)) for words, a in pairs) and ("finite" not in words or x < math.inf)


@pytest.mark.parametrize("key", RANGES)
def test_the_words_say_which_numbers_are_allowed(key):
    declared = RANGES[key]
    assert not declared.contains(math.nan)
    for x in SAMPLES:
        assert declared.contains(x) == allows(declared.described, x), x


def test_the_range_of_a_factory_goes_before_that_of_the_name():
    assert range_of("trace", "decay") is FRACTION
    assert range_of("gradient_noise_scale", "decay") is DECAY
    assert range_of("anything", "step_size").described == "a number, not NaN"


def test_one_name_has_one_range():
    declare_ranges(rho=FRACTION)  # the same again is fine
    with pytest.raises(ValueError, match="rho is declared twice, as 'between 0 and 1' and 'odd'"):
        declare_ranges(rho=Range(lambda x: x % 2 == 1, "odd"))
    assert RANGES["rho"] is FRACTION


def test_a_value_that_is_set_in_the_state_has_the_range_too():
    state = gx.inject_hyperparams(gx.adadelta)().init(jnp.ones(3))
    with pytest.raises(ValueError, match="set_hyperparams: rho must be between 0 and 1, got 2"):
        gx.set_hyperparams(state, rho=2.0)
    with pytest.raises(ValueError, match=r"eta_plus must be at least 1 and finite, got 0.5"):
        gx.set_hyperparams(gx.inject_hyperparams(gx.rprop)(0.1).init(jnp.ones(3)), eta_plus=0.5)
