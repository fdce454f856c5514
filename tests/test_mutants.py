"""`make mutants`: which slips a file can have, and which tests are asked."""

import pytest

from tests.mutants.choice import ROOT, choice_for

GRADX = ROOT / "gradx"
TEXT = '''"""Doc 1."""
@factory
@renamed(old=1)
def scale(x: float | None = 2.0) -> int | None:
    if x < 1:
        raise ValueError(f"got {x + 1}", 3)
    def rule(g):
        return jnp.maximum(g, x) * (lambda y: y - 1)(g)
    return leafwise(rule, x=zip(x, strict=True))
'''


def test_a_file_is_shown_to_its_own_tests_and_to_those_that_name_it():
    choice = choice_for(GRADX / "transforms" / "clipping.py")
    assert choice.whole[1:] == ["tests/transforms/test_clipping.py"]
    assert {"tests/test_contract.py", "tests/test_laws.py"} <= set(choice.partly)
    assert choice.words.search("test_vmaps[clip(max_delta=0.5)]")
    assert choice.words.search("tx = gx.clip_by_global_norm(1.0)")
    assert not choice.words.search("the clipped updates, jnp.clip")


def test_a_file_without_tests_of_its_own_is_shown_to_those_of_its_users():
    choice = choice_for(GRADX / "core" / "foreign.py")
    assert "tests/wrappers/test_lookahead.py" in choice.whole
    assert choice.words.search("observe_of(")


def test_slips_go_into_decorated_and_nested_functions_and_not_into_messages():
    pytest.importorskip("libcst")
    from tests.mutants.slips import slips_of

    found = slips_of(TEXT)
    lines = TEXT.split("\n")
    changed = {
        b.strip() for slip in found for a, b in zip(lines, slip.text.split("\n"), strict=True) if a != b
    }
    assert changed == {
        "def scale(x: float | None = 3.0) -> int | None:",
        "if x <= 1:",
        "if x < 2:",
        "if not (x < 1):",
        "return jnp.maximum(g, x) / (lambda y: y - 1)(g)",
        "return jnp.maximum(g, ) * (lambda y: y - 1)(g)",
        "return jnp.maximum(x) * (lambda y: y - 1)(g)",
        "return (g) * (lambda y: y - 1)(g)",
        "return (x) * (lambda y: y - 1)(g)",
        "return jnp.maximum(g, x) * (g)",
        "return jnp.maximum(g, x) * (lambda y: y + 1)(g)",
        "return jnp.maximum(g, x) * (lambda y: y - 2)(g)",
        "return leafwise(x=zip(x, strict=True))",
        "return leafwise(rule, )",
        "return leafwise(rule, x=zip(strict=True))",
    }
    assert {slip.line for slip in found} == {4, 5, 8, 9}
