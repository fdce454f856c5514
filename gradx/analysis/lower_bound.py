"""The fewest bytes that a program can move, from its jaxpr, to compare a compiler's result with.

A program is a sequence of passes over memory. A pass fuses all elementwise operations: it reads every array
once, and stores no value in between. Operations that need the result of a reduction wait for the next pass,
which reads arrays once more, inputs or outputs of an earlier pass. A value in between is computed again, or
stored where that moves fewer bytes. Calls are inlined; loops, conditionals and kernels are
opaque: their operands are read, their results written.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxprs_in_params

__all__ = []  # internal: `cost` reports it

CALLS = {"jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
REDUCTIONS = {f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or", "xor")}
REDUCTIONS |= {"argmax", "argmin"}
# Each of their results needs more than the elements at its place, and may be as large as the operands.
GLOBAL = {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "top_k", "fft", "cholesky", "lu"}
GLOBAL |= {"dot_general", "ragged_dot_general", "conv_general_dilated", "geqrf", "qr", "householder_product"}
GLOBAL |= {"eig", "eigh", "svd", "schur", "triangular_solve", "tridiagonal_solve", "ffi_call"}


def floor_bytes(program: ClosedJaxpr, donated: int) -> int:
    """The bytes read and written by a program that may write outputs over its first `donated` inputs."""
    graph = Graph(program.jaxpr, donated)
    early = starts(graph)
    return min(Passes(graph, begin).traffic() for begin in (early, late(graph, early)))


@dataclasses.dataclass(frozen=True)
class Op:
    """An operation on numbered values; one that `collects` has its results when its pass has ended."""

    operands: list[int]
    results: list[int]
    collects: bool


class Graph:
    """A jaxpr with its calls inlined: values by number, and the operations that outputs need, in order."""

    def __init__(self, jaxpr: Jaxpr, donated: int) -> None:
        self.bytes: list[int] = []
        self.sizes: list[int] = []
        self.producers: list[Op | None] = []  # None: an input
        inputs = [self.value(v.aval) for v in [*jaxpr.constvars, *jaxpr.invars]]
        ops: list[Op] = []
        outputs = self.inlined(jaxpr, inputs, ops)
        first = len(jaxpr.constvars)
        self.outputs = set(outputs) - set(inputs[first : first + donated])  # returning one costs nothing
        self.ops = list(needed(ops, self.outputs))[::-1]

    def value(self, aval: Any, producer: Op | None = None) -> int:
        self.sizes.append(aval.size)
        in_registers = producer is not None and aval.size == 1
        self.bytes.append(0 if in_registers else aval.size * aval.dtype.itemsize)
        self.producers.append(producer)
        return len(self.bytes) - 1

    def inlined(self, jaxpr: Jaxpr, arguments: list[int], ops: list[Op]) -> list[int]:
        """Add the operations of a jaxpr; return the values of its outputs."""
        env: dict[Any, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))
        number = lambda x: self.value(x.aval) if isinstance(x, Literal) else env[x]
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "optimization_barrier":
                results = [number(x) for x in eqn.invars]
            elif eqn.primitive.name in CALLS:
                inner = next(iter(jaxprs_in_params(eqn.params)))
                constants = [self.value(v.aval) for v in inner.constvars]
                results = self.inlined(inner, constants + [number(x) for x in eqn.invars], ops)
            else:
                op = Op([env[x] for x in eqn.invars if not isinstance(x, Literal)], [], collects(eqn))
                ops.append(op)
                results = [self.value(v.aval, op) for v in eqn.outvars]
                op.results.extend(results)
            env.update(zip(eqn.outvars, results, strict=True))
        return [number(x) for x in jaxpr.outvars]


FEW = 4  # numbers that a kernel holds in registers, such as the words that salt random bits


def collects(eqn: Any) -> bool:
    """Whether a result needs whole operands; never over scalars and axes of length 1."""
    name = eqn.primitive.name
    if name in REDUCTIONS:
        return max(eqn.outvars[0].aval.size, FEW) < eqn.invars[0].aval.size
    if name in GLOBAL or next(iter(jaxprs_in_params(eqn.params)), None) is not None:
        return any(x.aval.size > 1 for x in eqn.invars)
    return False


def needed(ops: list[Op], outputs: set[int]) -> Iterator[Op]:
    """The operations that outputs depend on, from the last to the first."""
    values = set(outputs)
    for op in reversed(ops):
        if not values.isdisjoint(op.results):
            values.update(op.operands)
            yield op


def starts(graph: Graph) -> list[int]:
    """The pass of each operation, if each runs as soon as it can."""
    ready, begin = [0] * len(graph.bytes), []
    for op in graph.ops:
        begin.append(max((ready[v] for v in op.operands), default=0))
        for v in op.results:
            ready[v] = begin[-1] + op.collects
    return begin


def late(graph: Graph, begin: list[int]) -> list[int]:
    """The pass of each operation, if collecting ones run as late as they can without delaying an output.

    So the norm of the parameters is taken where the parameters are read anyway.
    """
    last = max(begin, default=0) + 1
    due, begin = [last] * len(graph.bytes), list(begin)
    for op, start in zip(graph.ops, begin, strict=True):
        for v in graph.outputs.intersection(op.results):
            due[v] = start + op.collects
    for i, op in reversed(list(enumerate(graph.ops))):
        begin[i] = min(due[v] for v in op.results) - op.collects
        for v in op.operands:
            due[v] = min(due[v], begin[i])
    return begin


class Passes:
    """The passes of a program whose collecting operations run in the passes `begin`."""

    def __init__(self, graph: Graph, begin: list[int]) -> None:
        self.graph = graph
        self.ready = [0] * len(graph.bytes)  # the pass from which a value can be had
        self.wanted: dict[int, list[int]] = defaultdict(list)  # the values that a pass has to compute
        self.stored = {v for v, producer in enumerate(graph.producers) if producer is None}
        for op, start in zip(graph.ops, begin, strict=True):
            first = start if op.collects else max((self.ready[v] for v in op.operands), default=0)
            for v in op.results:
                self.ready[v] = first + op.collects
            if op.collects:
                self.wanted[start] += op.operands
                self.stored.update(op.results)
        for v in graph.outputs:
            if v not in self.stored or graph.producers[v] is None:
                self.wanted[self.ready[v]].append(v)

    def traffic(self) -> int:
        """The bytes that the passes read and write."""
        computed = {v for v in self.stored if self.graph.producers[v] is not None}
        total = sum(self.graph.bytes[v] for v in computed | self.graph.outputs)
        earlier: set[int] = set()
        for k in sorted(self.wanted):
            moved, seen = self.run(k, earlier)
            total += moved
            earlier |= seen
        return total

    def run(self, k: int, earlier: set[int]) -> tuple[int, set[int]]:
        """The bytes that pass `k` moves, without outputs and collected results; the values that it visits.

        A value that an `earlier` pass visited is computed again, or was stored then and is read now.
        """
        size, producers = self.graph.bytes, self.graph.producers
        moved, seen, stack = 0, set(), list(self.wanted[k])
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            if self.held(v, k):
                moved += size[v]
            elif v in earlier and self.ready[v] < k and self.graph.sizes[v] > 1:
                behind, scalars = self.behind(v, k, seen)
                again = sum(size[u] for u in behind if self.held(u, k))
                moved += min(again, 2 * size[v])
                if again > 2 * size[v]:
                    self.stored.add(v)
                else:
                    seen |= behind
                stack += scalars
            else:
                stack += operands(producers[v])
        return moved, seen

    def held(self, v: int, k: int) -> bool:
        """Whether a value is in memory when pass `k` begins."""
        return v in self.stored or (v in self.graph.outputs and self.ready[v] < k)

    def behind(self, v: int, k: int, seen: set[int]) -> tuple[set[int], list[int]]:
        """The arrays not yet `seen` in pass `k` that a value is computed from, and the scalars."""
        found, scalars, stack = set(), [], list(operands(self.graph.producers[v]))
        while stack:
            u = stack.pop()
            if self.graph.sizes[u] <= 1:
                scalars.append(u)  # all leaves share them, and following them from each leaf would take long
            elif u not in seen and u not in found:
                found.add(u)
                if not self.held(u, k):
                    stack += operands(self.graph.producers[u])
        return found, scalars


def operands(producer: Op | None) -> list[int]:
    return producer.operands if producer else []
