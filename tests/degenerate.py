"""Inputs at which a formula divides 0 by 0, loses its digits or overflows, and what float32 makes of them.

A scenario is a history of gradients and parameters for a matrix and a vector: arrays of shape (steps, 2, 3)
and (steps, 3). Its numbers are float32, so that the float64 references see the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import gradx as gx
from tests.cases import Case

STEPS, FEW = 300, 8  # of a scenario: all programs take 300, but most have shown all that they can after 8

SHAPES = (2, 3), (3,)
# Of every size, and none of them with few bits, so that products are rounded.
GRADIENTS = np.float32([[0.7, -1.3, 2.9], [-0.11, 3.7, -0.053]]), np.float32([0.9, -5.3, 0.017])


class Scenario(NamedTuple):
    """What happens to an array: functions of the step (0 first) and of the array's gradient in GRADIENTS."""

    gradient: Callable[[int, np.ndarray], Any]
    parameter: Callable[[int, np.ndarray], Any] = lambda t, g: 0.5 * np.sign(g) + 0.25 * g
    steps: int = FEW
    # Squares overflow or vanish in float32: a part of the update may be lost, nothing else.
    extreme: bool = False
    elementwise: bool = False  # for elementwise rules only

    def histories(self, steps: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The gradients and the parameters of each array, stacked over the steps."""
        make = lambda f, g: np.stack([np.broadcast_to(np.float32(f(t, g)), g.shape) for t in range(steps)])
        with np.errstate(all="ignore"):
            return [make(self.gradient, g) for g in GRADIENTS], [make(self.parameter, g) for g in GRADIENTS]


def nan_in_the_second_step(t: int, g: np.ndarray) -> np.ndarray:
    g = g.copy()
    g.flat[1] = np.nan if t == 1 else g.flat[1]
    return g


def zeros(t: int, g: np.ndarray) -> np.ndarray:
    return 0 * g


# Parameters have the signs of the gradients, so that the terms of an update do not cancel.
SCENARIOS = {
    "no gradient": Scenario(zeros),
    "no gradient, no parameter": Scenario(zeros, zeros),
    "no parameter": Scenario(lambda t, g: g, zeros),
    "constant": Scenario(lambda t, g: g, steps=STEPS),
    "its sign turns": Scenario(lambda t, g: (-1) ** (t // 2) * g, steps=STEPS),
    "once, and never again": Scenario(lambda t, g: (t == 0) * g, steps=STEPS),
    "all of one size": Scenario(lambda t, g: (-1) ** (t // 3) * np.sign(g), lambda t, g: g - t * np.sign(g)),
    "in some elements only": Scenario(lambda t, g: np.where(abs(g) < 1, (-1) ** t * 0.0, g)),
    "in every other step": Scenario(lambda t, g: (t % 2) * g, lambda t, g: g + (-0.5) ** t),
    "a step back": Scenario(lambda t, g: (1 + t) * g, lambda t, g: -t * g),  # the curvature is negative
    "large, and zero beside": Scenario(lambda t, g: 1e30 * np.sign(g) * (abs(g) > 1), extreme=True),
    "the largest": Scenario(lambda t, g: 3e38 * np.sign(g), extreme=True),
    "small": Scenario(lambda t, g: 1e-30 * np.sign(g), lambda t, g: 2e-30 * g, extreme=True),
    "a large one among others": Scenario(lambda t, g: (1e25 if t == 2 else 1) * g, extreme=True),
    "NaN": Scenario(nan_in_the_second_step, elementwise=True),
}


EXTREME = {name for name, scenario in SCENARIOS.items() if scenario.extreme}
# In which scenarios a row loses more than a part of its update: only NaN is ruled out.
UNBOUNDED = {
    # The ratio is 1 where a norm overflows or vanishes.
    gx.lars: EXTREME,
    gx.lamb: EXTREME,
    gx.fromage: EXTREME,
    gx.scale_by_trust_ratio: EXTREME,
    # They take the difference of two updates, of which one may be lost.
    gx.optimistic_adam: EXTREME,
    gx.optimistic_adam_v2: EXTREME,
    # A norm that vanishes clips nothing.
    gx.clip_by_global_norm: {"small"},
    gx.adaptive_grad_clip: {"small"},
}
# Rules that add numbers of the size of the gradient, which gives inf for half of the largest number already.
ADDING = {gx.nadam, gx.nadamw, gx.scale_by_nadam, gx.optimistic_adam, gx.optimistic_adam_v2, gx.ranger}


def may_be_nan(case: Case, scenario: str) -> bool:
    """Whether a rule has numbers of its own that are inf, and divides by inf or multiplies by 0."""
    if scenario == "the largest" and (case.kwargs.get("nesterov") or case.optimizer in ADDING):
        return True
    forgets = case.kwargs.get("b2") == 0.0 or case.kwargs.get("step_offset")  # a square that was inf, times 0
    return SCENARIOS[scenario].extreme and bool(forgets)


def loses_digits(case: Case) -> bool:
    """Whether the rule divides by a difference of nearly equal numbers, which rounding may make anything."""
    centered = case.optimizer is gx.scale_by_stddev or case.kwargs.get("centered")
    return bool(centered) and case.kwargs.get("eps", 0.0) < 1.0


def stacked(steps: int = STEPS) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gradients and parameters of all scenarios, stacked along the first axis; the second is the step."""
    found = [s.histories(steps) for s in SCENARIOS.values()]
    trees = [
        {"w": np.stack([x[i][0] for x in found]), "b": np.stack([x[i][1] for x in found])} for i in (0, 1)
    ]
    return trees[0], trees[1]
