"""The code blocks of README, CONTRIBUTING and docs run and print what they show, and what is named exists."""

import contextlib
import io
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import gradx
from tests import catalogue
from tests.cases import CASES

ROOT = pathlib.Path(__file__).parent.parent


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]


BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_code_blocks_run_and_print_what_they_show(name, lenient, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # some write a file
    namespace = {}
    for code, shown in BLOCK.findall((ROOT / name).read_text()):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, name, "exec"), namespace)
        assert timeless(out.getvalue()) == timeless(shown), code


def timeless(output):
    """The lines but for those of seconds, which no two runs have in common."""
    return [line.rstrip() for line in output.splitlines() if ", s " not in line]


def test_make_has_the_commands_of_the_docs():
    makefile = (ROOT / "Makefile").read_text()
    for name in PAGES:
        for target in re.findall(r"make ([a-z-]+)(?=  |`)", (ROOT / name).read_text()):
            assert f"\n{target}:" in makefile


def test_links_lead_somewhere():
    for name in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text()):
            assert ((ROOT / name).parent / target).exists(), f"{target} of {name}"


def test_the_overview_names_every_public_function():
    text = (ROOT / "docs" / "overview.md").read_text()
    functions = {n for n in dir(gradx) if callable(getattr(gradx, n)) and n[0].islower()}
    missing = {n for n in functions if f"`{n}" not in text and f"gx.{n}" not in text}
    assert missing == set()


def section(title):
    return (ROOT / "README.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_readme_s_differences_are_rows_of_their_page():
    page = (ROOT / "docs" / "coming_from_optax.md").read_text()
    rows = re.findall(r"^\| .*(?=\|$)", section("I come from Optax"), re.MULTILINE)
    assert len(rows) == 12
    assert [row for row in rows if f"\n{row}" not in page] == []


def test_the_readme_s_recipes_are_those_of_their_page():
    page = (ROOT / "docs" / "coming_from_pytorch.md").read_text()
    assert re.findall(r"<!-- recipes -->(.*?)<!-- /recipes -->", page, re.DOTALL)[0] in section(
        "I come from PyTorch"
    )


CALLS = re.findall(r"`(gx\..*?)`", section("Fix guide"))


@pytest.mark.parametrize("call", CALLS)
def test_the_calls_of_the_fix_guide_work(call, lenient):
    """Those that make a transformation take a step too."""
    params = {"w": jnp.ones((8, 1)), "b": jnp.zeros(1)}
    tx, batches = gradx.adamw(1e-3), jnp.ones((4, 16, 8))
    state = gradx.skip_if(gradx.measured(tx), gradx.nonfinite()).init(params)
    loss = lambda params, batch: jnp.mean((batch @ params["w"] + params["b"]) ** 2)
    made = eval(call, {"gx": gradx} | locals())
    if isinstance(made, gradx.GradientTransformation):
        grads = jax.grad(loss)(params, batches[0])
        updates, _ = made.update(grads, made.init(params), params, value=loss(params, batches[0]))
        assert all(jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates))


def test_the_changelog_has_this_version():
    assert f"## {gradx.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_table_of_optimizers_is_made_from_the_rows():
    """If this fails: `python -m tests.catalogue` prints the table to put into the README."""
    assert catalogue.ABOUT.keys() == {case.optimizer.__name__ for case in CASES}
    assert catalogue.table() in (ROOT / "README.md").read_text()
