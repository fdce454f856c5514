"""Docstrings for mkdocstrings: doctests become code blocks."""

import re

import griffe


class Docstrings(griffe.Extension):
    """Applied to each object as it is read."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text):
    """A doctest with its results is a block of code."""
    return re.sub(r"^>>> .*?(?=\n\n|\Z)", r"```pycon\n\g<0>\n```", text, flags=re.DOTALL | re.MULTILINE)
