"""A function in regions: lines that run together, each with the condition that guards it.

A region begins where control flow can branch: at the start of a function, a branch, a loop body, a
handler, an arm of a conditional expression, and after a statement that may leave the block. One
mark at its start records whether it was reached, so a function runs with one mark per unreached
region, and with none once all are reached.
"""

from __future__ import annotations
import __future__ as future

import ast
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from bpttcheck.subject.source.functions import Definition, deferred

# The flags of every `from __future__ import`: they belong to the code that is compiled again.
_FUTURE = sum({getattr(future, name).compiler_flag for name in future.all_feature_names})
_MARK = "bpttcheck: the reached regions"
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_WITHOUT_ARMS = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Raise, ast.Assert),
    *(ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom),
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_UNCOUNTED = (ast.Pass, ast.Global, ast.Nonlocal, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(eq=False)
class Region:
    """Lines that run together.

    Args:
        number: what its mark records.
        parent: the region that precedes it; None at the start of the function.
        condition: when it runs, as source: ``if T > 64``, ``else of if mask is None``.
        guard: the expressions of the condition.
        lines: the first line of every statement in it.
        places: the statements, or the arm of a conditional expression.
        last: its last line.
    """

    number: int
    parent: Region | None
    condition: str
    guard: tuple[ast.AST, ...]
    lines: list[int] = field(default_factory=list[int])
    places: list[ast.AST] = field(default_factory=list[ast.AST])
    last: int = 0


class LineRecorder(set[int]):
    """The numbers of the regions reached; it can be a constant of a code object."""

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> bool:
        return self is other


class RecordingPlan:
    """The regions of one function.

    Args:
        tree: the definition of the function; it is not changed.
        module: the file in which it stands.
        code: the code that runs.
        first: the number of its first region.
        everything: False if only the deferred functions inside it count.
    """

    def __init__(
        self, tree: Definition, module: ast.Module, code: CodeType, first: int, everything: bool
    ) -> None:
        self.regions: list[Region] = []
        self.code = code
        self._first, self._tree, self._module = first, tree, module
        self._counted = set[ast.AST]() if everything else set(deferred(tree))
        self._everything = everything
        self._parents = _parents(module)
        self._marks: set[int] | None = None  # None during the search for regions
        self._next = 0
        self._silent = not everything
        self._definition()
        self.is_what_runs = same_program(self._compiled(tree), code)

    def marked(self, reached: frozenset[int] | set[int], recorder: LineRecorder) -> CodeType:
        """The code with a mark at the start of every region that is not reached.

        Args:
            reached: numbers of regions that need no mark.
            recorder: where the marks write.
        """
        self._marks = {region.number for region in self.regions} - reached
        self._next, self._silent = 0, not self._everything
        return _recording(self._compiled(self._definition()), recorder)

    def _definition(self) -> Definition:
        """The definition with its marks."""
        if isinstance(self._tree, ast.Lambda):
            changed = copy.copy(self._tree)
            region = self._open(None, "call of the lambda", (), self._tree.body)
            self._count(region, self._tree.body)
            changed.body = self._marked(region, self._expression(self._tree.body, region))
            return changed
        return self._function(self._tree, None)

    def _function(self, tree: _Function, parent: Region | None) -> _Function:
        was_silent = self._silent
        self._silent = was_silent and tree not in self._counted
        changed = copy.copy(tree)
        start = 1 if ast.get_docstring(tree, clean=False) is not None else 0
        rest = tree.body[start:]
        if rest and not (len(rest) == 1 and _only_raises(rest)):
            block = self._block(rest, parent, f"call of {tree.name}()", ())
            changed.body = tree.body[:start] + block
        self._silent = was_silent
        return changed

    def _block(
        self, body: list[ast.stmt], parent: Region | None, condition: str, guard: tuple[Any, ...]
    ) -> list[ast.stmt]:
        """A list of statements as a region of its own, unless it only raises."""
        if not body or (guard and _only_raises(body)):
            return body
        region = self._open(parent, condition, guard, body[0])
        return [*self._mark(region, body[0]), *self._sequence(body, region)[0]]

    def _sequence(
        self, body: list[ast.stmt], region: Region, *, each: bool = False
    ) -> tuple[list[ast.stmt], Region]:
        """Statements one after the other, and the region at their end."""
        changed: list[ast.stmt] = []
        for place, statement in enumerate(body):
            self._count(region, statement)
            new, region_after = self._statement(statement, region)
            changed.append(new)
            follows = place + 1 < len(body)
            if region_after is region and follows and (each or _may_leave(statement)):
                condition, guard = _after(statement, each)
                region_after = self._open(region, condition, guard, body[place + 1])
                changed += self._mark(region_after, body[place + 1])
            region = region_after
        return changed, region

    def _statement(self, node: ast.stmt, region: Region) -> tuple[ast.stmt, Region]:
        new = self._with_arms(node, region)
        if isinstance(node, ast.If | ast.While | ast.For | ast.AsyncFor):
            guard = (node.test,) if isinstance(node, ast.If | ast.While) else (node.iter,)
            header = _header(node)
            new.body = self._block(node.body, region, header, guard)
            new.orelse = self._block(node.orelse, region, f"else of {header}", guard)
        elif isinstance(node, ast.With | ast.AsyncWith):
            new.body, region = self._sequence(node.body, region)
        elif isinstance(node, ast.Try | ast.TryStar):
            return self._try(node, region)
        elif isinstance(node, ast.Match):
            new.cases = [self._case(node, case, region) for case in node.cases]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            new = self._function(node, region)
        elif isinstance(node, ast.ClassDef):
            new.body = [
                self._function(part, region)
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
                else part
                for part in node.body
            ]
        return new, region

    def _with_arms(self, node: ast.stmt, region: Region) -> Any:
        """A copy of a statement in which the arms of conditional expressions are regions."""
        new: Any = copy.copy(node)
        if isinstance(node, _WITHOUT_ARMS):
            return new
        for name, value in ast.iter_fields(node):
            if name in _BLOCKS:
                continue
            if isinstance(value, ast.AST):
                setattr(new, name, self._expression(value, region))
            elif isinstance(value, list):
                setattr(new, name, [self._expression(item, region) for item in value])
        return new

    def _expression(self, node: Any, region: Region) -> Any:
        """An expression with its arms; itself if it has none."""
        if not any(isinstance(part, ast.IfExp) for part in ast.walk(node)):
            return node
        new = copy.copy(node)
        if isinstance(node, ast.IfExp):
            header = f"if {ast.unparse(node.test)}"
            new.test = self._expression(node.test, region)
            new.body = self._arm(node.body, region, header, node.test)
            new.orelse = self._arm(node.orelse, region, f"else of {header}", node.test)
            return new
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                setattr(new, name, self._expression(value, region))
            elif isinstance(value, list):
                parts = [
                    self._expression(item, region) if isinstance(item, ast.AST) else item
                    for item in value
                ]
                setattr(new, name, parts)
        return new

    def _arm(self, node: ast.expr, parent: Region, condition: str, test: ast.expr) -> ast.expr:
        if isinstance(node, ast.Constant) and node.value is None:
            return node
        region = self._open(parent, condition, (test,), node)
        self._count(region, node)
        return self._marked(region, self._expression(node, region))

    def _marked(self, region: Region, node: ast.expr) -> ast.expr:
        """``mark or node``: a mark returns None."""
        for mark in self._mark(region, node):
            node = ast.copy_location(ast.BoolOp(ast.Or(), [mark.value, node]), node)
        return node

    def _try(self, node: ast.Try | ast.TryStar, region: Region) -> tuple[ast.stmt, Region]:
        new: Any = copy.copy(node)
        new.body, inner = self._sequence(node.body, region, each=True)
        new.handlers = []
        for handler in node.handlers:
            caught = copy.copy(handler)
            condition = f"except {ast.unparse(handler.type)}" if handler.type else "except"
            guard = (handler.type or ast.Constant(None),)
            caught.body = self._block(handler.body, region, condition, guard)
            new.handlers.append(caught)
        new.orelse = self._block(node.orelse, inner, f"else of try in line {node.lineno}", (node,))
        new.finalbody = self._sequence(node.finalbody, region)[0]
        return new, region

    def _case(self, node: ast.Match, case: ast.match_case, region: Region) -> ast.match_case:
        new = copy.copy(case)
        condition = f"case {ast.unparse(case.pattern)}"
        if case.guard is not None:
            condition += f" if {ast.unparse(case.guard)}"
        guard = (case.pattern,) if case.guard is None else (case.pattern, case.guard)
        condition += f" of match {ast.unparse(node.subject)}"
        new.body = self._block(case.body, region, condition, guard)
        return new

    def _open(
        self, parent: Region | None, condition: str, guard: tuple[ast.AST, ...], at: ast.AST
    ) -> Region:
        """The next region: a new one, or the same again when the marks are set."""
        if self._silent:
            return Region(-1, None, condition, guard)
        if self._marks is None:
            number = self._first + self._next
            self.regions.append(
                Region(number, parent, condition, guard, last=getattr(at, "lineno", 0))
            )
        region = self.regions[self._next]
        self._next += 1
        return region

    def _count(self, region: Region, node: ast.stmt | ast.expr) -> None:
        """Record the lines of a statement, without those of the blocks inside it."""
        if self._marks is not None or isinstance(node, _UNCOUNTED) or _only_raises([node]):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.Try | ast.TryStar | ast.ClassDef):
            return
        region.lines.append(node.lineno)
        region.places.append(node)
        body = getattr(node, "body", None) or getattr(node, "cases", None)
        end = node.end_lineno or node.lineno
        if isinstance(node, ast.stmt) and isinstance(body, list):
            heads = [getattr(part, "pattern", part).lineno for part in body]
            end = max(node.lineno, min(heads) - 1)
        region.last = max(region.last, end)

    def _mark(self, region: Region, at: ast.stmt | ast.expr) -> list[ast.Expr]:
        """``recorder.add(number)``, where a mark is needed."""
        if self._marks is None or region.number not in self._marks:
            return []
        add = ast.Attribute(ast.Constant(_MARK), "add", ast.Load())
        mark = ast.Expr(ast.Call(add, [ast.Constant(region.number)], []))
        for node in ast.walk(mark):  # one line, or a tracer would report others as well
            if isinstance(node, ast.stmt | ast.expr):
                node.lineno = node.end_lineno = at.lineno
                node.col_offset = node.end_col_offset = at.col_offset
        return [mark]

    def _compiled(self, definition: Definition) -> CodeType | None:
        """The code of the definition, compiled inside its class and its enclosing function."""
        node: Any = self._tree
        changed: Any = definition
        while node in self._parents:
            parent = self._parents[node]
            node, changed = parent, _with_child(parent, node, changed)
        changed.body = [*_imports(self._module), *changed.body]
        flags = self.code.co_flags & _FUTURE
        try:
            whole = compile(changed, self.code.co_filename, "exec", flags, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError):
            return None
        wanted = (self.code.co_name, self.code.co_firstlineno, self.code.co_freevars)
        for code in _all_code(whole):
            if (code.co_name, code.co_firstlineno, code.co_freevars) == wanted:
                return code
        return None


@functools.lru_cache(maxsize=16)
def _parents(module: ast.Module) -> dict[ast.AST, ast.AST]:
    return {child: node for node in ast.walk(module) for child in ast.iter_child_nodes(node)}


@functools.lru_cache(maxsize=16)
def _imports(module: ast.Module) -> list[ast.stmt]:
    """The imports of a file: calls of methods of imported names compile differently."""
    found: list[ast.stmt] = []
    nodes: list[ast.AST] = list(module.body)
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            nodes += ast.iter_child_nodes(node)
    is_future = {id(n): isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in found}
    return sorted(found, key=lambda node: not is_future[id(node)])


def same_program(a: CodeType | None, b: CodeType) -> bool:
    """True if both do the same."""
    if a is None or a.co_code != b.co_code or len(a.co_consts) != len(b.co_consts):
        return False
    if (a.co_names, a.co_varnames, a.co_freevars) != (b.co_names, b.co_varnames, b.co_freevars):
        return False
    return all(
        same_program(x, y)
        if isinstance(x, CodeType) and isinstance(y, CodeType)
        else type(x) is type(y) and (x == y or repr(x) == repr(y))
        for x, y in zip(a.co_consts, b.co_consts, strict=True)
    )


def _with_child(parent: Any, old: ast.AST, new: ast.AST) -> Any:
    """A copy of ``parent`` with another child and, in a class or a file, without siblings."""
    changed = copy.copy(parent)
    for name, value in ast.iter_fields(parent):
        if value is old:
            setattr(changed, name, new)
        elif isinstance(value, list) and any(item is old for item in value):
            alone = isinstance(parent, ast.Module | ast.ClassDef)
            setattr(changed, name, [new if i is old else i for i in value if i is old or not alone])
    return changed


def _recording(code: CodeType | None, recorder: LineRecorder) -> CodeType:
    """The code with the recorder among its constants, in place of the placeholder."""
    assert code is not None
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_recording(constant, recorder))
        else:
            constants.append(recorder if constant == _MARK else constant)
    return code.replace(co_consts=tuple(constants))


def _all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_code(constant)


def _only_raises(body: list[Any]) -> bool:
    """True for statements that end in ``raise`` or ``assert False``: a check of arguments."""
    last = body[-1]
    if isinstance(last, ast.Assert):
        return isinstance(last.test, ast.Constant) and not last.test.value
    return isinstance(last, ast.Raise)


def region_of(plan: RecordingPlan, node: ast.AST) -> Region | None:
    """The region of the innermost node that contains an expression.

    Args:
        plan: the regions of a function.
        node: an expression in it.
    """
    start, end = _span(node)
    around = [
        ((last[0] - first[0], last[1] - first[1]), region.number, region)
        for region in plan.regions
        for first, last in map(_span, region.places)
        if first <= start and end <= last
    ]
    return min(around, key=lambda found: found[0])[2] if around else None


def _span(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _may_leave(statement: ast.stmt, in_loop: bool = False) -> bool:
    """True if a ``return`` or a jump inside the statement may skip what follows it."""
    if isinstance(statement, ast.Return):
        return True
    if isinstance(statement, ast.Break | ast.Continue):
        return not in_loop
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    in_loop |= isinstance(statement, ast.For | ast.AsyncFor | ast.While)
    blocks = [statement, *getattr(statement, "handlers", []), *getattr(statement, "cases", [])]
    return any(
        _may_leave(part, in_loop)
        for block in blocks
        for name in ("body", "orelse", "finalbody")
        for part in getattr(block, name, [])
    )


def _after(statement: ast.stmt, in_try: bool) -> tuple[str, tuple[ast.AST, ...]]:
    """The condition of what follows a statement."""
    if isinstance(statement, ast.If) and _may_leave(statement.body[-1]) and not statement.orelse:
        return f"else of {_header(statement)}", (statement.test,)
    if in_try:
        return f"no exception in line {statement.lineno}", ()
    if isinstance(statement, ast.If | ast.While | ast.For | ast.AsyncFor):
        return f"after {_header(statement)}", ()
    return f"after line {statement.lineno}", ()


def _header(node: ast.If | ast.While | ast.For | ast.AsyncFor) -> str:
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    if isinstance(node, ast.While):
        return f"while {ast.unparse(node.test)}"
    return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
