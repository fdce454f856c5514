"""No schedule is called before a step needs it, and then its value is checked; of every factory."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gradx as gx
from gradx.wrappers.injection import may_follow
from tests.probes import PROBLEMS, Problem, found, keys
from tests.test_bounds import with_value
from tests.test_every_argument import ROWS, of, steps_of

# Schedules by another annotation.
OTHERS = {(gx.accumulate, "every"), (gx.MultiSteps, "every_k_schedule")}
OTHERS |= {(gx.scale_by_schedule, "step_size_fn")}
annotation = lambda function, argument: inspect.signature(function).parameters[argument].annotation
LATE = [row for row in ROWS if row in OTHERS or may_follow(annotation(*row))]


class CalledError(Exception):
    """A schedule is called."""


def never(step: Any) -> float:
    raise CalledError


def vector(step: Any) -> jax.Array:
    return jnp.ones(7)


def first_step(tx: Any, function: Callable) -> None:
    step = steps_of(found(PROBLEMS, keys(function), Problem()))[0]
    jax.eval_shape(lambda p, g: tx.update(g, tx.init(p), p, **step.extra), step.params, step.updates)


@of(LATE)
def test_a_schedule_is_called_by_a_step_and_its_value_is_checked(function, argument):
    late, wrong = (with_value(function, argument, schedule) for schedule in (never, vector))
    if not isinstance(late, optax.GradientTransformation):
        return  # a schedule or the like, which a step calls through a hyperparameter
    with pytest.raises(CalledError):
        first_step(late, function)
    with pytest.raises(
        ValueError, match=r"^[\w.]+: the schedule for \w+ must give one number for a step, got"
    ):
        first_step(wrong, function)
    with pytest.raises(TypeError, match=r"is a stateful schedule, which needs inject_hyperparams"):
        with_value(function, argument, gx.reduce_on_plateau(0.1))
