"""A step as it runs: every operation on arrays, with its operands, its names and its line.

The step is run on the arrays of :mod:`bpttcheck.oracles.tracer`, which have shapes and no numbers.
An array that is written in place is a new value from then on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax
import numpy as np

from bpttcheck import trees
from bpttcheck.errors import BpttcheckError, Declined
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.tracer.arguments import replace
from bpttcheck.oracles.tracer.memory import ArrayProxy, Selection
from bpttcheck.oracles.tracer.run import TracingRun, current, decline
from bpttcheck.oracles.tracer.trace import enter, lift
from bpttcheck.oracles.tracer.watch import NumpyCall
from bpttcheck.traits import trait

PUT = "z[...] = ..."
FREEZE = "freeze"
INPUT = "input"
CONSTANT = "constant"


@dataclass(frozen=True)
class UserStand:
    """Where a function of the user stood.

    Args:
        code: its code.
        instruction: the number of the instruction.
    """

    code: CodeType
    instruction: int

    @property
    def span(self) -> tuple[int | None, ...]:
        """The expression: first and last line, first and last column."""
        first, last, left, right = list(self.code.co_positions())[self.instruction // 2]
        return first, last, left, right


@dataclass(eq=False)
class Value:
    """An array that the step made or was given.

    Args:
        op: the operation, ``"np.tanh"``; ``"input"`` and ``"constant"`` for what has none.
        args: its arguments, with values in place of arrays.
        kwargs: its keyword arguments.
        shape: its shape.
        kind: of its dtype: ``"f"``, ``"c"``, ``"i"``, ``"b"``.
        known: True if it does not depend on the inputs.
        part: its number, of an operation with several results.
        stands: where user code stood, innermost first.
        label: what an input is called: ``params["W"]``.
        array: the content of a constant.
        native: NumPy's own function.
        names: the variables that it was bound to, by function.
    """

    op: str
    args: Any
    kwargs: Any
    shape: tuple[int, ...]
    kind: str
    known: bool
    part: int | None = None
    stands: tuple[UserStand, ...] = ()
    label: str = ""
    array: Any = None
    native: Any = None
    names: list[tuple[CodeType, str]] = field(default_factory=list[tuple[CodeType, str]])

    @property
    def operands(self) -> list[Value]:
        """The values among its arguments, in order."""
        found: list[Value] = []
        replace((self.args, self.kwargs), lambda x: found.append(x) if _is_value(x) else None)
        return found


def place(value: Value) -> str:
    """File and line of an operation, ``"cell.py:12"``."""
    if not value.stands:
        return ""
    stand = value.stands[0]
    return f"{stand.code.co_filename.rpartition('/')[2]}:{stand.span[0]}"


def _is_value(item: Any) -> bool:
    return isinstance(item, Value)


@dataclass
class StepRecording:
    """One run of a step.

    Args:
        values: every value, in order.
        params: the parameters, by key.
        state: the leaves of the state.
        x: the input.
        new_state: the leaves of the new state.
        y: the output.
        cache: the third result, with values in place of arrays.
        step: the code of the step; that of a surrogate, if it has one.
        structure: of the state.
        integers: the variables of the step that hold one.
    """

    values: list[Value]
    params: dict[str, Value]
    state: list[Value]
    x: Value
    new_state: list[Value]
    y: Value
    cache: Any
    step: CodeType
    structure: trees.Structure
    integers: dict[str, int]


def record(cell: Any, params: Any, state: Any, x: Any) -> StepRecording:
    """Run a step once.

    Args:
        cell: the cell; of one with a ``surrogate_step`` that is recorded, too.
        params: arrays by key.
        state: the state before the step.
        x: its input ``(B, n_in)``.

    Raises:
        Declined: the step cannot be traced.
    """
    recorder = _Recorder()

    inputs = trees.structure((params, state, x))  # JAX would sort the keys of a dict

    def step(*leaves: Any) -> Any:
        return recorder.step(cell, *inputs.unflatten(leaves))  # the tracer finds the cell here

    lifted = lift(step, watch=recorder.see)
    with reference_mode():
        try:
            jax.eval_shape(lifted, *map(_abstract, trees.leaves((params, state, x))))
        except BpttcheckError:
            raise
        except Exception as error:  # raised by the step itself, on purpose
            raise Declined(f"step raised {type(error).__name__}: {error}") from error
    assert recorder.done is not None
    return recorder.done


def _abstract(leaf: Any) -> Any:
    array = np.asarray(leaf)
    dtype = np.dtype(np.float64) if array.dtype.kind == "f" else array.dtype
    return jax.ShapeDtypeStruct(array.shape, dtype)


class _Recorder:
    def __init__(self) -> None:
        self._values: list[Value] = []
        self._of: dict[int, tuple[Any, int, Value]] = {}
        self._same: dict[Any, Value] = {}
        self._integers: dict[CodeType, dict[str, int]] = {}
        self._foreign: dict[int, tuple[Any, Value]] = {}
        self.done: StepRecording | None = None

    def step(self, cell: Any, params: Any, state: Any, x: Any) -> Any:
        """The step, with its inputs and results noted."""
        given = {key: self._input(array, _labelled(key)) for key, array in params.items()}
        before = [self._input(leaf, f"state{path}") for leaf, path in _leaves(state)]
        first = self._input(x, "x")
        code = _code(cell.step)
        with self._watched():
            result = cell.step(params, state, x)
        if not isinstance(result, tuple) or len(result) != 3:
            decline("a step that does not return three things", "return new_state, y, cache")
        new, y, cache = result
        cache = replace(cache, self._cached)
        surrogate = trait(cell, "surrogate_step")
        if surrogate is not None:
            code = _code(surrogate)
            with self._watched():
                new, y = surrogate(self._freeze, params, state, x)
        self.done = StepRecording(
            self._values, given, before, first,
            [self._read(leaf) for leaf in _aligned(new, trees.structure(state))], self._read(y),
            cache, code, trees.structure(state), self._integers.get(code, {}),
        )  # fmt: skip
        return y

    def see(self, call: NumpyCall, perform: Callable[[], Any]) -> Any:
        """Note one operation."""
        args, kwargs = replace((call.args, call.kwargs), self._operand)
        stands = self._stands()
        result = perform()
        outs = kwargs.pop("out", None) if isinstance(kwargs, dict) else None
        if call.name == PUT:
            self._note(call, args, kwargs, call.args[0], None, stands)
            return result
        several = isinstance(result, (list, tuple))
        for part, one in enumerate(result if several else [result]):
            if isinstance(one, ArrayProxy):
                self._note(call, args, kwargs, one, part if several else None, stands)
        del outs
        return result

    def _note(
        self, call: NumpyCall, args: Any, kwargs: Any, made: ArrayProxy, part: int | None,
        stands: tuple[UserStand, ...],
    ) -> None:  # fmt: skip
        shadow = made.shadow
        key = (call.name, part, _key(args), _key(kwargs))
        value = self._same.get(key) if key[2] is not None and key[3] is not None else None
        if value is None:
            value = Value(
                call.name, args, kwargs, tuple(shadow.shape), shadow.dtype.kind, made.known,
                part, stands, native=call.native,
            )  # fmt: skip
            self._values.append(value)
            self._same[key] = value
        self._bind(made, value)

    def _bind(self, proxy: ArrayProxy, value: Value) -> None:
        self._of[id(proxy)] = (proxy, proxy.buffer.version, value)

    def _input(self, proxy: Any, label: str) -> Value:
        shadow = proxy.shadow
        value = Value(INPUT, (), {}, tuple(shadow.shape), shadow.dtype.kind, False, label=label)
        self._values.append(value)
        self._bind(proxy, value)
        return value

    def _read(self, proxy: Any) -> Value:
        """The value of an array now."""
        if not isinstance(proxy, ArrayProxy):
            return self._constant(proxy)
        found = self._of.get(id(proxy))
        if found is None or found[1] != proxy.buffer.version:
            if proxy.known:
                return self._constant(np.array(proxy.shadow), proxy)
            decline(
                "an array that is read after it was written in place through another view",
                "np.concatenate or np.where instead of the write",
            )
        return found[2]

    def _constant(self, array: Any, proxy: Any = None) -> Value:
        held = self._foreign.get(id(array if proxy is None else proxy))
        if held is not None:
            return held[1]
        plain = np.asarray(array)
        value = Value(CONSTANT, (), {}, plain.shape, plain.dtype.kind, True, array=array)
        self._values.append(value)
        self._foreign[id(array if proxy is None else proxy)] = (
            array if proxy is None else proxy, value
        )  # fmt: skip
        return value

    def _operand(self, item: Any) -> Any:
        if isinstance(item, Selection):
            decline("z[mask] for a mask that depends on values", "np.where(mask, a, b)")
        return self._read(item) if isinstance(item, (ArrayProxy, np.ndarray)) else item

    def _cached(self, item: Any) -> Any:
        """An array of the cache that holds what it held when it was made, else None."""
        if not isinstance(item, ArrayProxy):
            return None
        found = self._of.get(id(item))
        return found[2] if found is not None and found[1] == item.buffer.version else None

    def _freeze(self, tree: Any) -> Any:
        run = current()
        assert run is not None
        return trees.map_leaves(lambda leaf: self._frozen(run, leaf), tree)

    def _frozen(self, run: TracingRun, leaf: Any) -> Any:
        if not isinstance(leaf, ArrayProxy):
            return leaf
        made = enter(run, jax.lax.stop_gradient(leaf.read()))
        source = self._read(leaf)
        value = Value(FREEZE, (source,), {}, source.shape, source.kind, False, stands=source.stands)
        self._values.append(value)
        self._bind(made, value)
        return made

    def _stands(self) -> tuple[UserStand, ...]:
        found: list[UserStand] = []
        for frame in _user_frames(sys._getframe(1)):  # pyright: ignore[reportPrivateUsage]
            found.append(UserStand(frame.f_code, frame.f_lasti))
            self._names(frame)
        return tuple(found)

    def _names(self, frame: FrameType) -> None:
        """Note which variables hold which values."""
        for name, item in list(frame.f_locals.items()):
            if type(item) is int:
                self._integers.setdefault(frame.f_code, {})[name] = item
            found = self._of.get(id(item))
            if found is None and isinstance(item, np.ndarray):
                held = self._foreign.get(id(item))
                value = None if held is None else held[1]
            elif found is not None and found[0] is item and found[1] == found[0].buffer.version:
                value = found[2]
            else:
                continue
            if value is not None and (frame.f_code, name) not in value.names:
                value.names.append((frame.f_code, name))

    def _watched(self) -> _Profile:
        return _Profile(self._names)


class _Profile:
    """Looks at the variables of every function of the user as it returns."""

    def __init__(self, see: Callable[[FrameType], None]) -> None:
        self._see = see
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(self._call)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _call(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and _is_user(frame):
            self._see(frame)


def _user_frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        if _is_user(frame):
            yield frame
        elif frame.f_code is _Recorder.step.__code__:
            return
        frame = frame.f_back


_PACKAGE = Path(__file__).resolve().parents[2]
_ZOO = (_PACKAGE / "cells", _PACKAGE / "activations.py")


def _is_user(frame: FrameType) -> bool:
    run = current()
    if run is None or id(frame.f_globals) not in run.namespaces:
        return False
    path = Path(frame.f_code.co_filename)
    return _PACKAGE not in path.parents or any(z in (path, *path.parents) for z in _ZOO)


def _code(method: Any) -> CodeType:
    code = getattr(getattr(method, "__func__", method), "__code__", None)
    if code is None:
        raise Declined(f"step is a {type(method).__name__}, no function written in Python")
    return code


def _aligned(tree: Any, like: trees.Structure) -> list[Any]:
    """The leaves of a new state in the order of the old one."""
    if like.kind == "leaf":
        return [tree]
    if trees.structure(tree).kind != like.kind or len(tree) != len(like.children):
        decline("a step that returns a state of another structure", "the structure of the state")
    parts = [tree[key] for key in like.keys] if like.kind == "dict" else list(tree)
    pairs = zip(parts, like.children, strict=True)
    return [leaf for part, child in pairs for leaf in _aligned(part, child)]


def _labelled(key: str) -> str:
    return f'params["{key}"]' if '"' not in key else f"params[{key!r}]"


def _leaves(tree: Any) -> list[tuple[Any, str]]:
    return list(zip(trees.leaves(tree), trees.structure(tree).paths, strict=True))


def _key(item: Any) -> Any:
    """What is equal for equal arguments, or None if that is not known."""
    found: list[Any] = []

    def visit(one: Any) -> None:
        found.append(id(one) if isinstance(one, Value) else (type(one).__name__, repr(one)))

    shape = replace(item, lambda one: (visit(one), 0)[1])
    return repr(shape), tuple(found)


__all__ = [
    "CONSTANT", "FREEZE", "INPUT", "PUT", "StepRecording", "UserStand", "Value", "place", "record",
]  # fmt: skip
