"""The text and the markup of an object that is known by its call, as one would write it."""

import html
import inspect
from typing import Any

import optax

__all__ = []  # internal: reprs, and errors that show what was given


def pieces(value: object) -> tuple[str, list[tuple[str, Any]], str] | None:
    """The text of a call or a container in pieces: its opening, its labelled contents, its closing."""
    call = getattr(value, "_call", None)
    if call is not None:
        return f"{text(call.function)}(", call.shown(), ")"
    if type(value) is dict:
        return "{", [(f"{text(k)}: ", v) for k, v in value.items()], "}"
    if type(value) is list:
        return "[", [("", x) for x in value], "]"
    if type(value) is tuple:
        return "(", [("", x) for x in value], ",)" if len(value) == 1 else ")"
    return None


def text(value: object) -> str:
    """`repr`, but a function or a type as its name, and a foreign transformation as its factory's name."""
    found = pieces(value)
    if found is not None:
        opening, inside, closing = found
        return opening + ", ".join(label + text(x) for label, x in inside) + closing
    if isinstance(value, optax.GradientTransformation):
        made_by = getattr(value[1], "__qualname__", "transformation").partition(".")[0]
        return f"{made_by}(...)"
    return repr(value) if hasattr(value, "_call") else getattr(value, "__name__", repr(value))


WIDTH = 80  # characters of a line in a notebook


def markup(value: object, indent: int = 0, label: str = "") -> str:
    """`text` as HTML: a long call has a line for each argument; the title of a name is its docstring's."""
    found = pieces(value)
    if found is None:
        return html.escape(label + text(value), quote=False)
    opening, inside, closing = found
    if (call := getattr(value, "_call", None)) is not None:
        about, _, _ = (inspect.getdoc(call.function) or "").partition("\n")
        opening = f'<b title="{html.escape(about)}">{html.escape(opening[:-1], quote=False)}</b>('
    lines = [markup(x, indent + 4, name) for name, x in inside]
    opening = html.escape(label, quote=False) + opening
    if indent + len(label) + len(text(value)) <= WIDTH or not lines:
        return opening + ", ".join(lines) + closing
    body = "".join(f"\n{' ' * (indent + 4)}{line}," for line in lines)
    return f"{opening}{body}\n{' ' * indent}{closing[-1]}"
