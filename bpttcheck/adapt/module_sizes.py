"""The parameters of a torch module as inputs of a signature, and the sizes that they fix."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from itertools import combinations, product
from typing import Any

import numpy as np

from bpttcheck.adapt.autograd_function import to_tensor
from bpttcheck.adapt.function import letters_of
from bpttcheck.errors import ContractError
from bpttcheck.signature import Leaf, Signature

_MOST_TRIALS = 200


def aliases_of(module: Any) -> dict[str, str]:
    """Parameter as a signature can write it -> its name."""
    found: dict[str, str] = {}
    for key, _ in module.named_parameters():
        alias = key.replace(".", "_")
        alias = f"_{alias}" if alias[0].isdigit() else alias
        if alias in found:
            raise ContractError(
                f"the parameters {found[alias]!r} and {key!r} would both be called {alias!r}: "
                "rename one of them",
                item="function",
            )
        found[alias] = key
    return found


def with_parameters(text: str, module: Any) -> str:
    """The signature with the parameters that it does not name, and the sizes that they fix."""
    parsed = Signature.parse(text)
    inputs, arrow, rest = text.partition("->")
    outputs, where, limits = rest.partition(" where ")
    named = {item.name for item in parsed.inputs}
    shapes = {alias: tuple(module.get_parameter(key).shape)
              for alias, key in aliases_of(module).items()}  # fmt: skip
    added = [
        f"{alias}: {' '.join(map(str, shape))}"
        for alias, shape in shapes.items()
        if alias not in named
    ]
    letters = letters_of(parsed, {a: shape for a, shape in shapes.items() if a in named})
    if added:
        known = {x: allowed[0] for x, allowed in parsed.allowed.items()} | letters
        sizes = {size for shape in shapes.values() for size in shape}
        letters |= _fitting(parsed, module, sizes, known)
    fixed = [f"{x} in {size}" for x, size in letters.items() if x not in parsed.allowed]
    body = ", ".join([inputs.strip(), *added])
    limits = ", ".join([*([limits.strip()] if where else []), *fixed])
    return f"{body} {arrow} {outputs.strip()}{f' where {limits}' if limits else ''}"


def _fitting(
    signature: Signature, module: Any, sizes: Collection[int], known: Mapping[str, int]
) -> dict[str, int]:
    """The other letters that must be a size of the parameters for the module to run, by trial.

    Nothing where it runs for any sizes, or where several of the fewest letters would do.
    """
    apart = {signature.time, signature.batch, *known}
    letters = [x for x in signature.letters if x not in apart]
    unlike = (n for n in range(3, 1000) if n not in sizes)
    plain = {**dict(zip(signature.letters, unlike, strict=False)), **known}
    trials = 0
    for count in range(len(letters) + 1):
        fit: list[dict[str, int]] = []
        for chosen in combinations(letters, count):
            for values in product(sorted(sizes), repeat=count):
                tried = dict(zip(chosen, values, strict=True))
                trials += 1
                if trials > _MOST_TRIALS:
                    return {}
                if _runs(signature, module, {**plain, **tried}):
                    fit.append(tried)
        if fit:
            return fit[0] if len(fit) == 1 else {}
    return {}


def _runs(signature: Signature, module: Any, sizes: Mapping[str, int]) -> bool:
    import torch

    leaves = signature.expanded(sizes)
    if any(leaf.kind not in ("float", "int", "bool", "constant") for _, leaf in leaves):
        return False  # lengths of rows have to add up
    values = {name: _ones(leaf, sizes) for name, leaf in leaves if leaf.kind != "constant"}
    inside = aliases_of(module)
    with torch.no_grad():
        try:
            given = signature.build(values, sizes)
            named = zip(signature.inputs, given, strict=True)
            copy.deepcopy(module).double()(
                *(_tensors(value) for item, value in named if item.name not in inside)
            )
        except Exception:  # whatever it is: it does not run with these
            return False
    return True


def _ones(leaf: Leaf, sizes: Mapping[str, int]) -> Any:
    shape = leaf.shape(sizes)
    if leaf.kind == "int":
        return np.zeros(shape, np.int64)
    return np.ones(shape, np.bool_ if leaf.kind == "bool" else np.float64)


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return to_tensor(value)
    if isinstance(value, Mapping):
        return {key: _tensors(one) for key, one in value.items()}
    return type(value)(map(_tensors, value)) if isinstance(value, (tuple, list)) else value
