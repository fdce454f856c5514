"""Which axes of a parameter number its stacked layers."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

__all__ = []


class Layer(jax.ShapeDtypeStruct):
    """What a layer of an array looks like."""


@jax.tree_util.register_static  # so that they are part of what a program is compiled for
class Axes(tuple[int, ...]):
    """The axes of a parameter that number its layers, in ascending order."""

    @property
    def first(self) -> "Axes":
        """Those of an array that has the layers in front."""
        return Axes(range(len(self)))

    def zeros(self, x: Any) -> np.ndarray:
        """One for each layer of an array."""
        return np.zeros([x.shape[axis] for axis in self])

    def layer(self, x: Any) -> Layer:
        """One of an array."""
        return Layer(tuple(n for axis, n in enumerate(x.shape) if axis not in self), x.dtype)

    def beside(self, x: Any, ndim: int) -> "Axes":
        """Those of a slot: of as many axes as its parameter, the same; of fewer or more, the first."""
        return self if x.ndim == ndim else self.first


_known: contextvars.ContextVar[dict[str, Axes] | None] = contextvars.ContextVar("layers", default=None)


@contextlib.contextmanager
def layered(known: dict[str, Axes]) -> Iterator[None]:
    """Within, the parameters at these paths are stacked; others too, if an outer one says so."""
    token = _known.set((_known.get() or {}) | known)
    try:
        yield
    finally:
        _known.reset(token)


def is_layered() -> bool:
    """Whether this is within `layered`, where a function must not use what JAX traced outside of it."""
    return _known.get() is not None
