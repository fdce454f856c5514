"""Outside of `jax.jit`, an update that calls no function of the user's compiles itself.

A notebook makes many optimizers that are equal or differ in numbers only. Compiling takes a hundred times as
long as tracing, so they share compiled code: the numbers of a traced update are taken out of its jaxpr and
become arguments. The rest is a `Program`. It compares by its structure, and JAX compiles once for each.

A number keeps the digits that it has as a constant, since Python does its arithmetic before the trace.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeAlias
from typing import Literal as OneOf

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, get_opaque_trace_state
from jax.sharding import Sharding

from gradx.core.factory import ById, Made, Purity
from gradx.core.tree import Leaf, State, Tree, Treedef

__all__ = []  # internal: a transformation's `update` and the links of a chain

TOP_LEVEL = get_opaque_trace_state()  # outside of jit, grad, vmap and the like, as when this is imported
Atom: TypeAlias = Var | Literal
Which: TypeAlias = OneOf["update", "observe"]  # the functions of a transformation that are compiled


def is_eager() -> bool:
    """Whether operations run as they are called, one by one."""
    return get_opaque_trace_state() == TOP_LEVEL


def call(
    tx: Made,
    which: Which,
    updates: Tree,
    state: State,
    params: Tree | None = None,
    **extra: Any,
) -> Any:
    """`tx.update` or `tx.observe`, compiled where that is allowed and useful; elsewhere called directly."""
    if is_eager() and tx.purity is not Purity.UNKNOWN and not is_jit_disabled():
        leaves, treedef = jax.tree.flatten((updates, state, params, extra))
        others = tuple(None if is_array(x) else x for x in leaves)
        # An extra argument may be a function of the user's. A function among the parameters is never called.
        if is_hashable(others) and all(map(is_array, jax.tree.leaves(extra))):
            found = traced(tx, which, leaves, treedef, others)
            arrays = [x for x in leaves if is_array(x)]
            return found.treedef.unflatten(run(found.program, found.numbers, arrays))
    return written(tx, which)(updates, state, params, **extra)


def is_jit_disabled() -> bool:
    return getattr(jax.config, "jax_disable_jit")  # noqa: B009  (set by name, unknown to a type checker)


def is_array(x: Any) -> bool:
    """Whether a leaf can be an argument of a program."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind not in "OSUMm"
    return isinstance(x, jax.Array | int | float | complex)


def written(tx: Any, which: Which) -> Callable:
    return tx[1] if which == "update" else tx.observe


def is_hashable(x: object) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True


class Found(NamedTuple):
    """A program, its numbers on the device, and the structure of its result."""

    program: "Program"
    numbers: "Numbers"
    treedef: Treedef


def traced(tx: Made, which: Which, leaves: list[Leaf], treedef: Treedef, others: tuple) -> Found:
    """The program of an update, traced once for equal transformations and arguments of one kind."""
    known = traces(tx if tx.purity is Purity.KNOWN else ById(tx), which)  # a user's equal ones may differ
    arrays = [x for x in leaves if is_array(x)]
    types = tuple(x.aval if isinstance(x, jax.Array) else jax.typeof(x) for x in arrays)
    kind = jax_context(), treedef, others, types
    if kind not in known:

        def function(arrays):
            given = iter(arrays)
            both = [next(given) if is_array(x) else x for x in leaves]
            updates, state, params, extra = treedef.unflatten(both)
            return written(tx, which)(updates, state, params, **extra)

        jaxpr, out = jax.make_jaxpr(function, return_shape=True)(arrays)
        program, numbers = without_numbers(jaxpr)
        known[kind] = Found(shared(program), jax.tree.map(jnp.asarray, numbers), jax.tree.structure(out))
    return known[kind]


@functools.lru_cache(maxsize=256)
def traces(tx: Hashable, which: Which) -> dict[Hashable, Found]:
    """The programs of one transformation, by the kind of their arguments."""
    return {}


@jax.tree_util.register_static
class Context:
    """Stands for all that a trace depends on besides its arguments: JAX makes one for each such context."""


@jax.jit
def jax_context() -> Context:
    return Context()


class Numbers(NamedTuple):
    """The numbers and constant arrays of a program, and the `Numbers` of each program in it."""

    own: list[Leaf]
    nested: list["Numbers"]


# The position of an equation that holds programs -> the positions of these in `programs`.
Nested: TypeAlias = dict[int, tuple[int, ...]]


class Program:
    """A jaxpr without its numbers. Two with the same equations are equal."""

    def __init__(self, jaxpr: Jaxpr, nested: "Nested", programs: list["Program"]) -> None:
        self.jaxpr = jaxpr
        self.nested = nested
        self.programs = programs
        self.key = signature(jaxpr, nested), tuple(p.key for p in programs)
        self.hash = hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self.key == other.key)

    def __hash__(self) -> int:
        return self.hash


@functools.lru_cache(maxsize=1024)
def shared(program: Program) -> Program:
    """The first program that is equal: compared with itself it is equal at once, and kept only once."""
    return program


def without_numbers(closed: ClosedJaxpr) -> tuple[Program, Numbers]:
    """A program, and the numbers that were taken out of it."""
    place: dict[int, int] = {}  # one program for all leaves of a shape, which share a jaxpr
    nested: Nested = {}
    programs, numbers = [], []
    for i, eqn in enumerate(closed.jaxpr.eqns):
        inside = branches(eqn)
        for jaxpr in inside:
            if id(jaxpr) not in place:
                place[id(jaxpr)] = len(programs)
                program, its_numbers = without_numbers(jaxpr)
                programs.append(shared(program))
                numbers.append(its_numbers)
        if inside:
            nested[i] = tuple(place[id(jaxpr)] for jaxpr in inside)
    own = [np.asarray(x.val, x.aval.dtype) for x in literals(closed.jaxpr)]
    return Program(closed.jaxpr, nested, programs), Numbers([*closed.consts, *own], numbers)


def branches(eqn: JaxprEqn) -> tuple[ClosedJaxpr, ...]:
    """The programs in an equation whose numbers can be taken out as well."""
    if is_plain_jit(eqn):
        return (eqn.params["jaxpr"],)
    if eqn.primitive.name == "custom_jvp_call":
        return (eqn.params["call_jaxpr"],)  # nothing is differentiated outside of a trace
    return tuple(eqn.params["branches"]) if eqn.primitive.name == "cond" else ()


def is_plain_jit(eqn: JaxprEqn) -> bool:
    """Whether an equation is a nested jit that sets no shardings."""
    if eqn.primitive.name != "jit":
        return False
    places = [*eqn.params["in_shardings"], *eqn.params["out_shardings"]]
    return not any(isinstance(x, Sharding) for x in places)


def is_number(x: Atom) -> bool:
    aval: Any = x.aval
    return isinstance(x, Literal) and aval.shape == () and jnp.issubdtype(aval.dtype, jnp.inexact)


def literals(jaxpr: Jaxpr) -> list[Any]:
    """The floating-point constants of a program, in order: first in its equations, then in its results."""
    used = [x for eqn in jaxpr.eqns for x in eqn.invars]
    return [x for x in [*used, *jaxpr.outvars] if is_number(x)]


def signature(jaxpr: Jaxpr, nested: Nested | None = None) -> Hashable:
    """All of a program but the names of its variables; without its numbers too, if `nested` is given."""
    place = {x: i for i, x in enumerate([*jaxpr.constvars, *jaxpr.invars])}
    types = tuple(x.aval for x in place)

    def shown(x: Atom) -> Hashable:
        if not isinstance(x, Literal):
            return place[x]
        is_out = nested is not None and is_number(x)
        return str(x.aval), None if is_out else np.asarray(x.val).tobytes()

    equations = []
    for i, eqn in enumerate(jaxpr.eqns):
        given = tuple(map(shown, eqn.invars))
        place |= {x: len(place) + k for k, x in enumerate(eqn.outvars)}
        inside = nested.get(i) if nested is not None else None
        params = constant(eqn.params) if inside is None else inside
        equations.append((eqn.primitive.name, given, params, tuple(x.aval for x in eqn.outvars)))
    return types, tuple(equations), tuple(map(shown, jaxpr.outvars))


def constant(x: object) -> Hashable:
    """A parameter of an equation in a form that compares by value; a last resort compares by identity."""
    if isinstance(x, ClosedJaxpr):
        return signature(x.jaxpr), tuple(map(constant, x.consts))
    if isinstance(x, Jaxpr):
        return signature(x)
    if isinstance(x, dict):
        return tuple((k, constant(v)) for k, v in sorted(x.items()))
    if isinstance(x, tuple | list):
        return tuple(map(constant, x))
    return x if is_hashable(x) else ById(x)


def evaluate(program: Program, numbers: Numbers, arguments: list[jax.Array]) -> list[jax.Array]:
    """The results of a program with its numbers."""
    jaxpr = program.jaxpr
    own = iter(numbers.own)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    constants = [next(own) for _ in jaxpr.constvars]
    env: dict[Var, jax.Array] = dict(zip(inputs, [*constants, *arguments], strict=True))

    def value(x: Atom) -> Any:
        if not isinstance(x, Literal):
            return env[x]
        return next(own) if is_number(x) else x.val

    for i, eqn in enumerate(jaxpr.eqns):
        given = list(map(value, eqn.invars))
        inside = [(program.programs[k], numbers.nested[k]) for k in program.nested.get(i, ())]
        if not inside:
            out = results(eqn, given)
        elif eqn.primitive.name == "cond":
            out = lax.switch(given[0], [functools.partial(evaluate, *one) for one in inside], given[1:])
        else:
            out = run(*inside[0], given)
        env.update(zip(eqn.outvars, out, strict=True))
    return list(map(value, jaxpr.outvars))


def results(eqn: JaxprEqn, arguments: list[jax.Array]) -> list[jax.Array]:
    """The results of one equation."""
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*arguments, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


run = jax.jit(evaluate, static_argnums=0)
