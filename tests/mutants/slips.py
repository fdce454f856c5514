"""The slips that a file can have: one operator, number, argument or call is another.

The catalogue is mutmut's, and two of our own. mutmut itself passes over functions with a decorator, and so
over every factory; hence the walk is ours. It leaves out whatever no test should hold: annotations,
messages, names and decorators.
"""

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

QUIET = (cst.Annotation, cst.Decorator, cst.Raise, cst.Assert, cst.BaseString, cst.Import, cst.ImportFrom)
UNTOUCHED = {
    "len",
    "isinstance",
    "warn",
    "warning",
    "factory",
    "partial",
    "repr",
    "str",
    "__repr__",
    "__str__",
}


class Slip(NamedTuple):
    """The text of a file with one slip, and the line where it is."""

    line: int
    text: str


def dropped_argument(node: cst.Call) -> Iterator[cst.CSTNode]:
    """mutmut's, without those that put None there: most of them raise at once."""
    for new in mutators.operator_arg_removal(node):
        if len(new.args) < len(node.args) and not any(map(is_strict, set(node.args) - set(new.args))):
            yield new


def is_strict(node: cst.CSTNode) -> bool:
    """`strict=True` guards against slips, and is seen by no test."""
    return isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict"


def dropped_call(node: cst.Call) -> Iterator[cst.CSTNode]:
    """`f(x)` -> `x`, and a function of JAX's by each argument: `jnp.maximum(x, y)` -> `x` and `y`."""
    of_jax = isinstance(node.func, cst.Attribute) and cst.Module([]).code_for_node(node.func.value) in JAX
    if len(node.args) == 1 or of_jax:
        for arg in node.args:
            if not arg.keyword and not arg.star and not isinstance(arg.value, cst.GeneratorExp):
                yield arg.value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def negated_if(node: cst.If) -> Iterator[cst.If]:
    """`if x:` -> `if not (x):`"""
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    if not isinstance(node.test, cst.UnaryOperation):  # whose `not` mutmut drops
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))


JAX = {"jnp", "lax", "jax.lax", "jax.tree", "numerics"}
OPERATORS = [
    (cst.BaseNumber, mutators.operator_number),
    (cst.Name, mutators.operator_name),
    (cst.AugAssign, mutators.operator_augmented_assignment),
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.Call, dropped_argument),
    (cst.Call, dropped_call),
    (cst.CSTNode, mutators.operator_keywords),
    (cst.CSTNode, mutators.operator_swap_op),
    (cst.IfExp, mutators.operator_if_exp),
    (cst.If, negated_if),
]


class Walk(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        name = getattr(node, "func", getattr(node, "name", None))
        name = getattr(name, "attr", name)  # of a call, or of a definition
        if (
            isinstance(node, QUIET)
            or is_strict(node)
            or (isinstance(name, cst.Name) and name.value in UNTOUCHED)
        ):
            return False
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                line = self.get_metadata(PositionProvider, node).start.line
                self.found += [(line, node, new) for new in operator(node)]
        return True


def slips_of(text: str) -> list[Slip]:
    """All slips of a file, in the order of its lines."""
    wrapper, walk = MetadataWrapper(cst.parse_module(text)), Walk()
    wrapper.visit(walk)
    found = [Slip(line, wrapper.module.deep_replace(old, new).code) for line, old, new in walk.found]
    return sorted({slip for slip in found if slip.text != text})
