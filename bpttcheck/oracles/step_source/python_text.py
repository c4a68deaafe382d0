"""Expressions as NumPy source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bpttcheck.oracles.step_source.terms import Term, number

_LOWEST, _COMPARE, _AND, _ADD, _MUL, _NEG, _POW, _ATOM = range(8)
_SIGNS = {"&": _AND, "|": _AND, "^": _AND, "%": _MUL, "//": _MUL}

Written = tuple[str, int]
"""A text and how strongly it binds."""


class Python:
    """Writes expressions.

    Args:
        name: what a reference is called, or the expression that stands for it.
        function: how a function is called in the user's file: ``"np.tanh"``.
        shape: the shape of a value, ``"h.shape"``.
    """

    def __init__(
        self, name: Callable[[Any], str | Term], function: Callable[[str], str],
        shape: Callable[[Any], str],
    ) -> None:  # fmt: skip
        self._name, self._function, self._shape = name, function, shape

    def text(self, term: Term, at_least: int = _LOWEST) -> str:
        """The source of an expression, in parentheses where it binds too weakly."""
        text, binds = self._written(term)
        return text if binds >= at_least else f"({text})"

    def atom(self, term: Term) -> str:
        """The source of an expression of which an attribute is taken."""
        return self.text(term, _ATOM)

    def index(self, at: tuple[Any, ...]) -> str:
        """The source of an index."""
        return ", ".join(self._part(part) for part in at)

    def _written(self, term: Term) -> Written:
        write = getattr(self, f"_{term.head}")
        return write(term)

    def _ref(self, term: Term) -> Written:
        named = self._name(term.info)
        return (named, _ATOM) if isinstance(named, str) else self._written(named)

    def _number(self, term: Term) -> Written:
        value, text = term.info
        if text:
            plain = text.replace(".", "").replace("_", "").isalnum() or text[0] in "([{'\""
            simple = plain or (text.endswith("]") and " " not in text)
            return text, _ATOM if simple else _ADD
        if isinstance(value, complex) and value.real == 0:
            return f"{value.imag:g}j", _ATOM if value.imag >= 0 else _NEG
        return repr(value), _ATOM if isinstance(value, (bool, complex)) or value >= 0 else _NEG

    def _add(self, term: Term) -> Written:
        first, *rest = term.args
        texts = [self.text(first, _ADD)]
        for arg in rest:
            sign, inner = ("-", arg.args[0]) if arg.head == "neg" else ("+", arg)
            if _is_below_zero(arg):
                sign, inner = "-", number(-arg.info[0])
            texts.append(f" {sign} {self.text(inner, _MUL)}")
        return "".join(texts), _ADD

    def _neg(self, term: Term) -> Written:
        return f"-{self.text(term.args[0], _MUL)}", _MUL

    def _mul(self, term: Term) -> Written:
        first, *rest = term.args
        texts = [self._factor(first, _MUL), *(self._factor(f, _NEG) for f in rest)]
        return " * ".join(texts), _MUL

    def _factor(self, term: Term, at_least: int) -> str:
        return f"({self.text(term)})" if self._is_product(term) else self.text(term, at_least)

    def _is_product(self, term: Term) -> bool:
        if term.head == "ref":
            inner = self._name(term.info)
            return isinstance(inner, Term) and self._is_product(inner)
        return term.head == "matmul"

    def _div(self, term: Term) -> Written:
        a, b = term.args
        return f"{self._factor(a, _MUL)} / {self.text(b, _POW)}", _MUL

    def _pow(self, term: Term) -> Written:
        a, b = self.text(term.args[0], _ATOM), self.text(term.args[1], _ATOM)
        simple = all(t.replace(".", "").replace("_", "").isalnum() for t in (a, b))
        return (f"{a}**{b}" if simple else f"{a} ** {b}"), _POW

    def _matmul(self, term: Term) -> Written:
        a, b = term.args
        left = self.text(a, _NEG) if not self._is_product(a) else self.text(a)
        return f"{left} @ {self.text(b, _NEG)}", _MUL

    def _T(self, term: Term) -> Written:
        return f"{self.atom(term.args[0])}.T", _ATOM

    def _swap(self, term: Term) -> Written:
        name = self._function("np.swapaxes")
        return f"{name}({self.text(term.args[0])}, -1, -2)", _ATOM

    def _infix(self, term: Term) -> Written:
        binds = _SIGNS.get(term.info, _COMPARE)
        a, b = (self.text(arg, binds + 1) for arg in term.args)
        return f"{a} {term.info} {b}", binds

    def _not(self, term: Term) -> Written:
        return f"~{self.text(term.args[0], _NEG)}", _NEG

    def _call(self, term: Term) -> Written:
        name, named = term.info
        method = name.startswith("ndarray.")
        args = list(term.args)
        head = f"{self.atom(args.pop(0))}.{name[8:]}" if method else self._function(name)
        texts = [*(self.text(arg) for arg in args), *(f"{k}={v}" for k, v in named)]
        return f"{head}({', '.join(texts)})", _ATOM

    def _list(self, term: Term) -> Written:
        inner = ", ".join(self.text(arg) for arg in term.args)
        if term.info == "list":
            return f"[{inner}]", _ATOM
        return (f"({inner},)" if len(term.args) == 1 else f"({inner})"), _ATOM

    def _index(self, term: Term) -> Written:
        return f"{self.atom(term.args[0])}[{self.index(term.info)}]", _ATOM

    def _part(self, part: Any) -> str:
        if isinstance(part, slice):
            part = ("slice", part.start, part.stop, part.step)
        if isinstance(part, Term):
            return self.text(part)
        if isinstance(part, tuple):
            _, *ends = part  # pyright: ignore[reportUnknownVariableType]
            start, stop, step = ("" if e is None else self._end(e) for e in ends)
            return f"{start}:{stop}" + (f":{step}" if step else "")
        return "..." if part is Ellipsis else repr(part)

    def _end(self, end: Any) -> str:
        return self.text(end) if isinstance(end, Term) else repr(end)

    def _sum(self, term: Term) -> Written:
        axes, keep = term.info
        inner = term.args[0]
        every = len(axes) == len(inner.shape) and not keep
        said = "" if every else f"axis={axes[0] if len(axes) == 1 else axes}"
        kept = ", keepdims=True" if keep else ""
        return f"{self.atom(inner)}.sum({said}{kept})", _ATOM

    def _real(self, term: Term) -> Written:
        return f"{self.atom(term.args[0])}.real", _ATOM

    def _imag(self, term: Term) -> Written:
        return f"{self.atom(term.args[0])}.imag", _ATOM

    def _conj(self, term: Term) -> Written:
        return f"{self.atom(term.args[0])}.conj()", _ATOM

    def _reshape(self, term: Term) -> Written:
        return f"{self.atom(term.args[0])}.reshape({self._shape(term.info)})", _ATOM

    def _broadcast(self, term: Term) -> Written:
        name = self._function("np.broadcast_to")
        return f"{name}({self.text(term.args[0])}, {self._shape(term.info)})", _ATOM

    def _zeros(self, term: Term) -> Written:
        kind = "complex" if term.is_complex else "d_y.dtype"
        return f"{self._function('np.zeros')}({self._shape(term.info)}, {kind})", _ATOM


def _is_below_zero(term: Term) -> bool:
    if term.head != "number" or term.info[1] or isinstance(term.info[0], complex):
        return False
    return term.info[0] < 0
