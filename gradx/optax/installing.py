"""`gradx.optax` in Optax's place, for code that is left as it is."""

import importlib
import sys

import optax

__all__ = ["install", "uninstall"]

PLACES = ("optax", "optax.schedules", "optax.transforms")
theirs = {name: importlib.import_module(name) for name in PLACES}


def install() -> None:
    """Let `import optax` give `gradx.optax` from now on; code that has Optax already keeps it.

    Prints once how many names are gradx's. `uninstall()` undoes it.
    """
    face = importlib.import_module("gradx.optax")
    if sys.modules["optax"] is face:
        return
    for name in PLACES:
        sys.modules[name] = importlib.import_module(f"gradx.{name}")
    face.__path__ += optax.__path__  # where modules of Optax are found that nobody has imported yet
    names = [name for name in dir(optax) if not name.startswith("_")]
    ours = [name for name in names if getattr(face, name) is not getattr(optax, name)]
    what = f"gradx.optax is in the place of optax {optax.__version__}"
    print(f"{what}: {len(ours)} of {len(names)} names are gradx's")


def uninstall() -> None:
    """Let `import optax` give Optax again; code that has imported `gradx.optax` by that name keeps it."""
    face = importlib.import_module("gradx.optax")
    if sys.modules["optax"] is not face:
        return
    sys.modules.update(theirs)
    face.__path__ = [path for path in face.__path__ if path not in optax.__path__]
