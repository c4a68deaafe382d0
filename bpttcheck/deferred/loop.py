"""A cell as a layer whose backward loop computes only what flows back to the step before.

The source of ``step_vjp`` is cut in two: what the adjoint of the state before needs stays in the
loop, the rest is one call over the rows of all steps.
"""

from __future__ import annotations

import ast
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, YS, of_params, of_state
from bpttcheck.blocks import d_state0 as d_of_state0
from bpttcheck.blocks import state_T as of_state_T
from bpttcheck.bptt.backpropagate import backpropagate, cotangents, zero_carried
from bpttcheck.bptt.unroll import (
    CellTape,
    put_rows,
    require_d_params,
    require_shape,
    take_rows,
    unroll,
)
from bpttcheck.contract import Array, Cell, Params, State, is_cell
from bpttcheck.errors import BpttcheckError, ContractError, Declined
from bpttcheck.judge.own_noise import unlike
from bpttcheck.judge.run import Run
from bpttcheck.mutants.source.reading import Method, read
from bpttcheck.subject.subject import Subject

_D_PARAMS, _D_STATE, _D_X = range(3)
# What makes a new array, or a new container, whatever it is given.
_FRESH_NODES = (
    ast.BinOp, ast.UnaryOp, ast.Compare, ast.Constant, ast.Dict, ast.DictComp, ast.List,
    ast.ListComp, ast.JoinedStr,
)  # fmt: skip
_FRESH_CALLS = frozenset(
    "abs add copy concatenate cosh cumsum divide dot einsum empty empty_like exp full full_like"
    " hstack log log1p logaddexp matmul maximum mean minimum multiply negative ones ones_like outer"
    " power prod reciprocal sign sin sinh sqrt square stack subtract sum tanh tensordot vstack"
    " where zeros zeros_like".split()
)
_ALWAYS = (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)


@dataclass(frozen=True)
class Slices:
    """A ``step_vjp`` in two parts, with its arguments ``(params, cache, d_state, d_y)``.

    Args:
        flowing: returns ``d_previous_state``.
        summed: returns ``(d_params, d_x)``.
        text: the source of ``flowing``.
    """

    flowing: Callable[..., Any]
    summed: Callable[..., Any]
    text: str


def slices(cell: Any) -> Slices:
    """Both parts of ``cell.step_vjp``.

    Raises:
        Declined: there is no source that says what runs, or it does not end with one
            ``return d_params, d_state, d_x``.
    """
    method = read(cell)
    flowing = _sliced(method.tree, (_D_STATE,))
    summed = _sliced(method.tree, (_D_PARAMS, _D_X))
    return Slices(_bound(method, flowing, cell), _bound(method, summed, cell), ast.unparse(flowing))


def _bound(method: Method, tree: ast.FunctionDef, cell: Any) -> Callable[..., Any]:
    return method.bind(method.compile(tree, f"<a part of {method.function.__qualname__}>"), cell)


def _sliced(whole: ast.FunctionDef, parts: Sequence[int]) -> ast.FunctionDef:
    """A copy that returns these of its three results."""
    tree = copy.deepcopy(whole)
    *body, last = tree.body
    returns = [node for node in _of_itself(tree) if isinstance(node, ast.Return | ast.Yield)]
    value = last.value if isinstance(last, ast.Return) and returns == [last] else None
    if not isinstance(value, ast.Tuple) or len(value.elts) != 3:
        raise Declined(
            "step_vjp does not end with its only return of three results",
            where=f"line {returns[0].lineno if returns else whole.lineno}",
            remedy="return d_params, d_state, d_x",
        )
    kept = [value.elts[part] for part in parts]
    result = ast.Return(kept[0] if len(kept) == 1 else ast.Tuple(kept, ast.Load()))
    given = {argument.arg for argument in ast.walk(tree.args) if isinstance(argument, ast.arg)}
    needed, _ = _Slice(tree, given).block(_apart(body), _loaded(result))
    tree.body = [*needed, ast.copy_location(result, last)]
    return tree


class _Slice:
    """Which statements of one function are needed.

    Args:
        tree: the function.
        given: its parameters: by the contract nothing that is passed in is changed, so that what
            is taken from them is one's own.
    """

    def __init__(self, tree: ast.FunctionDef, given: set[str]) -> None:
        self._local = _stored(tree) - given
        self._one_of: dict[str, str] = {}
        for node in list(ast.walk(tree))[1:]:
            for names in _sharing(node, self._local):
                self._join(names & self._local)

    def block(self, body: Sequence[ast.stmt], live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        """What is needed of ``body`` for the names ``live`` after it, and for which before it."""
        needed: list[ast.stmt] = []
        for statement in reversed(body):
            kept, live = self._statement(statement, live)
            needed += kept
        return needed[::-1], live

    def _statement(self, one: ast.stmt, live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        if isinstance(one, ast.Assign | ast.AnnAssign) and one.value is not None:
            return self._assignment(one, live)
        if isinstance(one, ast.If):
            return self._branch(one, live)
        if isinstance(one, ast.For) and not _leaves_early(one):
            return self._loop(one, live)
        if isinstance(one, ast.With):
            body, before = self.block(one.body, live)
            heads = set[str]().union(*map(_loaded, one.items))
            return self._with(one, before | heads, body=body) if body else ([], live)
        if isinstance(one, ast.AugAssign):
            needed = self._changes(_names(one.target), live)
        elif isinstance(one, ast.FunctionDef):
            needed = one.name in live
        elif isinstance(one, ast.Delete | ast.Pass | ast.AnnAssign) or _is_text(one):
            needed = False
        else:
            needed = isinstance(one, _ALWAYS) or self._changes(_written(one), live)
        return ([one], live | _names(one)) if needed else ([], live)

    def _assignment(
        self, one: ast.Assign | ast.AnnAssign, live: set[str]
    ) -> tuple[list[ast.stmt], set[str]]:
        targets = one.targets if isinstance(one, ast.Assign) else [one.target]
        bound = {n.id for target in targets for n in _plain(target)}
        bound |= {n.target.id for n in ast.walk(one) if isinstance(n, ast.NamedExpr)}
        into = set[str]().union(*map(_loaded, targets))  # a[0] = ..., a.b = ...
        into |= _outs(one)
        if not (bound & live or (into and self._changes(into, live))):
            return [], live
        return [one], (live - bound) | _loaded(one)

    def _branch(self, one: ast.If, live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        body, first = self.block(one.body, live)
        other, second = self.block(one.orelse, live)
        if not body and not other:
            return [], live
        return self._with(one, first | second | _loaded(one.test), body=body, orelse=other)

    def _loop(self, one: ast.For, live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        around = live
        while True:  # what one turn reads, the turn before it may have written
            body, before = self.block(one.body, around)
            if before <= around:
                break
            around = around | before
        other, after = self.block(one.orelse, live)
        if not body and not other:
            return [], live
        return self._with(one, around | after | _loaded(one.iter), body=body, orelse=other)

    def _with(self, one: Any, live: set[str], **blocks: Any) -> tuple[list[ast.stmt], set[str]]:
        for name, block in blocks.items():
            setattr(one, name, block or ([ast.Pass()] if name == "body" else []))
        return [one], live

    def _changes(self, names: set[str], live: set[str]) -> bool:
        """True if one of ``names`` may be what a live name is, or what is not of this function."""
        if not names & self._local:
            return True
        roots = {self._root(name) for name in names & self._local}
        return any(self._root(name) in roots for name in live)

    def _root(self, name: str) -> str:
        while name in self._one_of:
            name = self._one_of[name]
        return name

    def _join(self, names: Iterable[str]) -> None:
        roots = list(dict.fromkeys(map(self._root, sorted(names))))
        for other in roots[1:]:
            self._one_of[other] = roots[0]


def _apart(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """``a, b = x, y`` as two statements, where no value reads what is bound before it."""
    found: list[ast.stmt] = []
    for one in body:
        pairs = _pairs(one)
        bound = [_names(target) for target, _ in pairs]
        if any(set[str]().union(*bound[:i]) & _names(part) for i, (_, part) in enumerate(pairs)):
            pairs = []
        found += [ast.copy_location(ast.Assign([to], part), one) for to, part in pairs] or [one]
    return found


def _pairs(one: ast.stmt) -> list[tuple[ast.expr, ast.expr]]:
    """The assignments of ``a, b = x, y``; none where it is anything else."""
    if not isinstance(one, ast.Assign) or len(one.targets) != 1:
        return []
    target, value = one.targets[0], one.value
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return []
    if len(target.elts) != len(value.elts) or len(_plain(target)) != len(target.elts):
        return []
    return list(zip(target.elts, value.elts, strict=True))


def _of_itself(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node
            yield from _of_itself(node)


def _plain(target: ast.expr) -> list[ast.Name]:
    """The names that an assignment binds; not those of what it writes into."""
    if isinstance(target, ast.Name):
        return [target]
    if isinstance(target, ast.Starred):
        return _plain(target.value)
    if isinstance(target, ast.Tuple | ast.List):
        return [name for one in target.elts for name in _plain(one)]
    return []


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _loaded(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _written(statement: ast.stmt) -> set[str]:
    """The names that a statement may bind or change; of one that is a call, all in it."""
    found = _stored(statement) | _outs(statement)
    for node in ast.walk(statement):
        if isinstance(node, ast.Expr):
            found |= _names(node)
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= _names(node.value)
    return found


def _outs(node: ast.AST) -> set[str]:
    words = [n for n in ast.walk(node) if isinstance(n, ast.keyword) and n.arg == "out"]
    return set[str]().union(*map(_names, words))


def _stored(node: ast.AST) -> set[str]:
    found = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n is not node}
    return found | {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def _sharing(node: ast.AST, local: set[str]) -> Iterator[set[str]]:
    """Names of which one may afterwards be, or hold, or change what another is."""
    if isinstance(node, ast.FunctionDef):
        yield {node.name} | _names(node)
    elif isinstance(node, ast.For):
        yield from _held(node.target, node.iter, local)
    elif isinstance(node, ast.NamedExpr):
        yield from _held(node.target, node.value, local)
    elif isinstance(node, ast.Assign):
        if len(node.targets) > 1:
            yield set[str]().union(*map(_names, node.targets))
        for target in node.targets:
            yield from _held(target, node.value, local)


def _held(target: ast.expr, value: ast.expr, local: set[str]) -> Iterator[set[str]]:
    pairs = _pairs(ast.Assign([target], value))
    for one, part in pairs:
        yield from _held(one, part, local)
    if (
        not pairs and not _is_fresh(value) and _names(value) & local
    ):  # not what was given to the function
        yield _names(target) | _names(value)


def _is_fresh(value: ast.expr) -> bool:
    """True if the value shares no memory with what it is made of."""
    if isinstance(value, ast.Call) and not any(word.arg == "out" for word in value.keywords):
        called = value.func
        return isinstance(called, ast.Attribute) and called.attr in _FRESH_CALLS
    return isinstance(value, _FRESH_NODES)


def _is_text(one: ast.stmt) -> bool:
    return isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)


def _leaves_early(loop: ast.For) -> bool:
    return any(isinstance(node, ast.Break | ast.Continue) for node in ast.walk(loop))


Form = Literal["in the loop", "deferred"]

_ROUNDS = 3
# Deferred where it takes less than this part of the time: two forms of one speed are one too many.
_WORTH = 0.95


class DeferredTape(NamedTuple):
    """What the loop recorded, and the inputs."""

    steps: CellTape
    xs: Array


@dataclass(frozen=True, eq=False)
class DeferredLayer:
    """A :class:`bpttcheck.Layer` of a cell, with the gradients of all steps in one call.

    Forward as :func:`bpttcheck.unroll`. Backward, for ``t = T-1 .. 0`` from ``d_state[T]``, the
    statements of ``step_vjp`` that its ``d_state`` needs::

        d_state[t]     = step_vjp(params, cache[t], d_state[t+1], d_ys[t])[1]

    and then once, over the ``T B`` rows of all steps, the statements that the rest needs::

        d_params, d_xs = step_vjp(params, caches, d_states, d_ys)[0, 2]

    which is the same by the batch law: ``d_params`` of some rows is the sum of those of each. The
    rows of the caches are put together where the batch is the first axis of all that is in them;
    else ``step`` runs once more, over all rows. Memory for as much as the tape holds is needed
    beside it.

    Made by :func:`bpttcheck.deferred.layer`, which compares it with the cell.

    Args:
        cell: the cell.
        parts: of its ``step_vjp``.
        keeps: True if the rows of the caches are put together.
        form: None: what is faster is measured once for each set of shapes.
    """

    cell: Cell
    parts: Slices
    keeps: bool
    form: Form | None = None
    chosen: dict[Any, Form] = field(default_factory=lambda: dict[Any, Form]())
    supports_mask: ClassVar[bool] = True

    @property
    def reference(self) -> Cell:
        """The cell."""
        return self.cell

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.cell.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The cell's state before the first step."""
        return self.cell.initial_state(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: State | None = None, mask: Array | None = None
    ) -> tuple[Array, State, DeferredTape]:
        """All steps forward, ``(ys, state_T, tape)``: see :func:`bpttcheck.unroll`."""
        ys, state_T, steps = unroll(self.cell, params, xs, state0, mask)
        return ys, state_T, DeferredTape(steps, xs)

    def vjp(
        self,
        params: Params,
        tape: DeferredTape,
        d_ys: Array | None,
        d_state_T: State | None = None,
    ) -> tuple[Params, Array, State]:
        """All steps backward, ``(d_params, d_xs, d_state0)``."""
        run = {"in the loop": self._in_the_loop, "deferred": self._deferred}
        given = (params, tape, d_ys, d_state_T)
        form = self.form
        if form is None:
            key = _shapes(params, tape)
            if key not in self.chosen:
                self.chosen[key] = faster(lambda name: run[name](*given))
            form = self.chosen[key]
        return run[form](*given)

    def _in_the_loop(
        self, params: Params, tape: DeferredTape, d_ys: Array | None, d_state_T: State | None
    ) -> tuple[Params, Array, State]:
        found = backpropagate(self.cell, params, tape.steps, d_ys, d_state_T)
        return found.d_params, found.d_xs, found.d_state0

    def _deferred(
        self, params: Params, tape: DeferredTape, d_ys: Array | None, d_state_T: State | None
    ) -> tuple[Params, Array, State]:
        steps, xs = tape
        d_ys, d_state = cotangents(steps, d_ys, d_state_T)
        d_xs = np.zeros(steps.xs_shape, steps.xs_dtype)
        taken: list[tuple[int, Any]] = []
        d_news: list[State] = []
        for t in reversed(range(len(steps.caches))):
            rows = steps.real_rows[t]
            if rows is None:
                d_new = d_state
                d_state = self.parts.flowing(params, steps.caches[t], d_new, d_ys[t])
            elif rows.size:
                d_new = take_rows(d_state, rows)
                d_rows = self.parts.flowing(params, steps.caches[t], d_new, d_ys[t, rows])
                d_state = put_rows(d_state, rows, d_rows, "step_vjp", "d_previous_state")
            else:
                continue
            d_state = zero_carried(steps, d_state)
            taken.append((t, slice(None) if rows is None else rows))
            d_news.append(d_new)
        if not taken:
            return {name: np.zeros_like(value) for name, value in params.items()}, d_xs, d_state
        d_y = np.concatenate([d_ys[t, rows] for t, rows in taken])
        d_params, d_x = self.parts.summed(
            params, self._caches(params, tape, taken), _together(d_news), d_y
        )
        require_shape(d_x, (len(d_y), *d_xs.shape[2:]), "step_vjp", "d_x")
        if all(rows is None for rows in steps.real_rows):
            d_xs[:] = d_x.reshape(xs.shape)[::-1]
        else:
            ends = np.cumsum([len(d_xs[t, rows]) for t, rows in taken])
            for (t, rows), part in zip(taken, np.split(d_x, ends[:-1]), strict=True):
                d_xs[t, rows] = part
        return _of_params(params, d_params), d_xs, d_state

    def _caches(self, params: Params, tape: DeferredTape, taken: list[tuple[int, Any]]) -> Any:
        """The cache of the rows of these steps, the last step first."""
        if self.keeps:
            return _together([tape.steps.caches[t] for t, _ in taken])

        def of_rows(t: int, rows: Any) -> Any:
            return trees.map_leaves(lambda leaf: leaf[rows], tape.steps.states[t])

        states = _together([of_rows(t, rows) for t, rows in taken])
        xs = np.concatenate([tape.xs[t, rows] for t, rows in taken])
        return self.cell.step(params, states, xs)[2]


def layer(cell: Any, *, form: Form | None = None) -> DeferredLayer:
    """The layer of a cell that computes the gradients of its parameters for all steps at once.

    Nothing has to be written for it: the source of ``step_vjp`` is split into what flows back to
    the step before and the rest. In NumPy this pays where rows are few and matrices wide: with one
    row, each step of the plain loop writes a whole matrix for each weight, and adds it up.

    >>> import numpy as np
    >>> from bpttcheck.cells import LSTM
    >>> fast = layer(LSTM())
    >>> params = fast.init(np.random.default_rng(0), n_in=2, n_hidden=3)
    >>> ys, state_T, tape = fast.forward(params, np.ones((5, 1, 2)))
    >>> d_params, d_xs, d_state0 = fast.vjp(params, tape, np.ones_like(ys))
    >>> d_params["W_hh"].shape
    (12, 3)

    On the spot it is compared with the cell, gradient by gradient, by the error bars of Monte Carlo
    arithmetic on the cell. With the first arguments of each set of shapes both forms are timed, and
    the plain loop is used where deferring does not pay: results may then differ in their last
    digits from one process to the next. ``form`` rules this out.

    Args:
        cell: a :class:`bpttcheck.Cell` whose ``step_vjp`` ends with its only
            ``return d_params, d_state, d_x``.
        form: None: the faster. ``"deferred"`` or ``"in the loop"``: this one, nothing is timed.

    Returns:
        The layer.

    Raises:
        ContractError: ``cell`` is none, its source cannot be split, or it breaks the batch law;
            the message says which.
    """
    if isinstance(cell, type) or not is_cell(cell):
        raise ContractError(
            f"cell={cell!r} (type={type(cell).__name__}), expected an instance with init,"
            " initial_state, step and step_vjp",
            item="cell",
        )
    if form not in (None, "in the loop", "deferred"):
        raise ContractError(
            f"form={form!r}, expected None, 'in the loop' or 'deferred'", item="form"
        )
    subject = Subject(cell)
    try:
        parts = slices(cell)
        reason = ""
        for keeps in (True, False):
            made = DeferredLayer(cell, parts, keeps, "deferred")
            differs = _differs(subject, made)
            if not differs:
                return replace(made, form=form)
            reason = reason or differs
    except Declined as refusal:
        reason = str(refusal)
    raise ContractError(
        f"the gradients of {subject.name} cannot be deferred: {reason}", item="cell"
    )


def _differs(subject: Subject, made: DeferredLayer) -> str:
    """What differs from the plain loop by more than rounding, or an empty text."""
    run = Run(subject, 0, ("float64",))
    case = run.cases.case(0, free=True, steps=5)
    case = replace(case, regime="ordinary", index=-1)
    # Two numbers of rows: an axis that is as long as the batch by chance is so but once.
    for B, mask in ((3, "none"), (5, "none"), (3, "lengths")):
        problem = run.cases.problem(replace(case, B=B, mask=mask))
        try:
            ys, state_T, tape = made.forward(
                problem.params, problem.xs, problem.state0, problem.mask
            )
            if made.keeps and not _all_have_rows(tape.steps, B):
                return "the batch is not the first axis of all that is in its cache"
            d_params, d_xs, d_state0 = made.vjp(problem.params, tape, problem.d_ys, problem.d_state)
        except (BpttcheckError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            text = (str(error).strip() or "no message").splitlines()[0]
            return f"over the rows of all steps, {type(error).__name__}: {text}"
        found = {
            **of_params(d_params),
            **of_state(d_of_state0(), d_state0, problem.state0),
            D_XS: d_xs,
            YS: ys,
            **of_state(of_state_T(), state_T, problem.state0),
        }
        wrong = unlike(run.code, problem, found)
        if wrong:
            return f"{wrong} over the rows of all steps is not the sum over the steps"
    return ""


def _all_have_rows(steps: CellTape, B: int) -> bool:
    if any(rows is not None for rows in steps.real_rows):
        return True  # asked without a mask
    return all(
        isinstance(leaf, np.ndarray) and leaf.shape[:1] == (B,)
        for cache in steps.caches
        for leaf in trees.leaves(cache)
    )


def _together(parts: list[Any]) -> Any:
    """The rows of all parts, leaf by leaf."""
    first = parts[0]
    if type(first) is tuple and all(type(leaf) is np.ndarray for leaf in first):
        return tuple(map(np.concatenate, zip(*parts, strict=True)))
    return trees.map_leaves(lambda *leaves: np.concatenate(leaves), *parts)


def _of_params(params: Params, given: Params) -> Params:
    require_d_params(given, params)
    return {n: np.array(given[n], np.asarray(value).dtype) for n, value in params.items()}


def _shapes(params: Params, tape: DeferredTape) -> Any:
    """What the speed depends on."""
    leaves = trees.leaves((params, tape.steps.states[0]))
    masked = any(rows is not None for rows in tape.steps.real_rows)
    key = tuple((np.shape(leaf), str(np.asarray(leaf).dtype)) for leaf in leaves)
    return key, tape.steps.xs_shape, str(tape.steps.xs_dtype), masked


def faster(run: Callable[[Form], object], clock: Callable[[], float] = time.perf_counter) -> Form:
    """The form that takes clearly less time.

    Args:
        run: runs a form; both are run once before they are timed.
        clock: gives seconds.
    """
    took: dict[Form, float] = {}
    forms: tuple[Form, Form] = ("in the loop", "deferred")
    for turn in range(_ROUNDS + 1):
        for form in forms:
            started = clock()
            run(form)
            if turn:
                took[form] = min(took.get(form, np.inf), clock() - started)
    return "deferred" if took["deferred"] < _WORTH * took["in the loop"] else "in the loop"
