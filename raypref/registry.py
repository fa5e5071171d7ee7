"""One registry for everything that is added as one file: the classes of a package, found by their `name`."""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

Base = TypeVar("Base")


def named_classes(package: ModuleType, base: type[Base]) -> dict[str, type[Base]]:
    """Classes below `base` that declare a `name` of their own, from every module of `package`, sorted by name.

    Raises:
        ValueError: where two classes claim one name.
    """
    found: dict[str, type[Base]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        for value in vars(importlib.import_module(f"{package.__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, base) and "name" in vars(value):
                name = vars(value)["name"]
                if found.setdefault(name, value) is not value:
                    raise ValueError(f"two classes are called {name!r}: {found[name]} and {value}")
    return dict(sorted(found.items()))
