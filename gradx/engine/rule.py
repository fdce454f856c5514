"""A rule on one array, and one call of it."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import jax
from jax.typing import DTypeLike

from gradx.core.compilation import is_eager
from gradx.core.foreign import widened
from gradx.core.hyperparameters import Scalar, as_scalar, parameters_of, pick
from gradx.engine.layers import Axes, ruled
from gradx.engine.leaf_checks import Slot, promotion, slot_like
from gradx.engine.small_arrays import batched
from gradx.numerics.dtypes import compute_dtype, real_dtype

__all__ = []  # internal: the engine's

Slots: TypeAlias = dict[str, Slot]
Scalars: TypeAlias = dict[str, Scalar]
Numbers: TypeAlias = tuple[tuple[str, float], ...]  # Python numbers by name, hashable


class Inputs(NamedTuple):
    """The arrays of one parameter: gradient, parameter (None if not asked for), slots; its stacked axes."""

    g: jax.Array
    p: jax.Array | None
    slots: Slots
    axes: Axes | None


class Result(NamedTuple):
    """The update, the new slots and the reports of one parameter."""

    update: jax.Array
    slots: Slots
    reports: tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A function of one array, and the names of the slots and reports that it returns after the update."""

    owner: str
    function: Callable
    slots: tuple[str, ...]
    reports: tuple[str, ...] = ()

    @functools.cached_property
    def parameters(self) -> dict[str, bool]:
        """The parameters of the function by name, and whether each must be given."""
        return parameters_of(self.function)

    @property
    def needs_params(self) -> bool:
        """Whether it asks for the parameter or its dtype."""
        return bool({"p", "dtype"} & self.parameters.keys())

    def scalars(self, known: Scalars, dtype: DTypeLike) -> tuple[Scalars, Numbers]:
        """The scalars that it asks for, in the dtype for these arrays: first arrays, then Python numbers."""
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

        on_leaves.__name__ = self.owner  # the name in a profile
        traced = jax.jit(on_leaves, static_argnums=2)
        # A user's rule may depend on more than its arguments, so outside of jit it runs each time.
        return lambda *args: [Result(*x) for x in (on_leaves if is_eager() else traced)(*args)]

    def __call__(
        self, g: jax.Array, p: jax.Array | None, slots: Slots, scalars: Scalars, numbers: Numbers
    ) -> tuple[jax.Array, Slots, tuple]:
        arrays = widened({"g": g, "p": p} | slots)
        own = {} if p is None else {"dtype": p.dtype}
        given = pick(self.owner, self.parameters, dict(numbers) | scalars | arrays | own)
        with promotion(arrays):
            out = self.function(**given)
        u, *rest = out if isinstance(out, tuple) else (out,)
        if len(rest) != len(slots) + len(self.reports):
            names = [*self.slots, *self.reports]
            raise TypeError(f"{self.owner}: the rule must return the update and then {names}")
        kept: Iterator[tuple[str, Slot]] = zip(self.slots, rest, strict=False)
        new = {k: slot_like(x, slots[k], k, self.owner) for k, x in kept}
        return u, new, tuple(rest[len(slots) :])
