"""Optax as one of its tests sees it: gradx's objects stand where gradx has the name."""

import builtins
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import optax

import gradx

# The annotation is no object of its own; the schedule has another meaning than Optax's link.
NOT_REPLACED = {"Schedule", "reduce_on_plateau"}


def replacements() -> dict[int, Any]:
    """gradx's objects by the identity of Optax's, so that every module of Optax that has one shows gradx's."""
    names = [name for name in dir(gradx) if not name.startswith("_") and name not in NOT_REPLACED]
    pairs = [(getattr(optax, name, None), getattr(gradx, name)) for name in names]
    return {
        id(theirs): ours
        for theirs, ours in pairs
        if callable(theirs) and callable(ours) and theirs is not ours
    }


class View(types.ModuleType):
    """A module of Optax whose attributes are replaced where they are read; Optax itself stays as it is."""

    def __init__(self, module: types.ModuleType, of: "Optax"):
        super().__init__(module.__name__)
        self.__dict__["_module"], self.__dict__["_of"] = module, of

    def __getattr__(self, name: str) -> Any:
        return self._of.seen(getattr(self._module, name))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __dir__(self) -> list[str]:
        return dir(self._module)


class Optax:
    """What `import` gives the test modules."""

    def __init__(self, replaced: dict[int, Any]):
        self.replaced = replaced
        self.views: dict[str, View] = {}

    def seen(self, x: Any) -> Any:
        """An attribute of one of Optax's modules, as tests see it."""
        if isinstance(x, types.ModuleType) and x.__name__.split(".")[0] == "optax":
            return self.load(x.__name__) if x.__name__.endswith("_test") else self.view(x)
        return self.replaced.get(id(x), x)

    def view(self, module: types.ModuleType) -> View:
        return self.views.setdefault(module.__name__, View(module, self))

    def load(self, name: str) -> types.ModuleType:
        """One of Optax's test modules, run with this `import`."""
        key = f"with_gradx.{name}"
        if key not in sys.modules:
            spec = importlib.util.find_spec(name)
            module = sys.modules[key] = types.ModuleType(key)
            module.__file__ = spec.origin
            module.__dict__["__builtins__"] = vars(builtins) | {"__import__": self.importer()}
            exec(compile(open(spec.origin).read(), spec.origin, "exec"), module.__dict__)
        return sys.modules[key]

    def importer(self) -> Callable:
        """`__import__`, whose modules of Optax are views."""

        def import_(name, globals=None, locals=None, fromlist=(), level=0):
            found = builtins.__import__(name, globals, locals, fromlist, level)
            return self.seen(found) if name.split(".")[0] == "optax" else found

        return import_
