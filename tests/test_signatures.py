"""Signatures are copied so that editors show them; a copy is as the docstring says: "as in `scale_by_adam`".

Where a default differs on purpose, the docstring names it: "as in `scale_by_adam`; eps=1e-6 by default".
"""

import ast
import inspect
import pathlib
import re

import pytest

import gradx as gx

ENTRY = re.compile(r"^  ( *)((?:\w+, )*\w+): (.*(?:\n\1    .*)*)", re.MULTILINE)
SOURCE = re.compile(r"as in `(\w+)`")
SAID = re.compile(r"((?:\w+=\S+(?: and )?)+) by default")


def functions(module):
    return {name: f for name, f in vars(module).items() if inspect.isfunction(f) and not name.startswith("_")}


def copies():
    """Each argument that a docstring says is as in another function: (function, argument, source, text)."""
    for name, f in functions(gx).items():
        parameters = inspect.signature(f).parameters
        for _, names, text in ENTRY.findall(inspect.getdoc(f) or ""):
            for source in SOURCE.findall(text):
                theirs = functions(gx).get(source)
                known = inspect.signature(theirs).parameters if theirs else {}
                shared = [x for x in names.split(", ") if x in parameters and x in known]
                yield from ((name, x, source, text) for x in shared)


COPIES = list(copies())


def test_the_docstrings_are_read():
    found = {(name, argument, source) for name, argument, source, _ in COPIES}
    assert len(found) > 130
    assert ("adamw", "eps_hat", "scale_by_adam") in found
    assert ("amsgrad", "variant", "scale_by_amsgrad") in found


@pytest.mark.parametrize(
    ("name", "argument", "source", "text"), COPIES, ids=[f"{n}-{a}-{s}" for n, a, s, _ in COPIES]
)
def test_a_copied_argument_is_as_its_source(name, argument, source, text):
    ours = inspect.signature(getattr(gx, name)).parameters[argument]
    theirs = inspect.signature(getattr(gx, source)).parameters[argument]
    can_be_left_out = ours.default is None
    assert ours.annotation in (theirs.annotation, theirs.annotation | None if can_be_left_out else ())
    said = dict(x.split("=") for each in SAID.findall(text) for x in each.split(" and "))
    if argument in said:
        assert ours.default == ast.literal_eval(said[argument])
        assert ours.default != theirs.default
    elif inspect.Parameter.empty not in (ours.default, theirs.default):
        assert ours.default == theirs.default


def owners():
    """Each text that a function of gradx hands to a check as its own name: (file, function, text)."""
    checks = {"check", "check_number", "check_schedule", "one_of", "positive_integer", "at_least"}
    for path in sorted(pathlib.Path(gx.__file__).parent.rglob("*.py")):
        for f in ast.parse(path.read_text()).body:
            for node in ast.walk(f) if isinstance(f, ast.FunctionDef) else []:
                found = None
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in checks:
                    found = node.args[0]
                elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "owner":
                    found = node.value
                if isinstance(found, ast.Constant):
                    yield path.name, f.name, found.value


def test_an_error_names_the_function_that_was_called():
    """A factory that is renamed, or made by copying another, does not speak in another's name."""
    found = list(owners())
    assert len(found) > 70
    assert [x for x in found if x[1] != x[2]] == [("keras.py", "keras_optimizer", "gradx.keras")]


WRITTEN = pathlib.Path(__file__).parent / "signatures.txt"


def written():
    """A line for each public function: its arguments, in their order, with kinds and defaults."""
    for name, f in sorted(functions(gx).items()):
        parameters = [plain(p) for p in inspect.signature(f).parameters.values()]
        yield name + str(inspect.Signature(parameters))


def plain(parameter):
    """Without its annotation, and with only the name of a default that is a function."""
    name = getattr(parameter.default, "__name__", None)
    default = type(name, (), {"__repr__": lambda _: name})() if name else parameter.default
    given = parameter.default is not inspect.Parameter.empty
    return parameter.replace(
        annotation=inspect.Parameter.empty, default=default if given else inspect.Parameter.empty
    )


def test_a_signature_is_changed_on_purpose():
    """A default is part of what users rely on. If it is to change: `python -m tests.test_signatures`."""
    assert list(written()) == WRITTEN.read_text().splitlines()


if __name__ == "__main__":
    WRITTEN.write_text("".join(f"{line}\n" for line in written()))
