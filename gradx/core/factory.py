"""Objects that are known by the call that made them.

An optimizer is made of closures, and closures compare by identity: two equal optimizers would
compile twice, and neither could be printed or pickled. The result of a function decorated with
`@factory` remembers the call instead, and compares, hashes, prints and pickles by it.
"""

import dataclasses
import enum
import functools
import inspect
import re
import types
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradx.core.blame import ArgumentError
from gradx.core.display import markup, text
from gradx.core.renaming import with_new_names

__all__ = ["factory"]


class Purity(enum.IntEnum):
    """Whether an object is known to call no function of the user's, which must run each time as written."""

    UNKNOWN = 0
    DERIVED = 1  # it calls none, but a user's factory made it: two that compare equal may differ
    KNOWN = 2  # it calls none, and equal objects do the same


class Call:
    """A function, its signature, the arguments of a call, and the result."""

    def __init__(
        self,
        function: Callable,
        signature: inspect.Signature,
        args: tuple,
        kwargs: dict[str, Any],
        returned: object = None,
    ) -> None:
        self.function = function
        self.signature = signature
        self.args = args
        self.kwargs = kwargs
        self.returned = returned

    @functools.cached_property
    def bound(self) -> inspect.BoundArguments:
        """The arguments by name, with defaults filled in; when asked for, since binding takes its time."""
        bound = self.signature.bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        return bound

    @functools.cached_property
    def purity(self) -> Purity:
        """The purity of the arguments, for a function of gradx's; at most DERIVED for a user's function."""
        if not getattr(self.returned, "compiles", True):
            return Purity.UNKNOWN
        if purity_of(self.function) is Purity.KNOWN:
            return purity_of(dict(self.bound.arguments))
        return min(Purity.DERIVED, purity_of(self.returned))

    @functools.cached_property
    def key(self) -> Hashable:
        """Equal for equal calls, and hashable whatever the arguments are."""
        return self.function, hashable(dict(self.bound.arguments))

    @functools.cached_property
    def hash(self) -> int:
        return hash(self.key)  # kept: a jitted step asks for it at every call

    def shown(self) -> list[tuple[str, Any]]:
        """The arguments as one would write them, as pairs ('name=' or '', value), without defaults."""
        shown = []
        for name, value in self.bound.arguments.items():
            parameter = self.bound.signature.parameters[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                shown += [("", x) for x in value]
            elif parameter.kind is parameter.VAR_KEYWORD:
                shown += [(f"{k}=", v) for k, v in value.items()]
            elif parameter.default is parameter.empty:
                shown.append(("", value))
            elif hashable(value) != hashable(parameter.default):
                shown.append((f"{name}=", value))
        return shown


class Made:
    """Mixin: equality, hash, repr, copy and pickle by the call that made the object."""

    _call: Call | None = None  # None: made by hand, and so compared by identity

    @property
    def purity(self) -> Purity:
        """Whether it may call functions of the user's; unknown if it was made by hand."""
        return Purity.UNKNOWN if self._call is None else self._call.purity

    def __eq__(self, other: object) -> bool:
        theirs = getattr(other, "_call", None)
        if self._call is None and theirs is None:
            return super().__eq__(other)
        if self._call is None or not isinstance(theirs, Call):
            return False
        return self is other or self._call.key == theirs.key

    def __ne__(self, other: object) -> bool:  # tuple brings its own, which would not ask __eq__
        equal = self == other
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        return super().__hash__() if self._call is None else self._call.hash

    def __repr__(self) -> str:
        return super().__repr__() if self._call is None else text(self)

    def _repr_html_(self) -> str | None:  # in a notebook
        return None if self._call is None else f"<pre>{markup(self)}</pre>"

    def _copy(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __copy__(self) -> Self:
        return self._copy()

    def __deepcopy__(self, memo: dict) -> Self:
        """As shallow: nothing in it changes, and a method of a copied object would be another function."""
        return self._copy()

    def __reduce__(self) -> Any:
        if self._call is None:
            return super().__reduce__()
        return rebuild, (self._call.function, self._call.bound.args, self._call.bound.kwargs)


P = ParamSpec("P")
T = TypeVar("T", bound=Made)


def factory(function: Callable[P, T]) -> Callable[P, T]:
    """Make the results of `function` compare, hash, print and pickle by the call.

    `function` returns a gradx transformation or schedule; TypeError if it does not. Define it at the top
    level of a module if its results are to be pickled.

    >>> import gradx
    >>> @gradx.factory
    ... def clipped_sgd(learning_rate, max_norm=1.0):
    ...     return gradx.chain(gradx.clip_by_global_norm(max_norm), gradx.sgd(learning_rate))
    >>> clipped_sgd(0.1)
    clipped_sgd(0.1)
    >>> clipped_sgd(0.1) == clipped_sgd(learning_rate=0.1, max_norm=1.0)
    True
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> T:
        given: Any = owned(args), owned(with_new_names(function, kwargs))
        args, kwargs = given
        try:
            made = function(*args, **kwargs)
        except ArgumentError as e:
            # The caller knows this factory and its argument, not the link inside that refused the value.
            raise e.passed_by(make.__name__, signature.bind(*args, **kwargs).arguments) from None
        if not isinstance(made, Made):
            raise TypeError(f"{text(make)} returned {made!r}: wrap a foreign transformation in gradx.chain")
        return known_by(made, Call(make, signature, args, kwargs, made))

    return make


NEVER_OWNED = (int, float, str, type(None), Made)  # most arguments, told at once
COPIED = (np.ndarray, set)


def owned(x: Any) -> Any:
    """Copies of containers and NumPy arrays: the caller may change a list later, and the object must not."""
    if isinstance(x, NEVER_OWNED):
        return x
    if type(x) in (list, tuple):
        return type(x)([owned(item) for item in x])
    if type(x) is dict:
        return {k: owned(v) for k, v in x.items()}
    return x.copy() if isinstance(x, COPIED) else x


def known_by(made: T, call: Call) -> T:
    """A copy of `made` that remembers this call: a factory may return an object that it was given."""
    copy = made._copy()
    copy._call = call
    return copy


def is_bool(x: Any) -> bool:
    """A truth value that is known: Python's, NumPy's, or an array of JAX's or NumPy's without axes."""
    is_array = isinstance(x, np.ndarray | jax.Array) and not isinstance(x, Tracer)
    return isinstance(x, bool | np.bool_) or (is_array and x.shape == () and x.dtype == np.bool_)


def rebuild(function: Callable, args: tuple, kwargs: dict) -> Any:
    """Call again, for pickle and copy."""
    return function(*args, **kwargs)


def hashable(value: object) -> Hashable:
    """A hashable stand-in: numbers by value, arrays by content, trees leaf by leaf, the rest by `==`."""
    is_leaf = lambda x: x is None or isinstance(x, Made) or type(x) is dict  # whose keys JAX would sort
    leaves, treedef = jax.tree.flatten(value, is_leaf=is_leaf)
    return treedef, tuple(map(hashable_leaf, leaves))


def hashable_leaf(x: object) -> Hashable:
    if type(x) in (int, float):
        return x  # 1 and 1.0 mean the same; True does not, nor does a NumPy scalar, which has a dtype
    if type(x) is dict:
        return dict, frozenset((k, hashable(v)) for k, v in x.items())
    if isinstance(x, set):
        return frozenset(x)
    if isinstance(x, np.ndarray | np.generic | jax.Array) and not isinstance(x, Tracer):
        content: Any = x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            content = jax.random.key_data(content)
        array = np.asarray(content)
        return type(x), array.shape, x.dtype, array.tobytes()
    try:
        hash(x)
    except TypeError:
        return ById(x)
    return type(x), x


PLAIN = (int, float, complex, bool, str, bytes, type(None), type(...), np.dtype, re.Pattern)
LIBRARIES = {"builtins", "gradx", "jax", "ml_dtypes", "numpy"}


def purity_of(value: object) -> Purity:
    """KNOWN for plain values, and functions and objects of gradx that hold nothing else."""
    if isinstance(value, Made):
        return value.purity
    if isinstance(value, functools.partial):
        return purity_of((value.func, value.args, value.keywords))
    if isinstance(value, PLAIN) and (type(value).__module__ or "").partition(".")[0] in LIBRARIES | {"re"}:
        return Purity.KNOWN
    if isinstance(value, np.ndarray | np.generic):
        return Purity.KNOWN
    if isinstance(value, jax.Array):  # compared by its content, which would have to be fetched at each step
        return Purity(2 * jnp.issubdtype(value.dtype, jax.dtypes.prng_key))
    if isinstance(value, type | types.FunctionType):
        is_local = "<locals>" in value.__qualname__
        is_ours = (value.__module__ or "").partition(".")[0] in LIBRARIES
        return Purity.KNOWN if is_ours and not is_local else Purity.UNKNOWN
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("gradx."):
        return purity_of([getattr(value, field.name) for field in dataclasses.fields(value)])
    inside = list(value) if isinstance(value, set | frozenset) else jax.tree.leaves(value, is_leaf=is_made)
    if len(inside) == 1 and inside[0] is value:
        return Purity.UNKNOWN
    return min(map(purity_of, inside), default=Purity.KNOWN)


def is_made(x: object) -> bool:
    return isinstance(x, Made)


class ById:
    """Stands for an object that cannot be hashed, a tracer for one: equal to itself only."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
