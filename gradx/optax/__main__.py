"""`python -m gradx.optax script.py args...`: run a script with gradx.optax in Optax's place."""

import argparse
import pathlib
import runpy
import sys

import gradx.optax

__all__ = []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gradx.optax", description=__doc__)
    parser.add_argument("-m", dest="module", action="store_true", help="the name of a module, not a file")
    parser.add_argument("script", help="a Python file, or with -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    given = parser.parse_args()
    gradx.optax.install()
    sys.argv = [given.script, *given.arguments]
    if given.module:
        sys.path.insert(0, "")
        runpy.run_module(given.script, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(pathlib.Path(given.script).resolve().parent))
        runpy.run_path(given.script, run_name="__main__")


if __name__ == "__main__":
    main()
