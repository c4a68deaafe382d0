"""StepNames: those of the user where there are any, else short ones, each once."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from types import CodeType

from bpttcheck.oracles.step_source.recording import INPUT, Value

_SHORT = 4
_COMPARED = {
    "np.greater": "above", "np.greater_equal": "above", "np.less": "below",
    "np.less_equal": "below", "np.equal": "is",
}  # fmt: skip


class StepNames:
    """Gives names to values and to their adjoints.

    Args:
        values: every value of the step.
        step: its code.
        taken: names that must not be given.
    """

    def __init__(self, values: Sequence[Value], step: CodeType, taken: set[str]) -> None:
        self._step = step
        self._values: dict[Value, str] = {}
        self._adjoints: dict[Value, str] = {}
        self._parts: dict[Value, list[str]] = {}
        self._taken = set(taken)
        self._own: dict[Value, str] = {}
        for value in values:
            self._own[value] = self._variable(value)
        for value in values:
            if value.part is not None and self.own(value):
                self._parts.setdefault(value.operands[0], []).append(self.own(value))
        own = set(self._own.values()) | set(step.co_varnames)
        self._reserved = own | {f"d_{name}" for name in own}

    def _variable(self, value: Value) -> str:
        mine = [name for code, name in value.names if code is self._step]
        if value.op == INPUT and len(mine) > 1:
            mine = [name for name in mine if name not in ("state", "s0")] or mine
        return mine[0] if mine else ""

    def own(self, value: Value) -> str:
        """The variable that holds a value in ``step`` itself, or ``""``."""
        return self._own.get(value, "")

    def holders(self, name: str) -> list[Value]:
        """The values that a variable of ``step`` holds in turn."""
        return [v for v in self._own if (self._step, name) in v.names]

    def claim(self, name: str) -> bool:
        """Take a name for something else, if it is free."""
        free = name not in self._taken and name not in self._own.values()
        self._taken.add(name)
        return free

    def value(self, value: Value) -> str:
        """The name of a value; made on first use."""
        if value not in self._values:
            self._values[value] = self._free("", value)
        return self._values[value]

    def adjoint(self, value: Value, alias: Value | None = None, before: str = "") -> str:
        """The name of its adjoint: ``d_`` and its own name, or that of another value."""
        if value not in self._adjoints:
            self._adjoints[value] = self._free(f"d_{before}", alias or value)
        return self._adjoints[value]

    def cotangent(self, value: Value) -> str:
        """A name for what is given for the state after the step, ``d_h_next``."""
        return self._free("d_", value, "_next")

    def _basis(self, value: Value) -> tuple[str, bool]:
        """A name, and whether it is the user's own."""
        own = self.own(value)
        if own:
            return own, True
        others = [name for _, name in value.names]
        if value.label.startswith("params"):
            return "".join(c for c in value.label[6:] if c.isalnum() or c == "_"), True
        if value.label:
            digits = "".join(c for c in value.label[5:] if c.isalnum() or c == "_")
            return (others[0] if others else f"s{digits}" if digits[:1].isdigit() else digits), True
        return self._made(value) or (others[0] if others else "t"), False

    def _made(self, value: Value) -> str:
        """A name from what a value is made of, or what is made of it."""
        parts = self._parts.get(value, [])
        if parts and sum(map(len, parts)) <= _SHORT:
            return "".join(parts)
        names = [self.own(o) or (self._basis(o)[0] if o.label else "") for o in value.operands]
        if value.op in _COMPARED and len(names) == 2 and all(names):
            return f"{names[0]}_{_COMPARED[value.op]}_{names[1]}"
        if value.op == "np.multiply" and len(names) == 2 and all(names):
            return "".join(names) if sum(map(len, names)) <= _SHORT else ""
        if len(names) == 1 and names[0] and value.op.isidentifier() is False:
            function = value.op.rpartition(".")[2]
            if function in ("exp", "log", "sqrt", "tanh", "expit", "sin", "cos", "log1p", "expm1"):
                return f"{function}_{names[0]}"
        return ""

    def _free(self, before: str, value: Value, after: str = "") -> str:
        basis, own = self._basis(value)
        wanted = f"{before}{basis}{after}"
        if keyword.iskeyword(wanted):
            wanted += "_"
        if wanted in ("d_y", "d_state"):
            wanted += "_total"  # all that flows back to it, not what is given alone
        if value.op == INPUT and wanted in self._taken:
            wanted += "_prev"  # a variable of step that holds something else later
        name, k = wanted, 1
        while name in self._taken or (not own and name in self._reserved):
            k += 1
            name = f"{wanted}_{k}"
        self._taken.add(name)
        return name
