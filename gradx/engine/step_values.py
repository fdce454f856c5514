"""The scalars of a step, computed once: hyperparameters, bias corrections, results of `scalars`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from gradx.core.arguments import needed
from gradx.core.foreign import widened
from gradx.core.hyperparameters import Count, as_scalar, parameters_of, pick, resolve, varies
from gradx.core.ranges import check
from gradx.core.tree import Extra
from gradx.engine.leaves import Leaves
from gradx.engine.rule import Scalars
from gradx.engine.state_layout import Weights
from gradx.numerics.arrays import increment
from gradx.numerics.moving_average import correction, lerp, weight_correction

__all__ = []  # internal: the engine's


@dataclasses.dataclass(frozen=True)
class StepValues:
    """Computes the scalars of a step from its count and its arrays; fields as in `leafwise`."""

    owner: str
    hyper: dict[str, ScalarOrSchedule]
    corrections: dict[str, str]
    scalars: Callable | None

    def check(self, meanings: set[str]) -> None:
        """Raise for a wrong hyperparameter, and for one whose name has another meaning in a rule."""
        taken = (self.hyper.keys() | self.corrections.keys()) & meanings
        if taken:
            raise TypeError(
                f"{self.owner}: {sorted(taken)} have another meaning in a rule: rename these hyperparameters"
            )
        check(self.owner, **self.hyper)

    @property
    def parameters(self) -> dict[str, bool]:
        """The parameters of `scalars` by name, and whether each must be given."""
        return parameters_of(self.scalars)

    @property
    def weighted(self) -> list[str]:
        """The decay rates that may change: the sum of their averages' weights stands for 1 minus a power."""
        return sorted({k for k in self.corrections.values() if varies(self.hyper[k])})

    @property
    def needs_count(self) -> bool:
        """Whether a step must be known by its number."""
        if any(map(callable, self.hyper.values())) or "t" in self.parameters:
            return True
        return bool(self.corrections) and not set(self.corrections.values()) <= set(self.weighted)

    def at(
        self, count: Count | None, weights: Weights, leaves: Leaves, extra: Extra
    ) -> tuple[Scalars, Weights]:
        """The scalars of this step by name, and the new weights."""
        dtype = leaves.scalar_dtype
        known = resolve(self.owner, self.hyper, count, dtype)
        t: Any = None if count is None else increment(count).astype(dtype)
        new = {k: lerp(jnp.ones((), w.dtype), w, as_scalar(known[k], w.dtype)) for k, w in weights.items()}
        for name, k in self.corrections.items():
            known[name] = as_scalar(weight_correction(new[k]), dtype) if k in new else correction(known[k], t)
        if self.scalars is None:
            return known, new
        trees = {"updates": leaves.gs, "params": leaves.ps}
        asked = {k: list(widened(x).values()) for k, x in trees.items() if k in self.parameters}
        given = extra | known | asked | ({} if t is None else {"t": t})
        for name, required in self.parameters.items():
            if required:
                needed(self.owner, name, given.get(name))
        return known | self.scalars(**pick(self.owner, self.parameters, given)), new
