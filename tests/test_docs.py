"""The code blocks of README, CONTRIBUTING and docs run, top to bottom, and what they name exists."""

import pathlib
import re

import pytest

import gradx
from tests import catalogue
from tests.cases import CASES

ROOT = pathlib.Path(__file__).parent.parent


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_code_blocks_run(name, lenient, monkeypatch, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)  # some write a file
    namespace = {}
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)


def test_make_has_the_commands_of_the_docs():
    makefile = (ROOT / "Makefile").read_text()
    for name in PAGES:
        for target in re.findall(r"make ([a-z-]+)(?=  |`)", (ROOT / name).read_text()):
            assert f"\n{target}:" in makefile


def test_links_lead_somewhere():
    for name in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text()):
            assert ((ROOT / name).parent / target).exists(), f"{target} of {name}"


def test_the_readme_names_every_public_function():
    text = (ROOT / "README.md").read_text()
    functions = {n for n in dir(gradx) if callable(getattr(gradx, n)) and n[0].islower()}
    missing = {n for n in functions if f"`{n}" not in text and f"gx.{n}" not in text}
    assert missing == {"global_norm"}


def test_the_changelog_has_this_version():
    assert f"## {gradx.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_table_of_optimizers_is_made_from_the_rows():
    """If this fails: `python -m tests.catalogue` prints the table to put into the README."""
    assert catalogue.ABOUT.keys() == {case.optimizer.__name__ for case in CASES}
    assert catalogue.table() in (ROOT / "README.md").read_text()
