"""The user's backward pass: its source, other code in its place, its gradients."""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from types import FunctionType
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.adapt.function import Function
from bpttcheck.blocks import of_state
from bpttcheck.contract import is_cell
from bpttcheck.errors import Declined
from bpttcheck.judge.handwritten import NAMES, SEQUENCE, STEP, params_blocks
from bpttcheck.mutants.source.reading import Method, read, read_function
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.filled import filled, unfilled

Gradients = Mapping[str, Any]


@dataclass(frozen=True)
class BackwardSource:
    """A backward pass whose source may be edited.

    Args:
        target: the cell, layer or function.
        method: its backward pass, with the tree of ``text``.
        text: the file in which it stands.
        fills: whether it returns None for some gradients.
        caller: the backward pass that calls it, if it is a helper of one.
    """

    target: Any
    method: Method
    text: str
    fills: bool = False
    caller: BackwardSource | None = None

    @classmethod
    def of(cls, target: Any, fills: bool = False) -> BackwardSource:
        """The backward pass of a cell, a layer or a function.

        Raises:
            Declined: there is no source, or it must not be changed.
        """
        bare = unfilled(target)
        if isinstance(bare, Function):
            method = read_function(bare.backward_function or bare.forward_function)
        else:
            method = read(bare, "step_vjp" if is_cell(bare) else "vjp")
        return cls(bare, method, "".join(inspect.findsource(method.function)[0]), fills)

    def helpers(self) -> Iterator[BackwardSource]:
        """The functions of its module, and the methods of its class, that it alone calls.

        What the forward pass calls, too, stays as it is: an edit would change what is derived.
        """
        first = next(iter(self.method.tree.args.args), None)
        seen: set[FunctionType] = {self.method.function}
        for node in ast.walk(self.method.tree):
            found: Any = None
            match node:
                case ast.Call(func=ast.Name(id=name)):
                    found = self.method.function.__globals__.get(name)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                    if first is not None and owner == first.arg:
                        found = inspect.getattr_static(type(self.target), name, None)
                        found = getattr(found, "__func__", found)  # of a static method
                case _:
                    continue
            if not isinstance(found, FunctionType) or found in seen:
                continue
            seen.add(found)
            if found.__code__.co_filename == self.file:
                with suppress(Declined):
                    is_method = isinstance(node.func, ast.Attribute)
                    method = read(self.target, name) if is_method else read_function(found)
                    if not self._is_named_elsewhere(name, method.tree):
                        yield replace(self, method=method, caller=self)

    def _is_named_elsewhere(self, name: str, definition: ast.FunctionDef) -> bool:
        """True if the file has the name outside of the backward pass and of its definition."""
        lines = {
            line
            for tree in (self.method.tree, definition)
            for line in range(tree.lineno, (tree.end_lineno or tree.lineno) + 1)
        }
        return any(
            name in (getattr(node, "id", None), getattr(node, "attr", None))
            and node.lineno not in lines
            for node in ast.walk(ast.parse(self.text))
            if isinstance(node, ast.Name | ast.Attribute)
        )

    @property
    def file(self) -> str:
        """The file in which it stands."""
        return str(self.method.function.__code__.co_filename)

    @property
    def mode(self) -> str:
        """``"step"`` or ``"sequence"``: what one call of it is about."""
        return STEP if is_cell(self.target) else SEQUENCE

    @cached_property
    def makes_anew(self) -> bool:
        """True if the forward pass must run before every call.

        It writes into arrays, which may be those of its record, or it is the forward pass itself.
        """
        if isinstance(self.target, Function) or (self.caller and self.caller.makes_anew):
            return True
        return any(
            isinstance(node, ast.AugAssign | ast.Delete)
            or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store))
            or (isinstance(node, ast.Call) and not _is_plain(node))
            for node in ast.walk(self.method.tree)
        )

    def edited(self, text: str, tree: ast.FunctionDef) -> BackwardSource:
        """The same with another text of its file, in which it is ``tree``."""
        return replace(self, text=text, method=replace(self.method, tree=tree))

    def planted(self, code: Callable[..., Any]) -> Any:
        """The target with other code for its backward pass; everything else is the target's own."""
        found = self._planted(code)
        return filled(found, "cell" if self.mode == STEP else "layer") if self.fills else found

    def proved_as(self) -> Any:
        """The target with this source for its backward pass, whose lines can be read."""
        name = f"<{self.method.function.__qualname__} as mended {id(self):x}>"
        linecache.cache[name] = (len(self.text), None, self.text.splitlines(True), name)
        return self._planted(self.method.compile(self.method.tree, name))  # a check fills it

    def _planted(self, code: Callable[..., Any]) -> Any:
        target = self.target
        if self.caller is not None and not self.method.owner:
            method = self.caller.method
            return self.caller._planted(
                method.compile(method.tree, **{self.method.function.__name__: code})
            )
        if isinstance(target, Function):
            if target.backward_function is None:
                return replace(target, forward_function=code)
            return replace(target, backward_function=code)
        owner = type(target)
        name = "step_vjp" if self.mode == STEP else "vjp"
        name = self.method.function.__name__ if self.caller is not None else name
        method: Any = self.method.wrapper(code) if self.method.wrapper else code
        own = {name: method, "__module__": owner.__module__, "__slots__": (),
               "__doc__": owner.__doc__, "__qualname__": owner.__qualname__}  # fmt: skip
        mended = copy.copy(target)
        object.__setattr__(mended, "__class__", type(owner.__name__, (owner,), own))
        return mended

    def forward(self, target: Any, problem: Problem) -> Any:
        """The record of a forward pass, for :meth:`gradients`."""
        params = dict(problem.params)
        if self.mode == STEP:
            return target.step(params, problem.state0, problem.xs[0])[2]
        mask = () if problem.mask is None else (problem.mask,)
        return target.forward(params, problem.xs, problem.state0, *mask)[2]

    def gradients(self, target: Any, problem: Problem, record: Any) -> Gradients:
        """What the backward pass of a planted target gives, by block.

        Raises:
            Exception: whatever it raises.
        """
        d_ys, d_state = np.array(problem.d_ys), trees.map_leaves(np.array, problem.d_state)
        params = dict(problem.params)  # an edit may put something into it
        if self.mode == STEP:
            d_params, d_before, d_x = target.step_vjp(params, record, d_state, d_ys[0])
        else:
            d_params, d_x, d_before = target.vjp(params, record, d_ys, d_state)
        state_name, x_name, _, _ = NAMES[self.mode]
        found = params_blocks(d_params, problem.params)
        found.update(of_state(state_name, d_before, problem.state0))
        found[x_name] = d_x
        found.update(self.outputs(record))
        return found

    def outputs(self, record: Any) -> Gradients:
        """What the forward pass gives, where it is the same function: no edit may change it."""
        if not isinstance(self.target, Function) or self.target.backward_function is not None:
            return {}
        tape = record[-1] if self.fills else record
        return {f"output {name}": value for name, value in tape.outputs.items()}

    def compiled(self, tree: ast.FunctionDef, **more: Any) -> FunctionType:
        """A changed copy of the source as a function; ``more`` are further globals."""
        return self.method.compile(tree, "", **more)


_IN_PLACE = ("pop", "append", "fill", "put", "copyto", "at", "sort", "popitem", "clear", "update")


def _is_plain(call: ast.Call) -> bool:
    """False for a call that may write into an array, or take something from a record."""
    if any(keyword.arg == "out" for keyword in call.keywords):
        return False
    return not (isinstance(call.func, ast.Attribute) and call.func.attr in _IN_PLACE)
