"""Names: those of the user where there are any, else short ones, each once."""

from __future__ import annotations

import keyword
from types import CodeType

from bpttcheck.derivation.recording import INPUT, Value


class Names:
    """Gives names to values and to their adjoints.

    Args:
        step: the code of the step.
        taken: names that must not be given.
    """

    def __init__(self, step: CodeType, taken: set[str]) -> None:
        self._step, self._taken = step, set(taken)
        self._values: dict[Value, str] = {}
        self._adjoints: dict[Value, str] = {}

    def own(self, value: Value) -> str:
        """The variable that holds a value in ``step`` itself, or ``""``."""
        mine = [name for code, name in value.names if code is self._step]
        if value.op == INPUT and len(mine) > 1:
            mine = [name for name in mine if name not in ("state", "s0")] or mine
        return mine[0] if mine else ""

    def value(self, value: Value) -> str:
        """The name of a value; made on first use."""
        if value not in self._values:
            self._values[value] = self._free(self._basis(value))
        return self._values[value]

    def adjoint(self, value: Value, alias: Value | None = None, before: str = "") -> str:
        """The name of its adjoint: ``d_`` and its own name, or that of another value."""
        if value not in self._adjoints:
            self._adjoints[value] = self._free(f"d_{before}{self._basis(alias or value)}")
        return self._adjoints[value]

    def cotangent(self, value: Value) -> str:
        """A name for what is given for the state after the step, ``d_h_next``."""
        return self._free(f"d_{self._basis(value)}_next")

    def _basis(self, value: Value) -> str:
        own = self.own(value)
        if own:
            return own
        if value.label:
            return "".join(c if c.isalnum() or c == "_" else "" for c in value.label[6:]) or "x"
        if value.op == "np.multiply":
            parts = [self.own(o) for o in value.operands]
            if len(parts) == 2 and all(parts) and sum(map(len, parts)) < 5:
                return "".join(parts)
        others = [name for _, name in value.names]
        return others[0] if others else "v"

    def _free(self, wanted: str) -> str:
        if keyword.iskeyword(wanted):
            wanted += "_"
        name, k = wanted, 1
        while name in self._taken:
            k += 1
            name = f"{wanted}_{k}"
        self._taken.add(name)
        return name
