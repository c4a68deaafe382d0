"""Objects that keep their forward pass and their gradients as a subject."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.adapt.function import Function
from bpttcheck.adapt.functions import made, require_callable
from bpttcheck.adapt.received import ALL, CACHE
from bpttcheck.adapt.returned import stands_for
from bpttcheck.adapt.updates import change, kept, require_rate, widened
from bpttcheck.errors import ContractError
from bpttcheck.signature import Signature


@dataclass(frozen=True)
class _Objects:
    """Makes a fresh object for every pass; the arguments are those of :func:`from_object`.

    Args:
        make: from the parameters to an object.
        params: the names of the parameters.
        data: the names of what the forward method takes.
        forward: the name of that method.
        backward: the name of the backward method.
        grads: where the gradients of the parameters are left.
        update: the learning rate of code that changes its parameters, or None.
    """

    make: Callable[[dict[str, Any]], Any]
    params: Sequence[str]
    data: Sequence[str]
    forward: str
    backward: str
    grads: Any
    update: float | None

    def forward_pass(self, *inputs: Any) -> tuple[Any, ...]:
        """The outputs, and what makes an object that has run forward.

        What it keeps is its own business: it is handed on unseen. What it gathers is of one
        backward pass: another of the same point starts from the inputs.
        """
        first, found = self._passed(inputs)
        waiting = [first]

        def kept_pass() -> Any:
            return waiting.pop() if waiting else self._passed(inputs)[0]

        return (*found, kept_pass) if isinstance(found, tuple) else (found, kept_pass)

    def backward_pass(self, cache: Callable[[], Any], *cotangents: Any) -> dict[str, Any]:
        """The gradients by name."""
        found = cache()
        method = getattr(found, self.backward)
        is_loss = [np.shape(one) for one in cotangents] == [()]
        bare = is_loss and not inspect.signature(method).parameters  # it starts from the loss
        before = {} if self.update is None else kept(found, self.grads, self.params)
        data = _of_data(method() if bare else method(*cotangents), self.data)
        if self.update is None:
            left = _of_params(found, self.grads, self.params)
        else:
            left = change(before, kept(found, self.grads, self.params), self.update)
        both = {**data, **left}
        return {k: g * cotangents[0] for k, g in both.items() if g is not None} if bare else both

    def _passed(self, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """An object, and what its forward method returned."""
        count = len(self.params)
        values = inputs[:count] if self.update is None else [widened(v) for v in inputs[:count]]
        found = self.make(dict(zip(self.params, values, strict=True)))
        return found, getattr(found, self.forward)(*inputs[count:])


def from_object(
    make: Callable[[dict[str, Any]], Any],
    params: Mapping[str, str],
    x: str,
    *,
    y: str = "",
    forward: Any = "forward",
    backward: Any = "backward",
    grads: Any = None,
    update: float | None = None,
    at: Any = None,
    batch: str | None = None,
    time: str | None = None,
    domain: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    contiguous: bool = False,
    name: str | None = None,
) -> Function:
    """An object that keeps its forward pass and its gradients.

    A fresh object is made for every evaluation, so nothing of one pass is left in the next:
    gradients may be gathered, and parameters changed.

    Args:
        make: from the parameters, a dict by name, to an object.
        params: parameter -> axes, as in a signature: ``{"Wx": "D 4H"}``.
        x: what ``forward`` takes: axes (``"N T D"``), or several inputs by name
            (``"x: N T D, h: N H"``).
        y: what it returns: axes, or several outputs by name; ``""``: found out.
        forward: the name of its forward method.
        backward: the name of its backward method, which takes the cotangents of the outputs and may
            return the gradients of the inputs.
        grads: where it leaves the gradients of the parameters: a function of the object, or the
            name of an attribute; a dict by name, or a list in the order of ``params``. None:
            ``grads``, or attributes with the usual names (``dWx``, ``grad_Wx``).
        update: the learning rate, if ``backward`` takes the step ``W - update * gradient`` itself:
            gradients are read from the change of the parameters, and ``grads`` says in the same way
            where these are (None: attributes of their names, or ``params``). Other optimisers
            than gradient descent are not understood. A larger rate shows more digits.
        at: arguments, parameters first: these very values are judged and no others.
        batch: the letter of the batch axis, as for :func:`from_vjp`.
        time: the letter of the time axis, in the same way.
        domain: input -> the values that it may have.
        deterministic: the results must be equal bit by bit in every call.
        contiguous: it takes C-contiguous arrays only.
        name: how reports call it; None: the name of what is made.

    Raises:
        ContractError: an argument is malformed; it says what was expected.
    """
    require_callable("make", make)
    require_rate(update)
    for method in (forward, backward):
        if not isinstance(method, str):
            raise ContractError(f"{method!r} should be the name of a method", item="forward")
    inputs = [*(f"{key}: {axes}" for key, axes in params.items()), x if ":" in x else f"x: {x}"]
    outputs = "" if not y else f" -> {y if ':' in y else f'y: {y}'}"
    text = ", ".join(inputs) + outputs
    names = [item.name for item in Signature.parse(text, batch=batch, time=time).inputs]
    data = [one for one in names if one not in params]
    objects = _Objects(make, list(params), data, forward, backward, grads, update)
    title = name or getattr(make, "__name__", "")
    return made(
        objects.forward_pass, objects.backward_pass, text, at=at, receives=(CACHE, ALL),
        batch=batch, time=time, domain=domain, deterministic=deterministic, contiguous=contiguous,
        methods=(forward, backward),
        name=title if title not in ("", "<lambda>") else f"object with {forward} and {backward}",
    )  # fmt: skip


def _of_data(found: Any, names: Sequence[str]) -> dict[str, Any]:
    """What a backward method returned, as the gradients of the inputs."""
    if found is None:
        return {}
    if isinstance(found, Mapping):
        return dict(found)
    parts = list(found) if isinstance(found, (tuple, list)) else [found]
    return {f"d_{name}": part for name, part in zip(names, parts, strict=False)}


def _of_params(made: Any, grads: Any, names: Sequence[str]) -> dict[str, Any]:
    """The gradients that an object left, by name."""
    if callable(grads):
        found = grads(made)
    elif grads is not None:
        found = getattr(made, grads)
    else:
        found = getattr(made, "grads", None)
    if isinstance(found, Mapping):
        return {f"d_{_of(key, names)}": value for key, value in found.items() if _of(key, names)}
    if isinstance(found, (list, tuple)):
        if len(found) != len(names):
            raise ContractError(
                f"{len(found)} gradients were left, but there are {len(names)} parameters: "
                f"{', '.join(names)}",
                item="grads",
            )
        return {f"d_{name}": value for name, value in zip(names, found, strict=True)}
    left: dict[str, Any] = {}
    for key, value in getattr(made, "__dict__", {}).items():
        name = _of(key, names)
        if name and key not in names and isinstance(value, np.ndarray):
            left.setdefault(f"d_{name}", value)
    return left


def _of(key: Any, names: Sequence[str]) -> str | None:
    return stands_for(str(key), names)
