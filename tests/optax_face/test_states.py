"""The states of all of Optax's transformations go on in `gradx.optax`, and back, with the same updates."""

import inspect
import types
from collections.abc import Iterator
from typing import Any

import jax
import optax
import pytest

import gradx.optax
from tests.optax_face.both import STEPS, unlike, updates_of_both
from tests.optax_face.examples import Example

pytestmark = [pytest.mark.usefixtures("lenient"), pytest.mark.filterwarnings("ignore")]

# What a factory has to be given, by the name of the argument, or by `factory.argument`.
REQUIRED = {
    "learning_rate": "0.1",
    "args": "optax.trace(0.9), optax.adam(0.1)",
    "named_chain.args": "('first', optax.trace(0.9)), ('second', optax.adam(0.1))",
    "base_optimizer": "optax.adam(0.1)",
    "clipping": "0.1",
    "decay": "0.9",
    "eta": "0.1",
    "every_k_schedule": "2",
    "f": "lambda u, p: u",
    "freeze_mask": "matrices(params)",
    "gamma": "0.5",
    "inner": "optax.adam(0.1)",
    "inner_factory": "optax.adam",
    "mask": "matrices(params)",
    "max_backtracking_steps": "9",
    "max_consecutive_errors": "2",
    "max_delta": "0.1",
    "max_linesearch_steps": "9",
    "max_norm": "0.1",
    "opt": "optax.adam(0.1)",
    "optimizer": "optax.adam(0.1)",
    "param_labels": "labels",
    "should_transform_fn": "even",
    "step_size": "0.5",
    "step_size_fn": "falling",
    "threshold": "0.1",
    "transforms": "{'a': optax.adam(0.1), 'b': optax.sgd(0.1, 0.9)}",
    "tx": "optax.adam(0.1)",
}

# Another value than the default, by the name of the argument; a bool is turned around.
OTHER = {
    **dict.fromkeys(["accumulator_dtype", "dtype_momentum", "mu_dtype"], "jnp.float32"),
    **dict.fromkeys(["mask", "trust_ratio_mask", "weight_decay_mask"], "matrices"),
    "alpha": "0.5",
    "approx_dec_rtol": "None",
    "atol": "0.01",
    "axis": "0",
    "b1": "0.7",
    "b2": "0.8",
    "b3": "0.6",
    "beta": "0.6",
    "clipping_threshold": "0.5",
    "curv_rtol": "0.5",
    "decay": "0.6",
    "decay_rate": "0.6",
    "decrease_factor": "0.5",
    "eps": "0.03",
    "eps_root": "0.02",
    "eta": "0.1",
    "f_min": "0.5",
    "gamma": "0.3",
    "increase_factor": "1.2",
    "initial_accumulator_value": "0.3",
    "initial_guess_strategy": "'one'",
    "initial_scale": "0.5",
    "key": "3",
    "learning_rate": "0.2",
    "linesearch": "optax.scale_by_backtracking_linesearch(9)",
    "max_learning_rate": "0.05",
    "memory_size": "2",
    "min_dim_size_to_factor": "2",
    "min_norm": "0.5",
    "min_scale": "0.5",
    "mode": "'smooth'",
    "momentum": "0.8",
    "optimism": "0.2",
    "rho": "0.7",
    "rtol": "0.01",
    "scale_factor": "0.5",
    "scaling": "1.3",
    "slope_rtol": "0.3",
    "smooth_beta": "0.7",
    "stepsize_precision": "0.001",
    "threshold": "4.5",
    "tol": "0.1",
    "trust_coefficient": "0.5",
    "variant": "'sps+'",
    "weight_decay": "0.1",
    "weight_decay_rate": "0.1",
}
LEFT_OUT = {
    "decay_offset": "Optax's is NaN until it is reached",
    "seed": "the old name of key",
    "verbose": "prints",
}

# These need more than a call.
CALLS = {
    "MultiSteps": "optax.MultiSteps(optax.adam(0.1), 2, False, optax.skip_not_finite, jnp.float64)"
    ".gradient_transformation()",
    "inject_hyperparams": "optax.inject_hyperparams(optax.adam, 'b1', jnp.float64)(0.1, b1=0.7, eps=falling)",
}


def factories(module: types.ModuleType, path: str = "", seen: set | None = None) -> Iterator[tuple[str, Any]]:
    """The functions in Optax's public modules that give a transformation, each once, by their names."""
    seen = set() if seen is None else seen
    for name, x in sorted(vars(module).items()):
        if name.startswith("_") or id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, types.ModuleType) and x.__name__.startswith("optax.") and "._" not in x.__name__:
            yield from factories(x, f"{path}{name}.", seen)
        elif callable(x) and (name in CALLS or gives_transformation(x)):
            yield f"{path}{name}", x


def gives_transformation(x: Any) -> bool:
    try:
        return "GradientTransformation" in str(inspect.signature(x).return_annotation)
    except (TypeError, ValueError):
        return False


def of_face(path: str) -> Any:
    found = gradx.optax
    for name in path.split("."):
        found = getattr(found, name)
    return found


FACTORIES = dict(factories(optax))
OURS = sorted(path for path, theirs in FACTORIES.items() if of_face(path) is not theirs)


def call(path: str) -> str:
    """A call of a factory with all arguments, none of them at its default."""
    name = path.split(".")[-1]
    if name in CALLS:
        return CALLS[name]
    given = []
    for p in inspect.signature(FACTORIES[path]).parameters.values():
        if p.name in LEFT_OUT:
            continue
        known = REQUIRED if p.default is p.empty else OTHER
        value = (
            str(not p.default)
            if isinstance(p.default, bool)
            else known.get(f"{name}.{p.name}", known.get(p.name))
        )
        assert value, (
            f"add a value for {p.name} of {name} to REQUIRED or OTHER in tests/optax_face/test_states.py"
        )
        assert value != repr(p.default), f"give {p.name} of {name} another value than its default"
        given.append(value if p.kind is p.VAR_POSITIONAL else f"{p.name}={value}")
    return f"optax.{path}({', '.join(given)})"


def example(path: str) -> Example:
    tree = "{'w': array((3, 2)), 'b': array((2,)), 'none': None}"
    return Example(call(path), tree, "float64", (1.0, 0.1, 3.0, 0.3)[:STEPS], 0)


@pytest.mark.parametrize("path", OURS)
def test_states_go_on_in_the_face_and_back(path, together, x64):
    params, grads = example("adam").arrays()
    u, v = together(lambda path, p, g: updates_of_both(example(path), p, g), params, grads, row="path")
    assert not unlike(example(path), *jax.device_get((u, v)))


# The name of the links is not given; a default is an object that is made anew.
NOT_SAME = {("named_chain", "args"), ("lbfgs", "linesearch")}


@pytest.mark.parametrize("path", OURS)
def test_arguments_are_those_of_optax_with_their_defaults(path):
    ours = inspect.signature(of_face(path)).parameters
    theirs = inspect.signature(FACTORIES[path]).parameters
    for name, p in theirs.items():
        if (path, name) not in NOT_SAME:
            assert (name, ours[name].default, ours[name].kind) == (name, p.default, p.kind)
    assert len(list(ours)) == len(theirs) or list(ours)[: len(theirs)] == list(theirs)


def test_the_others_are_optax_itself():
    """So are their states. A factory that the walk does not find is not tested: there are many."""
    others = FACTORIES.keys() - OURS
    assert all(of_face(path) is FACTORIES[path] for path in others)
    assert len(OURS) > 80
    assert len(others) > 30
