"""Scalars that links report as they run, for `measured`: where nobody listens, nothing is computed."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

__all__ = []  # internal: links call `report`, combinators `part`, `apart` and `pass_on`


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Reports:
    """What was reported, in order: names, whether the mean is wanted, values, and whether each is news."""

    names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    means: tuple[bool, ...] = dataclasses.field(default=(), metadata={"static": True})
    values: list[Any] = dataclasses.field(default_factory=list)
    news: list[Any] = dataclasses.field(default_factory=list)


_listener: contextvars.ContextVar[Reports | None] = contextvars.ContextVar("listener", default=None)
_part: contextvars.ContextVar[str] = contextvars.ContextVar("part", default="")


def listening() -> bool:
    """Whether reports are wanted: to be asked before something is computed for them alone."""
    return _listener.get() is not None


def report(name: str, value: Any, when: Any = True, *, mean: bool = False) -> None:
    """Tell a scalar, or one for each parameter by its path, to whoever listens.

    Where `when` is False, that of the step before stays; `mean` asks for the mean over all steps. A link that
    reports in `update` reports the same names, in the same order, in `init`, with any value.
    """
    listener = _listener.get()
    if listener is not None:
        listener.names += (_part.get() + name,)
        listener.means += (mean,)
        listener.values.append(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), value))
        listener.news.append(jnp.asarray(when, bool))


@contextlib.contextmanager
def listen() -> Iterator[Reports]:
    """Within, what is reported goes here."""
    reports = Reports()
    tokens = _listener.set(reports), _part.set("")
    try:
        yield reports
    finally:
        _listener.reset(tokens[0])
        _part.reset(tokens[1])


def unheard(function: Callable) -> Callable:
    """`function`, while nobody listens: an `init` that is asked for shapes only, or for a second time."""

    def run(*args: Any, **kwargs: Any) -> Any:
        token = _listener.set(None)
        try:
            return function(*args, **kwargs)
        finally:
            _listener.reset(token)

    return run


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Within, names start with `name/`, as those of a group do."""
    token = _part.set(f"{_part.get()}{name}/")
    try:
        yield
    finally:
        _part.reset(token)


def apart(function: Callable) -> Callable[..., tuple[Any, Reports]]:
    """`function`, returning what was reported in it too: for what JAX traces by itself.

    The body of a `cond`, a `scan` or a `make_jaxpr` cannot report to the outside. Its caller passes on what
    it returned.
    """

    def run(*args: Any, **kwargs: Any) -> tuple[Any, Reports]:
        if not listening():
            return function(*args, **kwargs), Reports()
        with listen() as reports:
            out = function(*args, **kwargs)
        return out, reports

    return run


def pass_on(reports: Reports, when: Any = True) -> None:
    """Report what `apart` returned, as news only `when`."""
    for name, mean, value, news in zip(
        reports.names, reports.means, reports.values, reports.news, strict=True
    ):
        report(name, value, news & when, mean=mean)
