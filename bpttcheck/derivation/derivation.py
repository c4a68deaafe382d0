"""``derive``: the backward pass of a traced step in NumPy and LaTeX, checked like any other."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from typing import Any

from bpttcheck.contract import is_layer
from bpttcheck.errors import ContractError
from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.backward import Adjoint, GivenCotangent
from bpttcheck.oracles.step_source.terms import Term
from bpttcheck.oracles.step_source.traces import traced
from bpttcheck.oracles.step_source.writing import Writer, compiled
from bpttcheck.problems.step_points import step_points
from bpttcheck.results.records import Verdict
from bpttcheck.results.report import Report
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.check import check

HEADER = (
    "Made by automatic differentiation of the traced step and written out: no derivation by hand.",
    "It must not serve as an independent check of itself. Each comment has the number of the",
    "equation, and the statement of step that it is the adjoint of.",
)
_METHODS = ("init", "initial_state", "step")
_EXAMPLES = 30


@dataclass(frozen=True)
class Derivation:
    """A backward pass made from the step of a cell.

    Args:
        source: a function ``step_vjp`` in NumPy, to stand in the class of the cell.
        latex: the same equations, with the same numbers.
        cell: the cell with this backward pass.
        report: what the checks say of it; None if they were not run.
    """

    source: str
    latex: str
    cell: Any
    report: Report | None = None

    def __str__(self) -> str:
        """The source, and in its last line what the checks say of it."""
        return self.source if self.report is None else f"{self.source}\n# {self.conclusion}"

    @property
    def conclusion(self) -> str:
        """One line: what the checks say of it."""
        if self.report is None:
            return "not checked"
        run = [one for one in self.report.checks if one.verdict is not None]
        failed = [one.name for one in run if one.verdict is Verdict.FAILED]
        if failed:
            return f"FAILS {len(failed)} of {len(run)} checks: {', '.join(failed)}"
        open_ = [one.name for one in run if one.verdict is Verdict.INCONCLUSIVE]
        if open_ or not run:
            return f"INCONCLUSIVE: {', '.join(open_) or 'no check was run'}"
        return f"passes all {len(run)} checks, each with {self.report.examples} cases at most"


def derive(cell: Any, *, examples: int = _EXAMPLES, seed: int = 0) -> Derivation:
    """Write out the backward pass of a cell from its ``step``.

    The step is traced at several sizes, differentiated in reverse, and written as NumPy with the
    names of the step: one statement for each adjoint. It is automatic differentiation written out,
    not a derivation by hand, and never judges itself: JAX and finite differences do.

    >>> import bpttcheck
    >>> print(bpttcheck.derive(bpttcheck.cells.Elman(), examples=20).conclusion)
    passes all 11 checks, each with 20 cases at most

    Args:
        cell: a cell, or a :class:`bpttcheck.Subject` of one; it needs no ``step_vjp``.
        examples: cases for each check of what was written; 0 for no check.
        seed: of these checks.

    Returns:
        The :class:`Derivation`; if a check fails, its report says so, and so does its text.

    Raises:
        ContractError: what was given is no cell.
        Declined: the step cannot be traced, or has an operation without a known adjoint; the
            message names it and its line.
    """
    target = cell.target if isinstance(cell, Subject) else cell
    if is_layer(target) or not all(callable(getattr(target, name, None)) for name in _METHODS):
        raise ContractError(
            f"a {type(target).__name__}, expected a cell: an object with {', '.join(_METHODS)}",
            item="cell",
        )
    writer = Writer(target, traced(target, step_points(target)))
    source = writer.source([f"# {line}" for line in HEADER])
    made = with_rule(target, source)
    latex = "".join(f"% {line}\n" for line in HEADER[:2]) + equations(writer)
    if not examples:
        return Derivation(source, latex, made)
    subject = replace(cell, target=made) if isinstance(cell, Subject) else made
    return Derivation(
        source, latex, made, check(subject, examples=examples, seed=seed, raises=False)
    )


def with_rule(cell: Any, source: str) -> Any:
    """The cell with a function ``step_vjp`` of this source in its class.

    Args:
        cell: the cell.
        source: the function; it sees the globals of the file in which ``step`` stands.
    """
    owner, function = type(cell), compiled(cell, source)
    bound = function if hasattr(cell.step, "__func__") else staticmethod(function)
    own = {"step_vjp": bound, "__module__": owner.__module__, "__slots__": (),
           "__doc__": owner.__doc__, "__qualname__": owner.__qualname__}  # fmt: skip
    made = copy.copy(cell)
    object.__setattr__(made, "__class__", type(owner.__name__, (owner,), own))
    return made


_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi "
    "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split()
)
_FUNCTIONS = frozenset("tanh exp log sin cos tan sinh cosh arctan max min".split())
_COMPARED = {">=": r"\ge", "<=": r"\le", "==": "=", "!=": r"\ne", "&": r"\wedge", "|": r"\vee",
             "%": r"\bmod", "//": "//"}  # fmt: skip
_ADD, _MUL, _ATOM = range(3)


def equations(writer: Writer) -> str:
    """The equations of a backward pass in one ``align``.

    Args:
        writer: the backward pass.
    """
    latex = _Latex(writer)
    lines = [f"&{_code(statement)} \\notag" for statement in writer.at_hand.copies()]
    lines += [f"{latex.ref(v)} &= {latex.text(t)} \\notag" for v, t in writer.at_hand.computed()]
    for adjoint in writer.backward.adjoints:
        whole = adjoint.whole
        for scatter, _ in adjoint.scattered:
            put = Term("put", (scatter.term,), scatter.at, adjoint.value.shape)
            whole = put if whole.head == "zeros" else terms.add_plain([whole, put], put.shape)
        lines.append(f"{latex.ref(adjoint)} &= {latex.text(whole)} \\tag{{{adjoint.number}}}")
    return "\\begin{align}\n" + " \\\\\n".join(lines) + "\n\\end{align}\n"


class _Latex:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def ref(self, what: Any) -> str:
        """A value or an adjoint."""
        called = self._writer.called(what)
        if isinstance(called, Term):
            return self.text(called)
        if isinstance(what, (Adjoint, GivenCotangent)):
            return _named(re.sub(r"^d_", "", called), bar=True)
        return _named(called)

    def text(self, term: Term, at_least: int = _ADD) -> str:
        """An expression, in parentheses where it binds too weakly."""
        text, binds = getattr(self, f"_{term.head}")(term)
        return text if binds >= at_least else rf"\left({text}\right)"

    def _ref(self, term: Term) -> tuple[str, int]:
        called = self._writer.called(term.info)
        if isinstance(called, Term):
            return getattr(self, f"_{called.head}")(called)
        return self.ref(term.info), _ATOM

    def _number(self, term: Term) -> tuple[str, int]:
        value, text = term.info
        if text:
            return _code(text), _ATOM
        if isinstance(value, complex):
            return ("i" if value == 1j else "-i" if value == -1j else f"{value.imag:g}i"), _MUL
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        mantissa, e, exponent = shown.partition("e")
        shown = rf"{mantissa}\cdot 10^{{{int(exponent)}}}" if e else shown
        return shown, _ATOM if shown[0] != "-" and not e else _MUL

    def _add(self, term: Term) -> tuple[str, int]:
        first, *rest = term.args
        texts = [self.text(first)]
        for arg in rest:
            minus = arg.head == "neg"
            texts.append(("-" if minus else "+") + " " + self.text(
                arg.args[0] if minus else arg, _MUL if minus else _ADD))  # fmt: skip
        return " ".join(texts), _ADD

    def _neg(self, term: Term) -> tuple[str, int]:
        return f"-{self.text(term.args[0], _MUL)}", _ADD

    def _mul(self, term: Term) -> tuple[str, int]:
        texts = [self.text(arg, _MUL) for arg in term.args]
        made = texts[0]
        for arg, before, text in zip(term.args[1:], term.args, texts[1:], strict=False):
            scalar = () in (arg.shape, before.shape)
            made += (r" \, " if scalar else r" \odot ") + text
        return made, _MUL

    def _div(self, term: Term) -> tuple[str, int]:
        a, b = (self.text(arg) for arg in term.args)
        return rf"\frac{{{a}}}{{{b}}}", _ATOM

    def _pow(self, term: Term) -> tuple[str, int]:
        base, exponent = term.args
        return f"{{{self.text(base, _ATOM)}}}^{{{self.text(exponent)}}}", _ATOM

    def _matmul(self, term: Term) -> tuple[str, int]:
        a, b = (self.text(arg, _ATOM) for arg in term.args)
        return rf"{a} \, {b}", _MUL

    def _T(self, term: Term) -> tuple[str, int]:
        return f"{{{self.text(term.args[0], _ATOM)}}}^{{\\top}}", _ATOM

    _swap = _T

    def _infix(self, term: Term) -> tuple[str, int]:
        a, b = (self.text(arg) for arg in term.args)
        if a == b:  # of different axes
            return _code(self._writer.text(term)), _ATOM
        sign = _COMPARED.get(term.info, term.info)
        return rf"\left[{a} {sign} {b}\right]", _ATOM

    def _not(self, term: Term) -> tuple[str, int]:
        return rf"\left[\neg {self.text(term.args[0], _ATOM)}\right]", _ATOM

    def _call(self, term: Term) -> tuple[str, int]:
        name = term.info[0].rpartition(".")[2]
        args = list(term.args)
        if name == "where":
            condition, a, b = (self.text(arg) for arg in args)
            cases = rf"{a} & {condition} \\ {b} & \text{{otherwise}}"
            return rf"\begin{{cases}} {cases} \end{{cases}}", _ATOM
        if name in ("broadcast_to", "positive", "copy", "astype", "asarray", "array"):
            return self.text(args[0], _ATOM), _ATOM
        if name in ("absolute", "abs", "fabs"):
            return rf"\left|{self.text(args[0])}\right|", _ATOM
        if name == "sqrt":
            return rf"\sqrt{{{self.text(args[0])}}}", _ATOM
        if name == "concatenate":
            return self.text(args[0]), _ATOM
        head = f"\\{name}" if name in _FUNCTIONS else rf"\operatorname{{{_escaped(name)}}}"
        head = r"\sigma" if name in ("expit", "sigmoid") else head
        inner = r",\ ".join(self.text(arg) for arg in args)
        return rf"{head}\left({inner}\right)", _ATOM

    def _list(self, term: Term) -> tuple[str, int]:
        inner = r",\ ".join(self.text(arg) for arg in term.args)
        return rf"\left[{inner}\right]", _ATOM

    def _index(self, term: Term) -> tuple[str, int]:
        inner = self.text(term.args[0], _ATOM)
        if all(part is None or part == ("slice", None, None, None) for part in term.info):
            return inner, _ATOM  # an axis of one entry, along which it is repeated
        return f"{{{inner}}}_{{{_code(self._writer.index(term.info))}}}", _ATOM

    def _put(self, term: Term) -> tuple[str, int]:
        at = _code(self._writer.index(term.info))
        return rf"\operatorname{{put}}_{{{at}}}\left({self.text(term.args[0])}\right)", _ATOM

    def _sum(self, term: Term) -> tuple[str, int]:
        axes = ", ".join(str(axis) for axis in term.info[0])
        return rf"\sum_{{\text{{axis }}{axes}}} {self.text(term.args[0], _MUL)}", _ADD

    def _real(self, term: Term) -> tuple[str, int]:
        return rf"\operatorname{{Re}}\left({self.text(term.args[0])}\right)", _ATOM

    def _imag(self, term: Term) -> tuple[str, int]:
        return rf"\operatorname{{Im}}\left({self.text(term.args[0])}\right)", _ATOM

    def _conj(self, term: Term) -> tuple[str, int]:
        return f"{{{self.text(term.args[0], _ATOM)}}}^{{*}}", _ATOM

    def _reshape(self, term: Term) -> tuple[str, int]:
        return self._call(terms.call("reshape", term.args[0]))

    def _broadcast(self, term: Term) -> tuple[str, int]:
        return self.text(term.args[0], _ATOM), _ATOM

    def _zeros(self, term: Term) -> tuple[str, int]:
        return "0", _ATOM


def _named(name: str, *, bar: bool = False) -> str:
    """A name as a symbol with subscripts: ``W_ih``, ``lam``, ``params["W"]``, ``h_new``."""
    found = re.fullmatch(r'\w+\["?(\w+)"?\]', name) or re.fullmatch(r"\w+\.(\w+)", name)
    name = found[1] if found else name
    if not name.isidentifier():
        return rf"\overline{{{_code(name)}}}" if bar else _code(name)
    base, _, below = name.strip("_").partition("_")
    digits = re.fullmatch(r"([A-Za-z]+)(\d+)", base)
    base, below = (digits[1], f"{digits[2]}_{below}") if digits else (base, below)
    symbol = _symbol({"lam": "lambda"}.get(base, base))
    if bar:
        symbol = rf"\bar{{{symbol}}}" if len(base) == 1 or base in _GREEK else (
            rf"\overline{{{symbol}}}")  # fmt: skip
    if not below:
        return symbol
    parts = [_symbol(part) for part in below.split("_") if part]
    return f"{symbol}_{{{','.join(parts)}}}"


def _symbol(word: str) -> str:
    if word in _GREEK:
        return f"\\{word}"
    return word if len(word) == 1 or word.isdigit() else rf"\mathrm{{{word}}}"


def _code(text: str) -> str:
    return rf"\mathtt{{{_escaped(text)}}}"


def _escaped(text: str) -> str:
    return re.sub(r"([_&%#$])", r"\\\1", text)
