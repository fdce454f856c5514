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

# These need more than a call.
CALLS = {
    "MultiSteps": "optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation()",
    "inject_hyperparams": "optax.inject_hyperparams(optax.adam)(0.1)",
}

# Their states are other ones on purpose.
EXCEPTIONS: dict[str, str] = {}


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
    """A call of a factory with what it has to be given."""
    name = path.split(".")[-1]
    if name in CALLS:
        return CALLS[name]
    parameters = inspect.signature(FACTORIES[path]).parameters.values()
    needed = [p for p in parameters if p.default is p.empty]
    given = []
    for p in needed:
        value = REQUIRED.get(f"{name}.{p.name}", REQUIRED.get(p.name))
        assert value, f"add a value for {p.name} of {name} to REQUIRED in tests/optax_face/test_states.py"
        given.append(value if p.kind is p.VAR_POSITIONAL else f"{p.name}={value}")
    return f"optax.{path}({', '.join(given)})"


def example(path: str) -> Example:
    tree = "{'w': array((3, 2)), 'b': array((2,)), 'none': None}"
    return Example(call(path), tree, "float32", (1.0, 0.1, 3.0, 0.3)[:STEPS], 0)


@pytest.mark.parametrize("path", OURS)
def test_states_go_on_in_the_face_and_back(path, together):
    params, grads = example("adam").arrays()
    u, v = together(lambda path, p, g: updates_of_both(example(path), p, g), params, grads, row="path")
    assert not unlike(example(path), *jax.device_get((u, v)))


def test_the_others_are_optax_itself():
    """So are their states. A factory that the walk does not find is not tested: there are many."""
    others = FACTORIES.keys() - OURS
    assert all(of_face(path) is FACTORIES[path] for path in others)
    assert len(OURS) > 80
    assert len(others) > 30
