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
    """What was reported, in order: names, of which two may be the same, values, and whether each is news."""

    names: list[str] = dataclasses.field(default_factory=list, metadata={"static": True})
    values: list[Any] = dataclasses.field(default_factory=list)
    news: list[Any] = dataclasses.field(default_factory=list)


_listener: contextvars.ContextVar[Reports | None] = contextvars.ContextVar("listener", default=None)
_part: contextvars.ContextVar[str] = contextvars.ContextVar("part", default="")


def listening() -> bool:
    """Whether reports are wanted: to be asked before something is computed for them alone."""
    return _listener.get() is not None


def report(name: str, value: Any, when: Any = True) -> None:
    """Tell a scalar to whoever listens; where `when` is False, that of the step before stays.

    A link that reports in `update` reports the same names, in the same order, in `init`, with any value.
    """
    listener = _listener.get()
    if listener is not None:
        listener.names.append(_part.get() + name)
        listener.values.append(jnp.asarray(value, jnp.float32))
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
    for name, value, news in zip(reports.names, reports.values, reports.news, strict=True):
        report(name, value, news & when)
