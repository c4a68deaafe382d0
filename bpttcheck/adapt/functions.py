"""Functions as a subject: a forward and a backward one, or a loss that returns its gradients."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.adapt.function import Function, flat_inputs, letters_of
from bpttcheck.adapt.returned import names_of
from bpttcheck.adapt.updates import require_rate, updating, widened
from bpttcheck.errors import ContractError
from bpttcheck.signature import Signature

_LOSS = "loss"


@dataclass(frozen=True)
class InModule:
    """Inputs that code finds as globals of a module, or as attributes of an object.

    Args:
        module: the module, or the object.
        shapes: name -> axes, as in a signature: ``"H V"``.
        wide: whether they are put there as copies with more digits.
    """

    module: Any
    shapes: Mapping[str, str]
    wide: bool = False

    def __deepcopy__(self, memo: Any) -> InModule:
        """A copy of the code still reads the globals where they are."""
        return self

    def now(self) -> dict[str, Any]:
        """Copies of the values in their place."""
        return {name: np.array(getattr(self.module, name)) for name in self.shapes}

    @property
    def text(self) -> str:
        """The inputs as a signature has them."""
        return ", ".join(f"{name}: {axes}" for name, axes in self.shapes.items())

    @contextmanager
    def hold(self, values: Mapping[str, Any]) -> Generator[None]:
        """The values in their place while the block runs; what was there before comes back."""
        missing = object()
        before = {name: getattr(self.module, name, missing) for name in self.shapes}
        for name in self.shapes:
            setattr(self.module, name, widened(values[name]) if self.wide else values[name])
        try:
            yield
        finally:
            for name, value in before.items():
                if value is missing:
                    delattr(self.module, name)
                else:
                    setattr(self.module, name, value)


def in_module(module: Any, **shapes: Any) -> InModule:
    """Parameters that the code does not take as arguments but reads as globals.

    Args:
        module: the module in whose globals they are, or an object with such attributes.
        shapes: name -> axes, as in a signature: ``Wxh="H V"``.

    Raises:
        ContractError: no name is given, or axes are no text.
    """
    wrong = [name for name, axes in shapes.items() if not isinstance(axes, str)]
    if not shapes or wrong:
        raise ContractError(
            f"in_module: {wrong[0]}={shapes[wrong[0]]!r}, but should be axes such as 'H V'"
            if wrong
            else "in_module needs the names of the globals: in_module(m, Wxh='H V')",
            item="params",
        )
    return InModule(module, dict(shapes))


def from_vjp(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    signature: str | None = None,
    *,
    args: Sequence[Any] | None = None,
    at: Any = None,
    grads: str | Sequence[str] | None = None,
    receives: str | Sequence[str] | None = None,
    params: InModule | None = None,
    update: float | None = None,
    batch: str | None = None,
    time: str | None = None,
    domain: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    contiguous: bool = False,
    name: str | None = None,
) -> Function:
    """A forward function and its hand-written backward pass.

    Args:
        forward: takes the inputs in the order of the signature; returns its outputs, and a cache
            at the end if there is one.
        backward: takes what its parameters are called after: cotangents (``dh``, ``dout``), the
            cache, inputs and outputs by name; else the cotangents and the cache in their order.
            Returns gradients as a tuple, list or dict.
        signature: inputs and outputs, such as ``"x: N T D, W: D H -> h: N T H"``; see
            :mod:`bpttcheck.signature`. None: read off ``args``.
        args: arguments of ``forward``: these very values are judged, and others of their shapes.
        at: arguments (a tuple, a dict by name, several of them in a list, or the name of an
            ``.npz`` file): these very values are judged and no others.
        grads: what ``backward`` returns, name by name, such as ``"dx, dW, _"``; None: found out.
        receives: what ``backward`` takes, name by name, such as ``"cache, dh"``; None: found out.
        params: inputs that are globals, from :func:`in_module`.
        update: the learning rate, if the code changes these itself; see ``from_object``.
        batch: the letter of the batch axis; ``""``: there is none; None: ``B`` or ``N``.
        time: the letter of the time axis; ``""``: there is none; None: ``T``.
        domain: input -> the values that it may have, as the trait of cells.
        deterministic: the results must be equal bit by bit in every call.
        contiguous: it takes C-contiguous arrays only.
        name: how reports call it; None: the name of ``forward``.

    Returns:
        A subject for :func:`bpttcheck.check`, ``parametrize_with_checks`` and the rest.

    Raises:
        ContractError: an argument is malformed; it says what was expected.
    """
    for what, function in (("forward", forward), ("backward", backward)):
        require_callable(what, function)
    return made(
        forward, backward, signature, args=args, at=at, grads=grads, receives=receives,
        params=params, update=update, batch=batch, time=time, domain=domain,
        deterministic=deterministic, contiguous=contiguous, name=name,
    )  # fmt: skip


def from_grad(
    function: Callable[..., Any],
    signature: str | None = None,
    *,
    returns: str | Sequence[str] | None = None,
    args: Sequence[Any] | None = None,
    at: Any = None,
    params: InModule | None = None,
    update: float | None = None,
    domain: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    contiguous: bool = False,
    name: str | None = None,
) -> Function:
    """A function that returns its loss and the gradients of it.

    Args:
        function: takes the inputs in the order of the signature; returns a loss and gradients.
        signature: the inputs, such as ``"tokens: T < V, h: H 1"``.
        returns: what it returns, name by name, such as ``"loss, dW, db, _"``; None: the loss first,
            then gradients that are told apart by name, position or shape.
        args: arguments: these very values are judged, and others of their shapes.
        at: arguments: these very values are judged and no others.
        params: inputs that are globals, from :func:`in_module`.
        update: the learning rate, if the code changes these itself; see ``from_object``.
        domain: input -> the values that it may have.
        deterministic: the results must be equal bit by bit in every call.
        contiguous: it takes C-contiguous arrays only.
        name: how reports call it; None: the name of ``function``.

    Raises:
        ContractError: an argument is malformed; it says what was expected.
    """
    require_callable("function", function)
    told = names_of(returns)
    if told is not None and _LOSS not in told:
        raise ContractError(
            f"returns={returns!r} does not say which is the loss: call it 'loss'", item="returns"
        )
    return made(
        function, None, signature, args=args, at=at, params=params, update=update, domain=domain,
        grads=None if told is None else [one for one in told if one != _LOSS], returns=told,
        batch="", deterministic=deterministic, contiguous=contiguous, name=name,
    )  # fmt: skip


def require_callable(what: str, function: Any) -> None:
    """Refuse what cannot be called."""
    if not callable(function):
        raise ContractError(
            f"{what} is {function!r} (type={type(function).__name__}), but should be a function",
            item=what,
        )


def made(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    signature: str | None,
    *,
    args: Sequence[Any] | None = None,
    at: Any = None,
    grads: Any = None,
    receives: Any = None,
    returns: tuple[str, ...] | None = None,
    params: Any = None,
    update: float | None = None,
    batch: str | None = None,
    time: str | None = None,
    domain: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    contiguous: bool = False,
    name: str | None = None,
    methods: tuple[str, str] | None = None,
) -> Function:
    """The function of any adapter; the arguments are those of :func:`from_vjp`."""
    if params is not None and not isinstance(params, InModule):
        raise ContractError(
            f"params={params!r}, but should be made by bpttcheck.in_module(module, W='H D')",
            item="params",
        )
    require_rate(update)
    if update is not None:
        if params is None:
            raise ContractError(
                f"update={update} reads gradients from the change of globals: name them with "
                "params=bpttcheck.in_module(module, W='H D')",
                item="update",
            )
        params = replace(params, wide=True)
    given = _given(args if args is not None else at)
    if signature is None:
        if not given:
            raise ContractError(
                "neither a signature nor `args` nor `at` was given: write the inputs and outputs, "
                "such as 'x: N T D, W: D H -> h: N T H'",
                item="signature",
            )
        parsed = _of_arrays(forward, given[0])
    else:
        text = signature if params is None else _with(signature, params)
        parsed = Signature.parse(text, batch=batch, time=time)
    if all(leaf.kind != "float" for leaf in parsed.leaves):
        raise ContractError(
            f"signature {parsed.text!r}: no input is a float array, so there is no gradient",
            item="signature",
        )
    points = tuple(_point(parsed, one) for one in given)
    for one in points:
        letters_of(parsed, {key: value.shape for key, value in one.items()})
    called = methods or (_title(forward), _title(backward or forward))
    if update is not None and params is not None:
        others = [i.name for i in parsed.inputs if i.name not in params.shapes]
        if backward is None:
            forward = updating(forward, params.now, update, returns or (_LOSS,))
            grads = returns = None
        else:
            backward = updating(backward, params.now, update, names_of(grads) or others)
            grads = None
    return Function(
        name=name or called[0],
        signature=parsed,
        forward_function=forward,
        backward_function=backward,
        grads=names_of(grads),
        receives=names_of(receives),
        returns=returns,
        **({} if params is None else {"outside": params.hold}),
        held=frozenset(() if params is None else params.shapes),
        points=points,
        only_points=at is not None,
        domain=domain or {},
        deterministic=deterministic,
        contiguous=contiguous,
        methods=called,
    )


def _with(signature: str, params: InModule) -> str:
    """The globals after the inputs that are handed in."""
    inputs, arrow, outputs = signature.partition("->")
    body, where, rest = inputs.partition(" where ")
    return (
        f"{body.strip()}{', ' if body.strip() else ''}{params.text} {arrow}{outputs}{where}{rest}"
    )


def _title(function: Any) -> str:
    found = getattr(function, "__name__", "") or type(function).__name__
    return "function" if found == "<lambda>" else found


def _given(values: Any) -> list[Any]:
    """Points as a list of arguments: each a tuple, or a dict by name."""
    if values is None:
        return []
    if isinstance(values, (str, os.PathLike)):
        path = Path(values)
        try:
            with np.load(path, allow_pickle=False) as file:
                return [{key: file[key] for key in file.files}]
        except (OSError, ValueError) as error:
            raise ContractError(f"{path} is no .npz file of arrays: {error}", item="at") from None
    several = (
        isinstance(values, list)
        and values
        and all(isinstance(one, (tuple, dict)) for one in values)
    )
    found = list(values) if several else [values]
    for one in found:
        if not isinstance(one, (tuple, list, Mapping)):
            raise ContractError(
                f"at={type(one).__name__}, but should be a tuple of arguments, a dict by name, a "
                "list of such, or the name of an .npz file",
                item="at",
            )
    return found


def _of_arrays(forward: Callable[..., Any], point: Any) -> Signature:
    try:
        names = list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        names = []
    if isinstance(point, Mapping):  # saved in any order
        ordered = [name for name in names if name in point]
        ordered = ordered if len(ordered) == len(point) else list(point)
        return Signature.of_arrays(ordered, [point[name] for name in ordered])
    names = names[: len(point)]
    names += [f"arg{i}" for i in range(len(names), len(point))]
    return Signature.of_arrays(names, list(point))


def _point(signature: Signature, point: Any) -> dict[str, Any]:
    names = [item.name for item in signature.inputs]
    if not isinstance(point, Mapping):
        return flat_inputs(signature, point)
    missing = [name for name in names if name not in point]
    if missing:
        raise ContractError(
            f"at lacks {missing[0]!r}, but should have {', '.join(names)}; it has "
            f"{', '.join(map(str, point))}",
            item="at",
        )
    return flat_inputs(signature, [point[name] for name in names])
