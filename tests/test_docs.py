"""The code blocks of README, CONTRIBUTING and docs run and print what they show, and what is named exists."""

import contextlib
import functools
import io
import pathlib
import re

import jax.numpy as jnp
import pytest

import gradx as gx
from tests import catalogue
from tests.cases import CASES

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@functools.cache
def text(name):
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", PAGES)
def test_code_blocks_run_and_print_what_they_show(name, lenient, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # some write a file
    namespace = {}
    for code, shown in BLOCK.findall(text(name)):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, name, "exec"), namespace)
        assert timeless(out.getvalue()) == timeless(shown), code


def timeless(output):
    """Lines without those of seconds, which no two runs have in common."""
    return [line.rstrip() for line in output.splitlines() if ", s " not in line]


def test_what_the_readme_recommends_can_be_called():
    """The last column of the table of symptoms."""
    table = text("README.md").split("## When training goes wrong")[1].split("\n## ")[0]
    calls = [
        call for line in table.splitlines() for call in re.findall(r"`(gx\..*?)`", line.rpartition(" | ")[2])
    ]
    assert len(calls) > 15
    params, rate = {"head": {"kernel": jnp.ones(2)}}, 0.1
    scaled = gx.dynamic_loss_scale(gx.sgd(rate)).init(params)
    given = dict(rate=rate, steps=1000, tx=gx.adam(rate), params=params, loss=jnp.array(1.0), state=scaled)
    given |= dict(loss_fn=lambda p, x: jnp.sum((p["head"]["kernel"] - x) ** 2), batches=jnp.zeros(9))
    for call in calls:
        eval(call, {"gx": gx}, given)


def test_make_has_the_commands_of_the_docs():
    for name in PAGES:
        for target in re.findall(r"make ([a-z-]+)(?=  |`)", text(name)):
            assert f"\n{target}:" in text("Makefile")


def test_links_lead_somewhere():
    for name in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text(name)):
            assert ((ROOT / name).parent / target).exists(), f"{target} of {name}"


def test_the_overview_names_every_public_function():
    page = text("docs/overview.md")
    functions = {n for n in dir(gx) if callable(getattr(gx, n)) and n[0].islower()}
    assert {n for n in functions if f"`{n}" not in page and f"gx.{n}" not in page} == set()


def test_the_changelog_has_this_version():
    assert f"## {gx.__version__}" in text("CHANGELOG.md")


def test_the_table_of_optimizers_is_made_from_the_rows():
    """If this fails: `python -m tests.catalogue` prints the table to put into the README."""
    assert catalogue.ABOUT.keys() == {case.optimizer.__name__ for case in CASES}
    assert catalogue.table() in text("README.md")


def test_the_recipes_of_the_readme_are_those_that_are_compared_with_torch():
    recipes = re.compile("<!-- recipes -->(.*)<!-- /recipes -->", re.DOTALL)
    assert recipes.findall(text("README.md")) == recipes.findall(text("docs/coming_from_pytorch.md"))
