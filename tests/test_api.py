"""The shape of the library: layers, exports, docstrings, the completeness of the table."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import gradx

ROOT = pathlib.Path(gradx.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py")
FACES = ("flax", "keras", "optax", "torch", "plot")  # names of other worlds, which are not names of `gradx`

# What a module imports only where it is used, and is installed as an extra.
EXTRAS = {
    "gradx.flax": {"flax"},
    "gradx.plot.canvas": {"matplotlib"},
    "gradx.states.checkpoint": {"orbax"},
    "gradx.training.writers": {"tensorboardX"},
}

# Imports point down: a module imports from its own floor or from those below it.
FLOORS = [
    ["numerics"],
    ["core", "codecs"],
    ["engine", "schedules"],
    ["selection"],
    ["transforms"],
    ["wrappers"],
    ["optimizers", "states"],
    ["training", "analysis", "low_precision", "plot"],
    ["flax", "keras", "optax", "torch"],
]


def module(path):
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


def floor(name):
    part = name.split(".")[1]
    return next(i for i, names in enumerate(FLOORS) if part in names)


def imports(path, *, top_level=False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def is_face(path):
    return module(path).split(".")[1] in FACES


def is_over_the_root(path):
    """Whether a module sees gradx as users do: `gradx` itself does not import it."""
    return module(path).startswith("gradx.optax.")


def public_names(path):
    return importlib.import_module(module(path)).__all__


each_file = pytest.mark.parametrize("path", FILES, ids=module)


@each_file
def test_imports_point_down(path):
    for name in imports(path):
        if name.startswith("gradx"):
            if name == "gradx" and is_over_the_root(path):
                continue
            assert name != "gradx", "import from the module that defines the name"
            assert floor(name) <= floor(module(path)), f"{module(path)} imports {name}, from a floor above it"


def test_no_two_modules_import_each_other():
    graph = {module(p): {name for name in imports(p) if name.startswith("gradx.")} for p in FILES}
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert free, f"a cycle among {sorted(graph)}"
        for name in free:
            del graph[name]


@each_file
def test_the_core_imports_jax_numpy_and_optax_only(path):
    allowed = {"jax", "numpy", "optax", "gradx", *sys.stdlib_module_names}
    extras = {name.split(".")[0] for name in imports(path)} - allowed
    assert extras == EXTRAS.get(module(path), set())
    assert not extras & {name.split(".")[0] for name in imports(path, top_level=True)}
    assert not [name for name in imports(path) if "._" in name], "private"


def test_the_root_holds_faces_and_folders():
    assert {p.stem for p in ROOT.glob("*.py")} - {"__init__"} <= {*FACES}


def test_every_module_is_exported():
    lines = (ROOT / "__init__.py").read_text().splitlines()
    missing = [f"from {module(p)} import *" for p in FILES if public_names(p) and not is_face(p)]
    missing = [line for line in missing if line not in lines]
    assert not missing, "add to gradx/__init__.py:\n" + "\n".join(missing)


def test_no_module_of_a_sub_package_is_a_public_name():
    """As `from gradx.schedules import *` would make them: gradx.base, gradx.run, ..."""
    deeper = {p.stem for p in ROOT.rglob("*/*.py") if not is_face(p)} - {"__init__", *FACES}
    assert not [name for name in deeper if inspect.ismodule(getattr(gradx, name, None))]


def test_every_public_name_is_reachable_and_unique():
    seen = {}
    for path in FILES:
        names = public_names(path)
        for name in [] if is_face(path) else names:
            value = getattr(importlib.import_module(module(path)), name)
            assert getattr(gradx, name) is value, f"{name}: {seen.get(name)} or {module(path)}?"
            assert name not in seen
            seen[name] = module(path)


@each_file
def test_every_public_function_and_class_is_documented(path):
    """One line, then the arguments by name, each in the docstring or referred to another's."""
    for name in public_names(path):
        value = getattr(importlib.import_module(module(path)), name)
        if getattr(value, "__module__", "").split(".")[0] != "gradx":
            continue  # a state class or a type of Optax's
        doc = inspect.getdoc(value)
        assert doc, name
        summary, *rest = doc.splitlines()
        assert len(summary) <= 105, name
        assert not rest or not rest[0], f"{name}: one line, then an empty one"
        if inspect.isfunction(value) and "Arguments:" in doc:
            for argument in inspect.signature(value).parameters:
                assert re.search(rf"\b{argument}\b", doc), f"{name}: {argument} is not explained"


@each_file
def test_every_public_function_is_annotated(path):
    for name in public_names(path):
        value = getattr(importlib.import_module(module(path)), name)
        if inspect.isfunction(value) and value.__module__.split(".")[0] == "gradx":
            signature = inspect.signature(value)
            assert signature.return_annotation is not signature.empty, name
            for parameter in signature.parameters.values():
                assert parameter.annotation is not parameter.empty, f"{name}: {parameter.name}"


@each_file
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


def test_every_optimizer_has_a_row():
    from tests.cases import CASES

    defined = set()
    for path in (ROOT / "optimizers").glob("[!_]*.py"):
        for name in public_names(path):
            value = getattr(gradx, name)
            if inspect.isfunction(value) and not name.startswith("scale_by_"):
                names = inspect.signature(value).parameters
                defined |= {name} if any("learning_rate" in n for n in names) else set()
    assert defined == {case.optimizer.__name__ for case in CASES}


def test_sub_packages_hold_a_docstring_only():
    for path in ROOT.rglob("*/__init__.py"):
        if path.parent.name in FACES:
            continue  # which are imported by name
        assert len(ast.parse(path.read_text()).body) == 1, path


def test_importing_starts_no_backend_and_adds_little():
    """No array is made at import, and gradx adds at most 0.15 s to optax."""
    program = """
import sys, time, jax, optax
sys.dont_write_bytecode = False  # the second import finds it compiled, as an installed one is
start = time.process_time()  # not by the clock: other processes have their share of that
import gradx
seconds = time.process_time() - start
gradx.adamw(gradx.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100), mask="matrices_only")
gradx.inject_hyperparams(gradx.adamw)(gradx.constant_schedule(1e-3))
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert not {"torch", "keras", "flax", "matplotlib", "orbax", "tensorboardX"} & sys.modules.keys()
print(seconds)
"""
    best = min(
        float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(3)
    )
    assert best <= 0.15
