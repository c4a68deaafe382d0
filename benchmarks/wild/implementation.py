"""What is known of an implementation beside its code, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from bpttcheck.adapt.function import Function

Adapter = Callable[[], Function]
CONTROL = "A control: the gradient of the library's own autodiff."


@dataclass(frozen=True)
class Implementation:
    """A hand-written recurrent gradient that can be installed from the package index.

    Args:
        package: its name there.
        what: which of its layers.
        door: the function of bpttcheck that checks it.
        adapter: makes a subject of it; imports the package when it is called.
        note: what a reader has to know to judge the verdict fairly.
        licence: of the package.
        coarse: its buffers are float32, whatever it is given.
        on_purpose: it documents that what it returns is something else than the gradient.
    """

    package: str
    what: str
    door: str
    adapter: Adapter
    note: str = ""
    licence: str = ""
    coarse: bool = False
    on_purpose: bool = False

    @property
    def name(self) -> str:
        """The package and the layer."""
        return f"{self.package} {self.what}"

    @property
    def version(self) -> str:
        """The version that is installed, or ``""``."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""


IMPLEMENTATIONS: list[Implementation] = []


def implementation(
    package: str,
    what: str,
    door: str,
    note: str = "",
    *,
    licence: str = "MIT",
    coarse: bool = False,
    on_purpose: bool = False,
) -> Callable[[Adapter], Adapter]:
    """Enter an adapter in the list."""

    def enter(adapter: Adapter) -> Adapter:
        IMPLEMENTATIONS.append(
            Implementation(package, what, door, adapter, note, licence, coarse, on_purpose)
        )
        return adapter

    return enter
