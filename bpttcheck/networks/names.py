"""The parameters of a network: one flat dict, in which ``"0.W"`` is ``W`` of the part ``"0"``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bpttcheck.contract import Array, Params
from bpttcheck.errors import ContractError


def joined(parts: Mapping[str, Params]) -> Params:
    """The parameters of all parts in one dict.

    >>> joined({"0": {"W": 1}, "readout": {"V": 2}})
    {'0.W': 1, 'readout.V': 2}
    """
    return {f"{part}.{name}": v for part, params in parts.items() for name, v in params.items()}


def part_of(params: Params, part: str) -> Params:
    """The parameters of one part, under its own names.

    >>> part_of({"0.W": 1, "1.forward.W": 2}, "1")
    {'forward.W': 2}
    """
    head = f"{part}."
    return {name.removeprefix(head): v for name, v in params.items() if name.startswith(head)}


def without(params: Params, names: Collection[str]) -> Params:
    """The parameters that are not called one of ``names``."""
    return {name: value for name, value in params.items() if name not in names}


def require_parts(params: Params, parts: Collection[str], whole: str) -> None:
    """Refuse parameters that were made for other parts.

    Raises:
        ContractError: a part has no parameter, or a parameter belongs to none of ``parts``.
    """
    given = list(dict.fromkeys(name.partition(".")[0] for name in params))
    if set(given) != set(parts):
        raise ContractError(
            f"the parameters belong to {_spoken(given)}, but {whole} has the parts"
            f" {_spoken(parts)}: use the parameters that its own init returned",
            item="params",
        )


def require_names(params: Params, names: Collection[str], whole: str) -> None:
    """Refuse parameters among which one of ``names`` is missing.

    Raises:
        ContractError: one is missing.
    """
    missing = [name for name in names if name not in params]
    if missing:
        raise ContractError(
            f"the parameters {_spoken(params)} have no {_spoken(missing)}, which {whole} needs: use"
            " the parameters that its own init returned",
            item="params",
        )


def require_free(params: Params, names: Collection[str], whole: str) -> None:
    """Refuse to put a parameter into the place of another.

    Raises:
        ContractError: a name is taken.
    """
    taken = [name for name in names if name in params]
    if taken:
        raise ContractError(
            f"the wrapped layer already has the parameters {_spoken(taken)}, which {whole} adds:"
            " wrap it once, or give it as a layer of a Stack",
            method="init",
            item="params",
        )


def shapes(params: Mapping[str, Array]) -> str:
    """``U (3, 4), W (3, 3)``, for messages."""
    return ", ".join(f"{name} {value.shape}" for name, value in params.items())


def _spoken(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
