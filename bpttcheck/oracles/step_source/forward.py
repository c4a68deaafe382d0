"""The operation that made a value, as an expression of its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bpttcheck.errors import Declined
from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.recording import FREEZE, PUT, Value, place
from bpttcheck.oracles.step_source.terms import Term
from bpttcheck.oracles.step_source.traces import Sizes, Varying

SIGMOID = "sigmoid"
SOFTPLUS = "softplus"

INFIX = {
    "np.greater": ">", "np.greater_equal": ">=", "np.less": "<", "np.less_equal": "<=",
    "np.equal": "==", "np.not_equal": "!=", "np.bitwise_and": "&", "np.logical_and": "&",
    "np.bitwise_or": "|", "np.logical_or": "|", "np.remainder": "%", "np.floor_divide": "//",
    "np.bitwise_xor": "^",
}  # fmt: skip
_SIMPLE: dict[str, Callable[..., Term]] = {
    "np.add": terms.add_pair,
    "np.subtract": terms.sub,
    "np.multiply": terms.mul,
    "np.divide": terms.div,
    "np.true_divide": terms.div,
    "np.power": terms.power,
    "np.negative": terms.neg,
    "np.conjugate": terms.conj,
    "np.real": terms.real,
    "np.imag": terms.imag,
    "np.square": lambda a: terms.power(a, terms.number(2)),
    "np.positive": lambda a: terms.call("np.positive", a),
    "np.invert": lambda a: Term("not", (a,), None, a.shape),
    "np.logical_not": lambda a: Term("not", (a,), None, a.shape),
    "np.matmul": terms.matmul,
}
_FOLDED = ("np.transpose", "np.negative", "np.conjugate")


def _is_scaled(value: Value) -> bool:
    """True for a number times a value."""
    plain = [isinstance(item, (int, float)) for item in value.args]
    return value.op == "np.multiply" and len(plain) == 2 and sum(plain) == 1


def of(value: Value) -> Term:
    """A reference to a value."""
    return terms.ref(value, value.shape, value.kind == "c")


class Forward:
    """Writes operations as expressions.

    Args:
        sizes: texts of sizes.
        named: True for a value that has a name.
        attribute: the text of a number that is an attribute of the cell, ``"self.g"``, or ``""``.
    """

    def __init__(
        self, sizes: Sizes, named: Callable[[Value], bool], attribute: Callable[[Any, Value], str]
    ) -> None:
        self.sizes, self._named, self._attribute = sizes, named, attribute
        self.functions: Mapping[Value, tuple[str, Value]] = {}
        """Values that are known functions of another one."""

    def operand(self, item: Any, of_value: Value | None = None) -> Term:
        """An argument of the operation that made a value: a value or a number."""
        if isinstance(item, Value):
            scaled = _is_scaled(item) and item not in self.functions
            if not self._named(item) and (item.op in _FOLDED or scaled):
                return self.own(item)
            return of(item)
        if isinstance(item, Varying):
            text = self.sizes.number(item.values)
            if not text:
                raise Declined(f"a number that differs with the sizes, {item.values[0]!r} at one")
            return terms.number(item.values[0], text)
        if isinstance(item, float) and of_value is not None:
            text = self._attribute(item, of_value)
            if text:
                return terms.number(item, text)
        if isinstance(item, (bool, int, float, complex)):
            return terms.number(item)
        if isinstance(item, np.generic):
            return terms.number(item.item())
        if isinstance(item, (list, tuple)):
            parts = tuple(self.operand(part) for part in item)
            return Term("list", parts, type(item).__name__, (len(parts),))
        return terms.number(item, self.literal(item))

    def literal(self, item: Any) -> str:
        """A setting of a function, such as an axis or a shape."""
        if isinstance(item, Varying):
            return self.operand(item).info[1]
        if isinstance(item, (tuple, list)):
            inner = ", ".join(self.literal(part) for part in item)
            left, right = "[]" if isinstance(item, list) else "()"
            return f"{left}{inner}{',' if len(item) == 1 else ''}{right}"
        if isinstance(item, (type, np.dtype)):
            dtype = np.dtype(item)
            if dtype == np.float64:
                return "d_y.dtype"  # the step is traced in double precision
            return {"b": "bool", "i": "int"}.get(dtype.kind, f"np.{dtype.name}")
        if isinstance(item, str):
            return f'"{item}"'
        if item is None or isinstance(item, (bool, int, float)):
            return repr(item)
        raise Declined(f"an argument of type {type(item).__name__}")

    def parts(self, at: Any) -> tuple[Any, ...]:
        """An index as None, ``...``, integers, slices of texts and terms."""
        return tuple(self._part(p) for p in (at if isinstance(at, tuple) else (at,)))

    def _part(self, part: Any) -> Any:
        if isinstance(part, slice):
            return slice(*(
                None if end is None else end if isinstance(end, int) else self._end(end)
                for end in (part.start, part.stop, part.step)
            ))  # fmt: skip
        if part is None or part is Ellipsis or (isinstance(part, int) and part is not True):
            return part
        if isinstance(part, np.integer):
            return int(part)
        return self.operand(part)

    def _end(self, end: Any) -> Any:
        return int(end) if isinstance(end, np.integer) else self.operand(end)

    def own(self, value: Value) -> Term:
        """The operation that made a value, on references to its operands."""
        op = value.op
        if op == FREEZE:
            return self.operand(value.args[0])
        if op == PUT:
            raise Declined("a value that was written in place is needed again", where=place(value))
        args = [self.operand(item, value) for item in value.args] if op != "z[...]" else []
        plain = not value.kwargs or set(value.kwargs) <= {"out"}
        if op in INFIX and plain:
            return terms.infix(INFIX[op], *args)
        if op == "np.multiply" and plain:
            made = terms.mul(*args)
        elif op in _SIMPLE and plain:
            made = _SIMPLE[op](*args)
        elif op == "np.transpose" and len(args) == 1 and len(value.shape) == 2:
            made = terms.transposed(args[0])
        elif op == "z[...]":
            array, at = value.args
            made = terms.index(self.operand(array), self.parts(at), value.shape)
        else:
            made = self._called(value, args)
        return Term(made.head, made.args, made.info, value.shape, value.kind == "c")

    def _called(self, value: Value, args: list[Term]) -> Term:
        named = {key: self.literal(item) for key, item in value.kwargs.items() if key != "out"}
        made = Term("call", tuple(args), (value.op, tuple(named.items())), value.shape,
                    value.kind == "c")  # fmt: skip
        return made if value.part is None else terms.index(made, (value.part,), value.shape)
