"""Whose each name of `gradx.optax` is, that none of Optax's is missing, and that all are called alike."""

import importlib
import inspect
import pathlib
import subprocess
import sys
import types
import warnings

import jax.numpy as jnp
import optax
import pytest

import gradx
import gradx.optax as face

MODULES = ["", ".schedules", ".transforms"]
CLIENTS = pathlib.Path(__file__).with_name("client_names.tsv")

# Optax's own: helpers beside optimizers, and what is another thing in gradx.
THEIRS = {
    "apply_every", "bias_correction", "flatten", "incremental_update", "init_empty_state",
    "inject_stateful_hyperparams", "lookahead", "matrix_inverse_pth_root", "measure_with_ema",
    "microbatch", "monitor", "multi_normal", "nnls", "per_example_global_norm_clip",
    "per_example_layer_norm_clip", "periodic_update", "power_iteration", "rprop", "safe_increment",
    "safe_int32_increment", "safe_norm", "safe_root_mean_squares", "scale_by_distance_over_gradients",
    "scale_by_rprop", "scale_gradient", "skip_not_finite", "snapshot", "unitwise_clip", "unitwise_norm",
    "update_infinity_moment", "update_moment", "update_moment_per_elem_norm",
    "value_and_grad_from_state", "with_extra_args_support",
}  # fmt: skip
DEPRECATED = {"DifferentiallyPrivateAggregateState", "differentially_private_aggregate", "dpsgd"}


def names_of(module):
    return [name for name in dir(module) if not name.startswith("_") and name not in DEPRECATED]


@pytest.mark.parametrize("module", MODULES)
def test_a_function_is_gradx_s_unless_it_is_listed_or_a_loss(module):
    theirs, ours = importlib.import_module(f"optax{module}"), importlib.import_module(f"gradx.optax{module}")
    others = {*dir(optax.losses), *THEIRS}
    for name in names_of(theirs):
        x = getattr(ours, name)
        if x is not getattr(theirs, name):
            whose = getattr(x, "__wrapped__", x) if callable(x) else x
            assert x.__name__ == name or name in ("multi_transform", "schedules", "transforms")
            assert getattr(whose, "__module__", x.__name__).split(".")[0] in ("gradx", "optax")
            assert name not in others
        elif inspect.isfunction(x) and optax.__version__ == "0.2.8":  # a newer one may have more
            assert name in others, f"Optax's own {name}: is it gradx's, or one of THEIRS?"


def test_no_name_is_listed_in_vain():
    assert {name for name in THEIRS if not any(hasattr(m, name) for m in (optax, optax.transforms))} == set()


def test_optax_s_classes_are_optax_s():
    """`isinstance` goes on to work, of states and transformations that either made."""
    own = {"MultiSteps"}  # a function in gradx
    for name in names_of(optax):
        if isinstance(getattr(optax, name), type) and name not in own:
            assert getattr(face, name) is getattr(optax, name), name
    assert isinstance(face.adam(0.1), face.GradientTransformation)
    assert isinstance(face.contrib.muon(0.1), face.GradientTransformation)


@pytest.mark.parametrize("module", MODULES)
def test_arguments_and_defaults_are_optax_s(module):
    theirs, ours = importlib.import_module(f"optax{module}"), importlib.import_module(f"gradx.optax{module}")
    differ = {
        ("lbfgs", "linesearch"),  # an equal search
        ("scale_by_factored_rms", "decay_rate_fn"),  # an equal function
        ("MultiSteps", "accumulator_dtype"),  # float32 or better
    }
    for name in names_of(theirs):
        x, y = getattr(ours, name), getattr(theirs, name)
        if x is y or isinstance(y, types.ModuleType):
            continue
        given = list(inspect.signature(x).parameters.values())
        wanted = list(inspect.signature(y).parameters.values())
        for ours_is, theirs_is in zip(given, wanted, strict=False):
            is_alike = ours_is.name == theirs_is.name or theirs_is.kind is theirs_is.VAR_POSITIONAL
            # JAX calls the first argument of functions of trees by other names.
            assert is_alike or name == "global_norm", (name, ours_is, theirs_is)
            if (name, ours_is.name) not in differ:
                assert str(ours_is.default) == str(theirs_is.default), (name, ours_is)
            assert ours_is.kind is theirs_is.kind or is_alike, (name, ours_is)
        assert len(given) >= len(wanted), name
        more = given[len(wanted) :]  # what gradx adds comes after, and need not be given
        assert all(p.default is not p.empty for p in more), name


@pytest.mark.parametrize("line", CLIENTS.read_text().splitlines()[1:])
def test_what_clients_use_is_there(line):
    name, *_ = line.split("\t")
    x = face
    for part in name.split("."):
        if part == "base":  # of Optax's private modules
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            x = getattr(x, part)
    assert x is not None


def test_there_are_the_names_of_about_forty_clients():
    assert len(CLIENTS.read_text().splitlines()) > 130


@pytest.mark.parametrize("module", MODULES)
def test_a_name_that_optax_adds_later_is_passed_through(module, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"optax{module}"), "brand_new", 3, raising=False)
    ours = importlib.import_module(f"gradx.optax{module}")
    assert ours.brand_new == 3
    assert "brand_new" in dir(ours)
    with pytest.raises(AttributeError):
        ours.never_there


def test_deprecated_names_warn_as_optax_s():
    with pytest.warns(DeprecationWarning, match="use optax.contrib.dpsgd"):
        assert face.dpsgd is optax.contrib.dpsgd


def test_submodules_can_be_imported():
    for name in names_of(optax):
        if isinstance(getattr(optax, name), types.ModuleType):
            module = importlib.import_module(f"gradx.optax.{name}")
            assert module is getattr(face, name)
            assert set(names_of(getattr(optax, name))) <= set(dir(module))
    namespace = {}
    exec("from gradx.optax.transforms import *; from gradx.optax.schedules import *", namespace)
    assert namespace["clip"] is gradx.clip
    assert namespace["StatefulSchedule"] is optax.schedules.StatefulSchedule


CODE = """
import optax as before
import gradx.optax
gradx.optax.install()
gradx.optax.install()
import optax, optax.contrib, optax.losses, optax.schedules as schedules
from optax import tree_utils
from optax.transforms import clip
from optax._src import base, combine
assert optax is gradx.optax and before is not optax
assert schedules is gradx.optax.schedules
assert clip is gradx.clip
assert isinstance(optax.adam(0.1), base.GradientTransformation)
assert optax.contrib.muon is before.contrib.muon and optax.losses is before.losses
gradx.optax.uninstall()
gradx.optax.uninstall()
import optax, optax.schedules
assert optax is before and optax.schedules is before.schedules
assert gradx.optax.adam is not optax.adam
"""


def run(*arguments):
    done = subprocess.run([sys.executable, "-W", "error", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_can_be_installed_and_taken_out_again():
    (line,) = run("-c", CODE).splitlines()  # said once
    assert line.startswith(f"gradx.optax is in the place of optax {optax.__version__}: ")


SCRIPT = """
import sys
import neighbour
import optax
print(__name__, sys.argv[1:], optax.adam(0.1) == optax.adam(0.1), neighbour.optax is optax)
"""


@pytest.mark.parametrize("how", ["file", "module"])
def test_a_script_runs_as_it_is(how, tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "neighbour.py").write_text("import optax")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(gradx.__file__).parents[1]))
    called = ["train.py"] if how == "file" else ["-m", "train"]
    _, line = run("-m", "gradx.optax", *called, "--epochs", "3").splitlines()
    assert line == "__main__ ['--epochs', '3'] True True"


def test_a_schedule_that_gradx_refuses_is_optax_s():
    """A number of steps below 0 holds the first value, a decay rate of 0 too."""
    for make in (
        lambda m: m.linear_schedule(1.0, 0.0, -1),
        lambda m: m.exponential_decay(1.0, 10, 0.0),
        lambda m: m.warmup_constant_schedule(0.5, 1.0, 0),
        lambda m: m.cosine_decay_schedule(1.0, int(1e10)),
    ):
        for step in (0, 3, 100):
            assert jnp.allclose(make(face)(step), make(optax)(step))
    assert repr(face.linear_schedule(1.0, 0.0, 5)) == "linear_schedule(1.0, 0.0, 5)"
    for m in (optax, face):
        with pytest.raises(ValueError, match="positive decay_steps"):
            m.warmup_cosine_decay_schedule(0.0, 1.0, 5, 5)
