"""Random chains and wrappers of Optax's vocabulary: `gradx.optax` gives Optax's updates and states.

Each example is a text that a user could write, evaluated with Optax and with its face as `optax`. Over four
steps the updates agree to rounding, the states have one structure, and in the middle they are exchanged.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.optax_face.both import STEPS, OptaxError, agrees_in_double, is_unstable, run, unlike
from tests.optax_face.differences import left_out
from tests.optax_face.examples import TREES, Example
from tests.optax_face.nesting import AROUND, optimizers
from tests.optax_face.test_states import FACTORIES
from tests.optax_face.vocabulary import ALIASES, LINKS

pytestmark = pytest.mark.usefixtures("lenient")
DTYPES = {
    True: ["float64", "float64", "float64", "float32"],
    False: ["float32", "bfloat16", "float16", "complex64"],
}
REAL = ("sm3(", "lbfgs(", ".clip(", "rprop(", "keep_params_nonnegative(")  # in Optax
SIZE = 10  # examples in one program


@st.composite
def examples(draw: Callable, x64: bool) -> Example:
    tx, tree, dtype = draw(optimizers()), draw(st.sampled_from(TREES)), draw(st.sampled_from(DTYPES[x64]))
    sizes = [0.1, 1.0] if dtype == "float16" else [0.0, 1e-3, 0.1, 1.0, 10.0]
    sizes = draw(st.lists(st.sampled_from(sizes), min_size=STEPS, max_size=STEPS))
    if tx.startswith("optax.apply_if_finite(") or tx.endswith(
        "optax.skip_not_finite).gradient_transformation()"
    ):
        bad = draw(st.integers(0, STEPS))
        sizes = [math.nan if i == bad else size for i, size in enumerate(sizes)]
    if x64 and "lbfgs(" in tx:
        dtype = "float64"  # for float32, Optax's weights are float64 nevertheless, and its searches fail
    if "sm3(" in tx:
        tree = tree.replace("array(())", "array((2,))")
    example = Example(tx, tree, dtype, tuple(sizes), draw(st.integers(0, 99)))
    cannot = dtype == "complex64" and any(name in tx for name in REAL)
    return example._replace(dtype="float32") if cannot or left_out(example) else example


def batches(x64: bool) -> st.SearchStrategy[list[Example]]:
    return st.lists(examples(x64), min_size=SIZE, max_size=SIZE, unique=True)


def check(x64: bool, batch: list[Example]) -> int:
    """How many examples are not compared; AssertionError for one that differs."""
    with jax.enable_x64(x64):
        return sum(not compares(*pair) for pair in zip(batch, run(batch), strict=True))


def compares(example: Example, result: Any) -> bool:
    """Whether Optax and the face agree; False if there is nothing to compare."""
    if isinstance(result, OptaxError):
        return False
    if isinstance(result, Exception):
        raise AssertionError(f"{example.code}\n{result!r}") from result
    found = unlike(example, *result)
    if found and (is_unstable(example) or agrees_in_double(example)):
        return False
    assert not found, "\n".join([example.code, *found])
    return True


def fuzz(x64: bool, count: int, seed: int) -> None:
    """Try so many random examples, the same ones for a seed."""
    left = []
    run_all = settings(
        max_examples=count // SIZE,
        deadline=None,
        database=None,
        print_blob=False,
        phases=[Phase.generate],  # shrinking would take minutes: each trial is a program
        suppress_health_check=list(HealthCheck),
    )(hypothesis.seed(seed)(hypothesis.given(batches(x64))(lambda batch: left.append(check(x64, batch)))))
    run_all()
    assert len(left) >= count // SIZE
    assert sum(left) <= 0.1 * count


each_mode = pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])


@each_mode
def test_random_chains_and_wrappers_are_those_of_optax(x64):
    fuzz(x64, 100, seed=0)


@each_mode
@pytest.mark.slow
def test_many_more(x64):
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # shown when it fails: `fuzz(x64, 2500, seed)` tries the same examples
    fuzz(x64, 2500, seed)


# Each is a factory of a transformation, and no row of the vocabulary.
NOT_DRAWN = {
    "inject_stateful_hyperparams": "the old name of inject_hyperparams",
    "measure_with_ema": "Optax's own in both, for one function",
    "scale_by_backtracking_linesearch": "among the searches, as a part",
    "scale_by_distance_over_gradients": "Optax's own in both",
    "scale_by_zoom_linesearch": "among the searches, as a part",
    "snapshot": "Optax's own in both, for one function",
    "stateless": "for one function; see test_states.py",
    "stateless_with_tree_map": "for one function; see test_states.py",
}


def test_the_vocabulary_is_whole():
    """A factory of a new version of Optax goes into tests/optax_face/vocabulary.py, or above."""
    wrappers = {
        "lookahead",
        "multi_transform",
        "named_chain",
        "inject_hyperparams",
        "lbfgs",
        "scale_by_lbfgs",
    }
    drawn = {*ALIASES, *LINKS, *AROUND, *wrappers}
    known = {path for path in FACTORIES if "." not in path}
    assert known - drawn - NOT_DRAWN.keys() == set()
    assert NOT_DRAWN.keys() - known == set()
