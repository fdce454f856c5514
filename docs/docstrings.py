"""Docstrings for mkdocstrings: plain text in the house style, made Markdown."""

import re

try:
    from griffe import Extension
except ImportError:  # what follows is tested without it
    Extension = object


class Docstrings(Extension):
    """Applied to each object as it is read."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text):
    """Doctests as blocks of code, arguments as a list; the rest is Markdown as it is."""
    text = re.sub(r"^>>> .*?(?=\n\n|\Z)", r"```pycon\n\g<0>\n```", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^Arguments:\n((?:  .*(?:\n|\Z))+)", arguments, text, flags=re.MULTILINE)


def arguments(match):
    """`  b1, b2: what they are` as an item of a list."""
    item = lambda name: f"- **`{name[1].replace(', ', '`**, **`')}`** – "
    return "**Arguments**\n\n" + re.sub(r"^  ([^\s:][^:]*): +", item, match[1], flags=re.MULTILINE)
