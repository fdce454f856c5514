"""Notebooks, run: `python -m tests.notebooks [names]` writes those of `notebooks/` anew, with their outputs.

Each is written as text, `notebooks/<name>.py` in Jupytext's percent format, and read as `<name>.ipynb`.
"""

import base64
import io
import os
import pathlib
import sys
import time

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SECONDS = 120  # that each may take on two cores
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def written(name: str) -> nbformat.NotebookNode:
    """The notebook as its text has it: without outputs, and the same at each call."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = nbformat.NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"  # else a random one, and every run would change the file
        cell.metadata = {}
    return notebook


def committed(name: str) -> nbformat.NotebookNode:
    """The notebook as it was last written."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom in a kernel of its own; raises where a cell does."""
    notebook = written(name)
    resources = {"metadata": {"path": str(FOLDER)}}
    # What a cell prints is one output, however the kernel cuts it up.
    own = dict(record_timing=False, coalesce_streams=True, resources=resources)
    client = NotebookClient(notebook, timeout=2 * SECONDS, **own)
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    return notebook


def smaller(png: str) -> str:
    """The same picture in 64 colours: a third of the bytes."""
    picture, out = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def main(names: list[str]) -> None:
    for name in names or NAMES:
        start = time.perf_counter()
        notebook = executed(pathlib.Path(name).stem)
        seconds = time.perf_counter() - start
        nbformat.write(notebook, FOLDER / f"{pathlib.Path(name).stem}.ipynb")
        print(f"{name}: {seconds:.0f} s")
        if seconds > SECONDS:
            sys.exit(f"{name} took {seconds:.0f} s: it may take {SECONDS}")


if __name__ == "__main__":
    main(sys.argv[1:])
