"""Package indexes whose names are loaded when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from bpttcheck.errors import ContractError


def index(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        homes: name -> the module of the package that defines it.

    Returns:
        Both functions, for ``__getattr__, __dir__ = index(__name__, _HOMES)``.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*getattr(sys.modules[package], "__all__", ()), *homes})

    return load, names


def factory(package: str, class_name: str, **options: Any) -> Callable[..., Any]:
    """A function that makes an object of a dataclass in ``package``, loaded when it is called.

    Args:
        package: the ``__name__`` of a package with an :func:`index`.
        class_name: a name of that index.
        **options: defaults for fields of the class; the caller may override them.

    Returns:
        The function. It raises a ContractError for a field that the class does not have.
    """

    def make(**more: Any) -> Any:
        cls = getattr(importlib.import_module(package), class_name)
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(more) - set(known))
        if unknown:
            expected = f"some of {', '.join(known)}" if known else "none"
            raise ContractError(
                f"{class_name} has no option {', '.join(unknown)}, expected {expected}",
                item=unknown[0],
            )
        return cls(**{**options, **more})

    return make
