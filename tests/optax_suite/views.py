"""Optax as one of its tests sees it: gradx.optax stands in its place."""

import builtins
import importlib.util
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import optax

import gradx.optax

MODULES = {
    optax: gradx.optax,
    optax.schedules: gradx.optax.schedules,
    optax.transforms: gradx.optax.transforms,
}


def replacements() -> dict[int, Any]:
    """gradx.optax's objects by the identity of Optax's, which a test may find in a private module as well."""
    found = {}
    for theirs, ours in MODULES.items():
        for name in dir(theirs):
            x = vars(theirs).get(name)  # not by getattr: a deprecated name would warn
            if callable(x) and getattr(ours, name) is not x:
                found[id(x)] = getattr(ours, name)
    return found


class View(types.ModuleType):
    """A module of Optax whose attributes are replaced where they are read; Optax itself stays as it is."""

    def __init__(self, module: types.ModuleType, seen: Callable):
        super().__init__(module.__name__)
        self.__dict__["_module"], self.__dict__["_seen"] = module, seen

    def __getattr__(self, name: str) -> Any:
        return self._seen(getattr(self._module, name))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __dir__(self) -> list[str]:
        return dir(self._module)


class Optax:
    """What `import` gives the test modules."""

    def __init__(self, replaced: dict[int, Any]):
        self.replaced = replaced
        self.loaded: dict[str, types.ModuleType] = {}

    def load(self, name: str) -> types.ModuleType:
        """One of Optax's test modules, run with this `import`."""
        if name not in self.loaded:
            path = importlib.util.find_spec(name).origin
            module = types.ModuleType(f"with_gradx.{name}")
            self.loaded[name] = sys.modules[module.__name__] = module
            module.__file__ = path
            module.__dict__["__builtins__"] = vars(builtins) | {"__import__": self.importer()}
            exec(compile(pathlib.Path(path).read_text(), path, "exec"), module.__dict__)
        return self.loaded[name]

    def importer(self) -> Callable:
        """The `__import__` of a test module, whose modules of Optax are views."""
        views: dict[str, View] = {}

        def seen(x):
            if not isinstance(x, types.ModuleType) or x.__name__.split(".")[0] != "optax":
                return self.replaced.get(id(x), x)
            if x.__name__.endswith("_test"):
                return self.load(x.__name__)
            return views.setdefault(x.__name__, View(x, seen))

        def import_(name, globals=None, locals=None, fromlist=(), level=0):
            return seen(builtins.__import__(name, globals, locals, fromlist, level))

        return import_
