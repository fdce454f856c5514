"""The recipes of docs/coming_from_pytorch.md: torch's side and gradx's, run as they stand on the page."""

import re
import warnings
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests import recipes

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")
pytestmark = pytest.mark.usefixtures("x64", "lenient")

SECTIONS = recipes.sections()
FIRST = "One model, one loop"
SETUP_TORCH, SETUP = (recipes.blocks(SECTIONS[FIRST], language)[0] for language in ("py", "python"))
WITH_BLOCKS = [name for name, text in SECTIONS.items() if recipes.blocks(text, "python") and name != FIRST]


def run(code, namespace):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR and torch.jit warn of themselves
        exec(compile(code, str(recipes.PAGE), "exec"), namespace)


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Two namespaces after the page's set-up, torch's and gradx's, with one model and the same batches."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    ours = {}
    run(SETUP, ours)
    batches = [(torch.tensor(np.array(x)), torch.tensor(np.array(y))) for x, y in ours["batches"]]
    theirs = dict(vars(torch.optim)) | vars(torch.optim.lr_scheduler) | vars(torch.optim.swa_utils)
    theirs |= vars(torch.nn.utils) | vars(torch.nn.functional) | dict(torch=torch, OrderedDict=OrderedDict)
    theirs |= dict(gx=gx, jnp=jnp, batches=[])
    run("from torch.distributed.optim import ZeroRedundancyOptimizer", theirs)
    run(SETUP_TORCH, theirs)
    theirs["batches"] = batches
    theirs["weights"] = [p for p in theirs["model"].parameters() if p.ndim > 1]
    theirs["biases"] = [p for p in theirs["model"].parameters() if p.ndim == 1]
    ours["start"] = tree(theirs["model"])
    yield theirs, ours
    torch.set_default_dtype(torch.float32)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def tree(model):
    """A model's parameters as gradx has them."""
    params = {}
    for name, p in model.named_parameters():
        layer, kind = name.removeprefix("module.").split(".")
        params.setdefault(layer, {})[kind] = jnp.array(p.detach().numpy().copy())
    return params


def assert_equal(ours, theirs, rtol):
    if isinstance(theirs, torch.nn.Module):
        theirs = tree(theirs)
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach().numpy()
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)
    jax.tree.map(close, ours, theirs)


def tolerance(code):
    return 1e-6 if re.search("inject_hyperparams|metrics", code) else 1e-10  # which keep numbers in float32


@pytest.mark.parametrize(
    ("left", "made"), recipes.rows(), ids=lambda code: code if isinstance(code, str) else ""
)
def test_rows(left, made, start):
    """What a row makes goes through the page's loop. What stands in a block as well is run there."""
    theirs, ours = start
    ready = [code for code in left if " = " in code or "requires_grad" in code]
    for code in ready:
        run(code, theirs)
    each_step = [compile(code, code, "exec") for code in left if code not in ready]
    model, optimizer, scheduler = (theirs.get(name) for name in ("model", "optimizer", "scheduler"))
    tx = eval(made, ours)
    params, state, before = ours["start"], tx.init(ours["start"]), tree(model)
    for (x, y), (a, b) in zip(ours["batches"], theirs["batches"], strict=True):
        params, state, _ = ours["train"](tx, params, state, x, y)
        loss = torch.nn.functional.mse_loss(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        for code in each_step:
            exec(code, theirs)
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*[loss.item()] * isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau))
        assert_equal(params, model, tolerance(made))
    assert not np.allclose(params["head"]["weight"], before["head"]["weight"])


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_sections(name, start):
    """Both blocks end with the same parameters, and with the same of what else both call by one name."""
    theirs, ours = start
    before = np.array(ours["start"]["head"]["weight"])  # a block may take the memory of its start
    (code,) = recipes.blocks(SECTIONS[name], "python")
    (torch_code,) = recipes.blocks(SECTIONS[name], "py")
    if "ZeroRedundancy" in torch_code:
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
    run(torch_code, theirs)
    run(code, ours)
    rtol = 1e-6 if name == "Minimize with L-BFGS" else tolerance(code)
    seen = {"averaged", "rates", "least"} & ours.keys() & theirs.keys()
    for key in seen:
        assert_equal(ours[key], theirs[key], rtol)
    if "least" not in seen:
        assert_equal(ours["params"], theirs["model"], rtol)
        assert not np.allclose(ours["params"]["head"]["weight"], before)


def test_a_run_of_torchs_goes_on(start):
    """The block of the section has both; from its state on, gradx's steps are torch's."""
    theirs, ours = start
    (code,) = recipes.blocks(SECTIONS["Go on from a checkpoint of PyTorch"], "py")
    run(code, theirs)
    tx, params, state = (theirs[name] for name in ("tx", "params", "state"))
    for (x, y), (a, b) in zip(ours["batches"][10:], theirs["batches"][10:], strict=True):
        params, state, _ = ours["train"](tx, params, state, x, y)
        theirs["optimizer"].zero_grad()
        torch.nn.functional.mse_loss(theirs["model"](a), b).backward()
        theirs["optimizer"].step()
    assert_equal(params, theirs["model"], 1e-10)


def test_no_code_of_torch_is_left_out():
    """Each section with a block of torch's is one of those above."""
    with_torch = {name for name, text in SECTIONS.items() if recipes.blocks(text, "py")}
    assert with_torch == {*WITH_BLOCKS, FIRST, "Go on from a checkpoint of PyTorch"}
