"""What `make dist` asks of a wheel: installed alone, without extras, it is imported and trains.

python -m tests.release dist/gradx-*.whl
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import venv

import gradx

CONSTRAINTS = pathlib.Path(__file__).parent.parent / ".ci" / "constraints.txt"
TRAIN = """
import importlib.metadata, importlib.util, pathlib, sys
import jax, jax.numpy as jnp
import gradx as gx

assert pathlib.Path(gx.__file__).is_relative_to(sys.prefix), gx.__file__
assert (pathlib.Path(gx.__file__).parent / "py.typed").exists()
assert importlib.metadata.version("gradx") == gx.__version__
for extra in ("flax", "matplotlib", "orbax", "tensorboardX", "torch"):
    assert importlib.util.find_spec(extra) is None, f"{extra} is an extra, and came along"

x = jax.random.normal(jax.random.key(0), (64, 8))
loss = lambda w: jnp.mean((x @ w - jnp.sin(x)) ** 2)
for tx in (gx.adamw(1e-2, weight_decay=0.1), gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(1e-2))):
    w = 0.1 * jnp.eye(8)
    losses, state, step = [loss(w)], tx.init(w), gx.step(tx)
    for _ in range(3):
        w, state = step(jax.grad(loss)(w), state, w)
        losses.append(loss(w))
    assert losses == sorted(losses, reverse=True), losses

print(gx.__version__)
"""


def main(wheel: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = pathlib.Path(folder, "bin", "python")
        install = [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "-c",
            CONSTRAINTS,
            wheel,
        ]
        subprocess.run(install, check=True, env=environment)
        train = subprocess.run(
            [python, "-I", "-c", TRAIN],
            check=True,
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
    if train.stdout.strip() != gradx.__version__:
        sys.exit(f"{wheel} says that it is {train.stdout.strip()}, and this is {gradx.__version__}")
    print(f"{wheel}: installed without extras, imported, trained three steps")


if __name__ == "__main__":
    main(sys.argv[1])
