"""A torch function or ``nn.Module`` of any signature, differentiated by torch's autograd.

Whatever has a hand-written ``autograd.Function`` anywhere inside is judged as a whole: its inputs,
and the parameters of a module by their names, against differences and, where a plain torch
function is given as reference, against the gradient that torch derives of that.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.adapt.arguments import given, name_of
from bpttcheck.adapt.autograd_function import to_tensor
from bpttcheck.adapt.function import Function, flat_inputs, letters_of
from bpttcheck.adapt.functions import from_vjp
from bpttcheck.adapt.received import ALL, CACHE
from bpttcheck.adapt.second_order import Backward, of_second_order, require_order
from bpttcheck.adapt.torch_gradients import (
    AutogradGraph,
    Gradients,
    pulled_back,
    pulled_to_differentiate,
    require_differentiable,
    require_plain,
    to_array,
)
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, Declined
from bpttcheck.signature import Leaf, Signature


@dataclass(frozen=True, repr=False)
class TorchFunction(Function):
    """A function of torch, with what it is compared with.

    Args:
        reference_function: a torch function or module of the same inputs, or None.
    """

    reference_function: Callable[..., Any] | None = None

    @property
    def torch_reference(self) -> Callable[[Mapping[str, Any]], list[Any]] | None:
        """The reference, from tensors by leaf to the outputs; None: there is none."""
        return None if self.reference_function is None else self._compared

    def sequence(
        self, engine: Any, params: Any, xs: Any, state0: Any, mask: Any
    ) -> tuple[Any, Any]:
        """No code for JAX to trace.

        Raises:
            Declined: always.
        """
        given = "pass `reference=`, a plain torch function of the same inputs"
        raise Declined(
            "it traces no code of torch", remedy="" if self.reference_function else given
        )

    def _compared(self, leaves: Mapping[str, Any]) -> list[Any]:
        assert self.reference_function is not None
        sizes = self.letters(leaves)
        result = self.reference_function(*self.signature.build(leaves, sizes))
        return list(self._split(result, sizes)[0].values())


def from_torch(
    function: Any,
    signature: str,
    reference: Any = None,
    *,
    at: Any = None,
    batch: str | None = None,
    time: str | None = None,
    domain: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    order: int = 1,
    device: Any = "cpu",
    name: str | None = None,
) -> Function:
    """A differentiable torch function or module with a hand-written ``autograd.Function`` inside.

    It runs as in training. A result whose cotangent is exactly zero is left out of the
    loss; every backward pass runs twice over its graph; and in small cases the gradients must be
    the same where only one input requires a gradient, where one output alone takes part in the
    loss, and where a cotangent is expanded, as that of ``sum(0)`` is. A gradient that is None is
    not checked, and the report names it.

    Parameters of a module are inputs by their names, with ``_`` for ``.``: those that the signature
    does not name are added to it. Their sizes are the module's own.

    Args:
        function: a function of tensors, or a module.
        signature: inputs and outputs, such as ``"x: T N D, weight: H D -> y: T N H"``.
        reference: a plain torch function of the same inputs, in the order of the signature and then
            of the parameters added; or a module with the same names of parameters. None: finite
            differences decide.
        at: arguments, parameters by their names: these very values are judged and no others.
        batch: the letter of the batch axis; ``""``: there is none; None: ``B`` or ``N``.
        time: the letter of the time axis; ``""``: there is none; None: ``T``.
        domain: input -> the values that it may have.
        deterministic: the results must be equal bit by bit in every call.
        order: 2 checks the gradient of the gradient instead, as ``create_graph=True`` makes it: see
            ``docs/how-to/your-code.md``.
        device: where the function runs, such as ``"cuda:1"``. Arrays go there and back; the
            reference runs on the CPU.
        name: how reports call it; None: the name of the function or of the module's class.

    Returns:
        A subject for :func:`bpttcheck.check`, ``parametrize_with_checks`` and the rest.

    Raises:
        ContractError: torch or the device is missing, or an argument is malformed.
    """
    require_order(order)
    try:
        from torch.nn import Module
    except ImportError as error:
        raise ContractError(
            "from_torch needs torch, which is not installed; run: pip install torch"
        ) from error
    for what, one in (("function", function), ("reference", reference)):
        if isinstance(one, type) or not (callable(one) or (what == "reference" and one is None)):
            raise ContractError(
                f"{given(what, one)}, expected a function of tensors or an instance of nn.Module",
                item=what,
            )
    if not Signature.parse(signature, batch=batch, time=time).outputs:
        raise ContractError(
            f"signature={signature!r} names no outputs: write '... -> h: N T H'", item="signature"
        )
    text = with_parameters(signature, function) if isinstance(function, Module) else signature
    names = [item.name for item in Signature.parse(text).inputs]
    outputs = [item.name for item in Signature.parse(text).outputs]
    program = _program(function, names, outputs, _require_device(device))
    title = name or name_of(None, function)
    forward, backward = partial(_forward, program), partial(_backward, program, title)
    made = from_vjp(
        forward, backward, text, at=at if order == 1 else None, receives=(CACHE, ALL), batch=batch,
        time=time, domain=domain, deterministic=deterministic, name=title,
    )  # fmt: skip
    own: dict[str, Any] = {one.name: getattr(made, one.name) for one in fields(made)}
    own["methods"] = (title, f"{title}.backward")
    other = None if reference is None else _program(reference, names, outputs)
    bound = TorchFunction(**own, reference_function=other)
    program.subject = bound
    if order == 1:
        return bound
    twice = Backward(program, bound, partial(pulled_to_differentiate, require_differentiable))
    of_other = (
        None
        if other is None
        else Backward(other, bound, partial(pulled_to_differentiate, require_plain))
    )
    return from_torch(
        twice, of_second_order(bound.signature), of_other, at=at, batch="",
        time=bound.signature.time, domain=domain, deterministic=deterministic, device=device,
    )  # fmt: skip


def _require_device(device: Any) -> Any:
    """The device, where torch can compute and read results back."""
    import torch

    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ContractError(
            f"{given('device', device)} is none that torch can use here ({reason}), expected 'cpu' "
            "or the name of an accelerator that this machine has",
            item="device",
        ) from error
    return found


@dataclass(eq=False)
class _Program:
    """A torch function or module, as a function of all inputs in the order of the signature.

    Args:
        function: the function or module.
        names: of the inputs.
        outputs: what it returns, by name.
        aliases: the inputs that are parameters of a module -> their names there.
        device: where it runs.
        copies: the module by dtype.
        subject: what is made of it, which knows its outputs.
    """

    function: Any
    names: Sequence[str]
    outputs: Sequence[str]
    aliases: Mapping[str, str]
    device: Any = "cpu"
    copies: dict[Any, Any] = field(default_factory=dict[Any, Any])
    subject: Any = None

    def __call__(self, *arguments: Any) -> Any:
        found = self._called(arguments)
        if isinstance(found, Mapping) and self.outputs:
            missing = [name for name in self.outputs if name not in found]
            if missing:
                raise ContractError(
                    f"a dict of {', '.join(map(str, found))} was returned, but the signature names "
                    f"{missing[0] or 'no output'}; write its outputs one by one, such as "
                    f"'-> {next(iter(found), 'y')}: N H'",
                    item="signature",
                )
            return tuple(found[name] for name in self.outputs)
        return found

    def tensor(self, array: Any) -> Any:
        """An array on the device."""
        return to_tensor(array).to(self.device)

    def _called(self, arguments: Sequence[Any]) -> Any:
        if not self.aliases:
            return self.function(*arguments)
        from torch.func import functional_call

        pairs = list(zip(self.names, arguments, strict=True))
        parameters = {self.aliases[n]: a for n, a in pairs if n in self.aliases}
        dtype = next(iter(parameters.values())).dtype
        if dtype not in self.copies:
            self.copies[dtype] = copy.deepcopy(self.function).to(self.device, dtype)
        module = self.copies[dtype]
        # What a pass writes into a buffer is gone with it.
        kept = {key: buffer.clone() for key, buffer in module.named_buffers()}
        handed = [a for n, a in pairs if n not in self.aliases]
        return functional_call(module, {**parameters, **kept}, tuple(handed))


def _program(
    function: Any, names: Sequence[str], outputs: Sequence[str], device: Any = "cpu"
) -> _Program:
    aliases = aliases_of(function) if hasattr(function, "named_parameters") else {}
    unknown = [alias for alias in aliases if alias not in names]
    if unknown:
        raise ContractError(
            f"the module has a parameter {aliases[unknown[0]]!r}, but the inputs are "
            f"{', '.join(names)}: a reference must have the parameters of what it is compared with",
            item="reference",
        )
    return _Program(function, names, outputs, aliases, device)


def _forward(program: _Program, *arguments: Any) -> tuple[Any, ...]:
    """The outputs as arrays, and the arguments for the backward pass."""
    import torch

    with torch.enable_grad():
        found = program(*_mapped(program.tensor, arguments))
    found = _mapped_result(found)
    # What it is given is the caller's business: it is handed on unseen.
    kept = lambda: arguments  # noqa: E731
    return (*found, kept) if isinstance(found, tuple) else (found, kept)


def _backward(program: _Program, title: str, cache: Any, *cotangents: Any) -> dict[str, Any]:
    """The gradient of each input, in the structure of that input."""
    arguments = cache()
    labels = [f"d_{name}" for name, leaf in _by_name(program, arguments).items() if is_float(leaf)]

    def graph(wanted: Sequence[int] | None = None) -> AutogradGraph:
        return _graph(program, arguments, cotangents, labels, wanted)

    found = pulled_back(graph, title)
    require_conduct(graph, found, title)
    source = iter(found)
    inputs = _mapped(lambda leaf: next(source) if is_float(leaf) else None, arguments)
    return {f"d_{name}": value for name, value in zip(program.names, inputs, strict=True)}


def _by_name(program: _Program, arguments: Sequence[Any]) -> dict[str, Any]:
    return flat_inputs(program.subject.signature, arguments)


def _graph(
    program: _Program,
    arguments: Sequence[Any],
    cotangents: Sequence[Any],
    labels: Sequence[str],
    wanted: Sequence[int] | None,
) -> AutogradGraph:
    """The graph of a pass in which some of the inputs require a gradient; None: all of them."""
    import torch

    sources: list[Any] = []
    counted = iter(range(len(labels)))

    def leaf(array: Any) -> Any:
        tensor = program.tensor(array)
        if is_float(array):
            i = next(counted)
            if wanted is None or i in wanted:
                sources.append(tensor.requires_grad_())
        return tensor

    with torch.enable_grad():
        passed = _mapped(leaf, arguments)
        result = program(*passed)
    chosen = [label for i, label in enumerate(labels) if wanted is None or i in wanted]
    graph = AutogradGraph(sources, chosen, sources)
    outputs, _ = program.subject._split(
        (*result, None) if isinstance(result, tuple) else result,
        program.subject.letters(_by_name(program, arguments)),
    )
    for (name, out), slope in zip(outputs.items(), cotangents, strict=True):
        if out.requires_grad:
            graph.results.append(out)
            graph.slopes.append(program.tensor(slope).to(out.dtype))
            graph.names.append(name)
    if not graph.results and wanted is None:
        raise ContractError(
            f"no output carries a gradient of {', '.join(chosen)}: are all detached?",
            method="backward",
        )
    return graph


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """A tree of arguments with every array replaced."""
    if isinstance(tree, (np.ndarray, np.generic)) or hasattr(tree, "__array_ufunc__"):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: _mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_mapped(function, value) for value in tree)
    return tree


def _mapped_result(tree: Any) -> Any:
    import torch

    if isinstance(tree, torch.Tensor):
        return to_array(tree)
    if isinstance(tree, Mapping):
        return {key: _mapped_result(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(_mapped_result(value) for value in tree)
    return tree


# Larger cases have the same code and cost more.
_SMALL = 2048


def require_conduct(
    build: Callable[[Sequence[int] | None], AutogradGraph], whole: Gradients, function: str
) -> None:
    """Ask a small graph in every way.

    Args:
        build: makes the graph again, with those inputs requiring a gradient; None: all.
        whole: the gradient of each input where all require one.
        function: its name.

    Raises:
        ContractError: one way fails or gives another gradient; it says which.
    """
    graph = build(None)
    if sum(source.numel() for source in graph.sources) > _SMALL or not all(graph.used()):
        return
    everything = [True] * len(graph.results)
    if len(whole) > 1:
        for i, label in enumerate(graph.labels):
            if whole[i] is None:
                continue
            alone = build([i])
            way = f"where only the input of {label} requires a gradient"
            found = _asked(
                lambda one=alone: one.gradients([True] * len(one.results)), way, function
            )
            _require_equal(found, [whole[i]], [label], way, function)
    if len(graph.results) > 1:
        parts = [
            _asked(
                lambda k=k: graph.gradients([j == k for j in range(len(everything))]),
                f"where {name} alone takes part in the loss",
                function,
            )
            for k, name in enumerate(graph.names)
        ]
        for place, label in enumerate(graph.labels):
            none = [n for n, part in zip(graph.names, parts, strict=True) if part[place] is None]
            way = "summed over losses of one output each"
            if none and whole[place] is not None:
                way += f" (it is None where {' or '.join(none)} alone takes part in the loss)"
            summed = _summed([part[place : place + 1] for part in parts])
            _require_equal(summed, whole[place : place + 1], [label], way, function)
    way = "for a cotangent that is expanded, as that of `sum(0)` is"
    ones = _with_ones(build(None), expanded=False).gradients(everything)
    loose = _with_ones(build(None), expanded=True)
    found = _asked(lambda: loose.gradients(everything), way, function)
    _require_equal(found, ones, graph.labels, way, function)


def _with_ones(graph: AutogradGraph, expanded: bool) -> AutogradGraph:
    """The graph with cotangents of ones."""
    import torch

    graph.slopes[:] = [
        torch.ones(one.shape[1:], dtype=one.dtype, device=one.device).expand(one.shape)
        if expanded
        else torch.ones_like(one)
        for one in graph.results
    ]
    return graph


def _asked(ask: Callable[[], Gradients], way: str, function: str) -> Gradients:
    try:
        return ask()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}".rstrip(": ")
        raise ContractError(
            f"{function}: backward raised {type(error).__name__}: {error} ({place}) {way}, "
            "expected the same gradient",
            method="backward",
        ) from error


def _summed(parts: Sequence[Gradients]) -> Gradients:
    """The sum of gradients, where None adds nothing; None where all are None."""
    sums: Gradients = []
    for column in zip(*parts, strict=True):
        known = [one for one in column if one is not None]
        sums.append(np.sum(known, axis=0) if known else None)
    return sums


def _require_equal(
    found: Gradients, whole: Gradients, labels: Sequence[str], way: str, function: str
) -> None:
    """Equal in half of their digits: another order of the sums is no mistake."""
    for one, other, label in zip(found, whole, labels, strict=True):
        if one is None and other is None:
            continue
        if _apart(one, other):
            raise ContractError(
                f"{function}: another {label} {way}, expected the same as otherwise",
                method="backward",
                item=label,
            )


def _apart(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return other is None or bool(np.any(other))
    with np.errstate(all="ignore"):
        scale = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
        gap = np.abs(one - other).max(initial=0.0)
    if not np.isfinite(scale):
        return False  # what overflows is judged elsewhere
    return bool(gap > np.sqrt(np.finfo(one.dtype).eps) * scale)


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
