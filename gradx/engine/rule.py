"""A rule on one array, and one call of it."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax

from gradx.core.compilation import is_eager
from gradx.core.foreign import widened
from gradx.core.hyperparameters import as_scalar, parameters_of, pick
from gradx.engine.layers import Axes, ruled
from gradx.engine.leaf_checks import promotion, stored
from gradx.engine.small_arrays import batched
from gradx.numerics.dtypes import compute_dtype, real_dtype

__all__ = []  # internal: the engine's

Slot: TypeAlias = Any  # an array, or a small pytree of arrays
Slots: TypeAlias = dict[str, Slot]
Scalars: TypeAlias = dict[str, Any]


class Leaf(NamedTuple):
    """What a rule has of one parameter: gradient, parameter (None if not asked for), slots, stacked axes."""

    g: jax.Array
    p: jax.Array | None
    slots: Slots
    axes: Axes | None


class Result(NamedTuple):
    """What a rule gives for one parameter."""

    update: jax.Array
    slots: Slots
    reports: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A function of one array, the slots and the reports that it returns after the update, by name."""

    owner: str
    function: Callable
    slots: tuple[str, ...]
    reports: tuple[str, ...] = ()

    @functools.cached_property
    def parameters(self) -> dict[str, bool]:
        """The names that it asks for, and whether it must have each."""
        return parameters_of(self.function)

    @property
    def needs_params(self) -> bool:
        """Whether it asks for the parameter or its dtype."""
        return bool({"p", "dtype"} & self.parameters.keys())

    def scalars(self, known: Scalars, dtype: Any) -> tuple[Scalars, tuple[tuple[str, float], ...]]:
        """The scalars that it asks for, for arrays of one dtype: those that are arrays; Python numbers."""
        given = pick(self.owner, self.parameters, known | dict.fromkeys(["g", "p", "dtype", *self.slots]))
        dtype = real_dtype(compute_dtype(dtype))
        scalars = {k: as_scalar(known[k], dtype) for k in given if k in known}
        numbers = {k: x for k, x in scalars.items() if isinstance(x, float)}
        return {k: x for k, x in scalars.items() if k not in numbers}, tuple(numbers.items())

    @functools.cached_property
    def run(self) -> Callable[..., list[Result]]:
        """`(leaves, scalars, numbers) -> results` on leaves of one shape; traced once for each shape."""

        def on_leaves(leaves, scalars, numbers):
            at_leaf = functools.partial(self, scalars=scalars, numbers=numbers)
            return batched(lambda leaf: ruled(at_leaf, *leaf), leaves)

        on_leaves.__name__ = self.owner  # what a profile shows
        traced = jax.jit(on_leaves, static_argnums=2)
        # A rule of the user's may depend on more than its arguments, so outside of jit it runs each time.
        return lambda *args: [Result(*x) for x in (on_leaves if is_eager() else traced)(*args)]

    def __call__(self, g: jax.Array, p: Any, slots: Slots, scalars: Scalars, numbers: tuple) -> Any:
        arrays = widened({"g": g, "p": p} | slots)
        own = {} if p is None else {"dtype": p.dtype}
        given = pick(self.owner, self.parameters, dict(numbers) | scalars | arrays | own)
        with promotion(arrays):
            out = self.function(**given)
        u, *rest = out if isinstance(out, tuple) else (out,)
        if len(rest) != len(slots) + len(self.reports):
            names = [*self.slots, *self.reports]
            raise TypeError(f"{self.owner}: the rule must return the update and then {names}")
        kept: Iterator[Any] = zip(self.slots, rest, strict=False)
        new = {k: stored(x, slots[k], k, self.owner) for k, x in kept}
        return u, new, tuple(rest[len(slots) :])
