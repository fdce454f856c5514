"""Strictness for every test, and helpers that more than one file needs."""

import gc
import importlib.metadata
import os
import pathlib
import shutil

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A device that waits for others in a collective holds a thread, and XLA has no more than there are devices.
# If one of them is busy with something else, all wait, and in the end the process is aborted.
os.environ.setdefault("NPROC", "32")
if "XLA_FLAGS" not in os.environ:
    # A program of a test runs once, on few numbers, and most of the time goes into compiling it. Hence LLVM
    # optimizes nothing and takes a program in one piece, and of XLA's two emitters of fusions the quicker one
    # is taken. XLA's own passes are the same. `make test-all` compiles as users do: it empties XLA_FLAGS.
    quick = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        quick.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(quick)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests make equal programs: compiled once for all processes of a run, which inherit this, and for
    # the runs to come. A key holds the program, its options and the versions of JAX and XLA.
    cache = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"
    if sum(file.stat().st_size for file in cache.glob("*")) > 2**30:
        shutil.rmtree(cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)  # enough to see a sharding kept or lost


def pytest_collection_finish():
    """Spare the collector of garbage what is there from now on: it took an eighth of the time of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_ignore_collect(collection_path):
    """Of this folder only tests: other modules would be imported to look for examples in docstrings."""
    is_other = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if is_other and pathlib.Path(__file__).parent in collection_path.parents else None


FOUND = pytest.StashKey[dict]()  # what `together` computed for tests to come


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def lenient():
    """JAX's ordinary promotion: Optax and Flax do not work under the strict one."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def together(request):
    """Compiles what a test computes for its row with the other rows of the test."""
    from tests.together import Together

    return Together(request.node, request.config.stash.setdefault(FOUND, {}))


@pytest.fixture(autouse=True)
def exemption(request):
    """Hold a row of the table to what it says that it cannot pass: the test must fail."""
    from tests.cases import exemptions

    given = getattr(getattr(request.node, "callspec", None), "params", {})
    reason = exemptions(given.get("case"), given.get("tx")).get(request.node.originalname)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
