"""The site's own code, and that its pages are complete; `make docs` builds it."""

import importlib.util
import inspect
import json
import pathlib
import pkgutil
import re

import pytest

import gradx

ROOT = pathlib.Path(__file__).parent.parent


def loaded(name):
    """A file of docs/, which is no package; it needs nothing of MkDocs but to be called by it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, docstrings = loaded("hooks"), loaded("docstrings")


@pytest.mark.parametrize(
    ("source", "written", "shown"),
    [
        ("README.md", "[guide](docs/guides/cost.md#the-floor)", "[guide](guides/cost.md#the-floor)"),
        ("README.md", "![curves](docs/images/demo.png)", "![curves](images/demo.png)"),
        ("README.md", "[one](notebooks/01_chains.ipynb)", "[one](notebooks/01_chains.md)"),
        ("README.md", "[the Makefile](Makefile)", "the Makefile"),
        ("README.md", "[`code`](CONTRIBUTING.md#the-rule)", "[`code`](contributing.md#the-rule)"),
        ("README.md", "[Optax](https://github.com/google-deepmind/optax)", None),
        ("README.md", "`[0](x.md)` and\n\n```python\ny[0](x.md)\n```", None),
        ("README.md", "[below](#speed)", None),
        ("docs/guides/flax.md", "[digits](../../examples/digits.py)", "[digits](../examples/digits.md)"),
        ("docs/guides/flax.md", "[states](states.md)", None),
        ("docs/cookbook.md", "[the table](../README.md#optimizers)", "[the table](index.md#optimizers)"),
        ("notebooks/04_your_own_rule.ipynb", "[rules](../docs/cookbook.md)", "[rules](../cookbook.md)"),
    ],
)
def test_links_lead_to_the_pages_of_the_site(source, written, shown):
    assert hooks.relinked(written, source) == (shown or written)


def test_an_example_is_introduced_by_its_docstring():
    page = hooks.example("fit.py", '"""Fit.\n\npython examples/fit.py\n"""\n\nimport gradx\n')
    assert page == "# fit.py\n\nFit.\n\n    python examples/fit.py\n\n\n````python\nimport gradx\n````\n"


def test_a_notebook_shows_its_outputs():
    text = {"output_type": "stream", "text": ["a\n", "b\n"]}
    table = {"data": {"text/html": ["<table></table>"], "text/plain": ["table"]}}
    picture = {"data": {"image/png": "AAAA\n", "text/plain": ["<Figure>"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# One\n", "two"]},
        {"cell_type": "code", "source": ["print(a)"], "outputs": [text, table, picture]},
    ]
    parts = hooks.notebook(json.dumps({"cells": cells})).split("\n\n")
    assert parts[:2] == ["# One\ntwo", "````python\nprint(a)\n````"]
    assert parts[2] == "```` { .text .output .no-copy }\na\nb\n````"
    assert parts[3] == '<div class="output"><table></table></div>'
    assert 'src="data:image/png;base64,AAAA"' in parts[4]


def test_every_module_with_public_names_is_on_a_page_of_the_api():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    listed = re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)
    found = [m.name for m in pkgutil.walk_packages(gradx.__path__, "gradx.") if not m.ispkg]
    defining = [name for name in found if hooks.names(name)]
    assert sorted(listed) == sorted(defining)


def test_a_module_becomes_its_public_names():
    first, *_ = hooks.documented("gradx.analysis.cost").split("\n\n")
    assert first == "::: gradx.cost\n    options: { heading: gradx.cost, toc_label: cost }"


def test_names_in_tables_lead_to_the_api():
    text = "`sgd` is left\n| `sgd`, `cost` | [`adamw`](x.md), `gx.sgd`, `Any` |"
    expected = text.replace("| `sgd`, `cost`", "| [`sgd`][gradx.sgd], [`cost`][gradx.cost]")
    assert hooks.referred(text, ["gradx.optimizers.sgd", "gradx.analysis.cost"]) == expected


def test_a_docstring_becomes_markdown():
    text = """Scale.

        u = a * g

    Arguments:
      a, b: numbers; with more
        than a line.
      mode: "x": one.

    Raises ValueError.

    >>> f(1)
    2
    """
    expected = """Scale.

        u = a * g

    **Arguments**

    - **`a`**, **`b`** – numbers; with more
        than a line.
    - **`mode`** – "x": one.

    Raises ValueError.

    ```pycon
    >>> f(1)
    2
    ```"""
    assert docstrings.markdown(inspect.cleandoc(text)) == inspect.cleandoc(expected)


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])
    pages = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")]
    files = [
        path.relative_to(ROOT).as_posix()
        for f in ("examples/*.py", "notebooks/*.ipynb")
        for path in ROOT.glob(f)
    ]
    assert sorted(listed) == sorted([*hooks.PAGES.values(), *map(hooks.page_of, [*pages, *files])])
