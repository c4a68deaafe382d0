"""The search for an edit: every rule at every place, tried on problems with known gradients."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.mutants.source.operators import Site
from bpttcheck.mutants.source.planting import quiet
from bpttcheck.mutants.source.scene import LocalsSnapshot
from bpttcheck.mutants.source.sites import definitions, probed, replaced, sites, statements
from bpttcheck.problems.problem import Problem
from bpttcheck.remedy.backward import BackwardSource
from bpttcheck.remedy.fit import PlaceFit, measured
from bpttcheck.remedy.patch import patched, rewritten, size
from bpttcheck.remedy.repairs import RULES, Node, Rule
from bpttcheck.remedy.trials import Trial
from bpttcheck.remedy.vocabulary import Vocabulary

_PROBE, _VISIT, _WHICH = "_bpttcheck_probe_", "_bpttcheck_visit_", "_bpttcheck_which_"
_MOST_SURVIVORS = 12
_TRIED_IN_PAIRS = 6
_FUNCTIONS = {"tanh", "expit", "sigmoid", "relu", "exp", "log", "sqrt", "square", "sin", "cos",
              "cosh", "sinh", "softplus", "abs", "sign"}  # fmt: skip


@dataclass(frozen=True)
class Mended:
    """A source that passes every trial.

    Args:
        source: the edited backward pass.
        line: the first line that was edited, in the original file.
        edits: how many places were edited.
        tokens: how many tokens differ from the original.
    """

    source: BackwardSource
    line: int
    edits: int
    tokens: int


class Visit:
    """Stands in compiled code around the value of one place, and adds a change to it."""

    def __init__(self) -> None:
        self.change: Any = 0.0
        self.count = 0

    def was_single(self) -> bool:
        """True if the place was passed once."""
        return self.count == 1

    def __call__(self, value: Any) -> Any:
        """The value with the change."""
        self.count += 1
        return value + np.asarray(self.change, np.asarray(value).dtype)


def search(
    source: BackwardSource, trials: Sequence[Trial], until: float, depth: int = 2
) -> list[Mended]:
    """Edits after which every trial passes, the smallest first.

    Args:
        source: the wrong backward pass.
        trials: problems, of which it fails the first.
        until: when to give up, by :func:`time.monotonic`.
        depth: at most so many edits.
    """
    with quiet():
        attempt = _Attempt(source, trials, until)
        found = attempt.survivors()
        if not found and depth > 1:
            found = _in_pairs(attempt, trials, until, depth)
    return sorted(found, key=lambda one: (one.edits, one.tokens))


def _in_pairs(attempt: _Attempt, trials: Sequence[Trial], until: float, depth: int) -> list[Mended]:
    """Two blocks that are wrong independently: one is mended first, then the other."""
    for half in attempt.halves():
        rest = [t for t in trials if _fails(t, half.source)] + [
            t for t in trials if not _fails(t, half.source)
        ]
        found = search(half.source, rest, until, depth - 1)
        if found:
            return [
                replace(
                    one,
                    line=min(one.line, half.line),
                    edits=one.edits + 1,
                    tokens=size(ast.unparse(attempt.source.method.tree),
                                ast.unparse(one.source.method.tree)),
                )
                for one in found
            ]  # fmt: skip
    return []


def _fails(trial: Trial, source: BackwardSource) -> bool:
    return not trial.passes(source, source.planted(source.compiled(source.method.tree)))


class _Attempt:
    """One round: every single edit of one source."""

    def __init__(self, source: BackwardSource, trials: Sequence[Trial], until: float) -> None:
        self.source, self._trials, self._until = source, trials, until
        self._known: dict[int, Vocabulary] = {}
        self._fits: dict[int, PlaceFit | None] = {}
        self._halves: list[tuple[int, Site, Node]] = []
        first = trials[0]
        self._wrong = first.wrong(source, source.planted(source.compiled(source.method.tree)))

    @property
    def _rules(self) -> Sequence[Rule]:
        """Where the code raises, nothing is missing: something is what it should not be."""
        return RULES[:2] if self._wrong is None else RULES

    @cached_property
    def _sites(self) -> list[Site]:
        return list(sites(self.source.method.tree, _scenes(self.source, self._trials[0])))

    def survivors(self) -> list[Mended]:
        """The single edits that pass every trial, by the first rule that has any."""
        found: dict[str, Mended] = {}
        for rule in self._rules:
            for site in self._sites:
                if time.monotonic() > self._until or len(found) >= _MOST_SURVIVORS:
                    break
                if not site.scene.values:
                    continue
                fit = self._fit(site)
                if fit is not None and not fit.possible:
                    continue
                news = {_key(new): new for new in rule(site, self._words(site), fit)}
                for new, target in self._each(site, news):
                    if not all(trial.passes(self.source, target) for trial in self._trials):
                        continue
                    mended = self._mended(site, new)
                    if mended is not None:
                        found.setdefault(mended.source.text, mended)
            if found:
                break
        return list(found.values())

    def halves(self) -> Iterator[Mended]:
        """Edits that mend some entries and spoil none, those that mend most first."""
        self._find_halves()
        self._halves.sort(key=lambda half: half[0])
        seen: set[str] = set()
        for _, site, new in self._halves:
            mended = self._mended(site, new)
            if mended is None or mended.source.text in seen:
                continue
            seen.add(mended.source.text)
            if len(seen) > _TRIED_IN_PAIRS:
                return
            yield mended

    def _find_halves(self) -> None:
        first = self._trials[0]
        before = first.wrong_entries(self.source, self._planted(self.source.method.tree))
        right = frozenset() if self._wrong is None else frozenset(first.known) - self._wrong
        for rule in self._rules:
            for site in self._sites:
                if time.monotonic() > self._until:
                    return
                fit = self._fit(site)
                words, tried = self._words(site), dict[str, Node]()
                if fit is None:
                    if rule in RULES[:2]:
                        tried = {_key(new): new for new in rule(site, words, None)}
                else:
                    for some in fit.halves(right):
                        tried |= {_key(new): new for new in rule(site, words, some)}
                for new, target in self._each(site, tried):
                    after = first.wrong_entries(self.source, target)
                    if not np.any(after & ~before) and after.sum() < before.sum():
                        self._halves.append((int(after.sum()), site, new))

    def _words(self, site: Site) -> Vocabulary:
        key = id(site.scene)
        if key not in self._known:
            variables = self.source.method.function.__globals__
            self._known[key] = Vocabulary(site.scene, variables, self._functions)
        return self._known[key]

    @cached_property
    def _functions(self) -> tuple[str, ...]:
        """Activations that the file calls, as they are written there."""
        variables = self.source.method.function.__globals__
        found: dict[str, None] = {}
        for node in ast.walk(ast.parse(self.source.text)):
            if isinstance(node, ast.Call) and len(node.args) == 1:
                name = ast.unparse(node.func)
                head, last = name.partition(".")[0], name.rpartition(".")[2]
                if last in _FUNCTIONS and head in variables and name.count(".") < 2:
                    found.setdefault(name)
        return tuple(found)

    def _fit(self, site: Site) -> PlaceFit | None:
        """How every gradient depends on the value of the place; None: unknown."""
        key = id(site.node)
        if key not in self._fits:
            self._fits[key] = self._measured(site)
        return self._fits[key]

    def _measured(self, site: Site) -> PlaceFit | None:
        node = site.node
        if self._wrong is None or not isinstance(node, ast.expr) or _written(node):
            return None
        known = self._words(site).evaluated(node)
        if known is None or not isinstance(known.value, np.ndarray):
            return None
        first, visit = self._trials[0], Visit()
        call = ast.Call(ast.Name(_VISIT, ast.Load()), [node], [])
        tree = replaced(site.path, ast.copy_location(call, node))
        target = self._planted(tree, **{_VISIT: visit})

        def run(change: Any) -> Any:
            visit.change, visit.count = change, 0
            found = first.gradients(self.source, target)
            return found if visit.was_single() else None

        return None if target is None else measured(first, run, known.value)

    def _compiled(self, site: Site, alternatives: Sequence[ast.expr]) -> tuple[Any, list[int]]:
        """The target with one of the alternatives in the place, by the number in the list."""
        which = [0]
        tree = replaced(site.path, _one_of(alternatives, 0))
        return self._planted(tree, **{_WHICH: which}), which

    def _planted(self, tree: ast.AST, **more: Any) -> Any:
        assert isinstance(tree, ast.FunctionDef)
        try:
            return self.source.planted(self.source.compiled(tree, **more))
        except (SyntaxError, ValueError, TypeError, RecursionError, KeyError):
            return None

    def _each(self, site: Site, news: Mapping[str, Node]) -> Iterator[tuple[Node, Any]]:
        """Each new node, with the target in which it stands."""
        own = _key(site.node)
        distinct = [new for key, new in news.items() if key != own]
        in_place = isinstance(site.node, ast.expr) and not _written(site.node)
        chosen = [new for new in distinct if isinstance(new, ast.expr) and in_place]
        if chosen:
            target, which = self._compiled(site, chosen)
            for number, new in enumerate(chosen):
                which[0] = number
                if target is not None:
                    yield new, target
        for new in distinct:
            if isinstance(new, ast.expr) and in_place:
                continue
            target = self._planted(rewritten(site.path, new))
            if target is not None:
                yield new, target

    def _mended(self, site: Site, new: Node) -> Mended | None:
        done = patched(self.source.text, site.path, new)
        if done is None:
            return None
        text, tree = done
        source = self.source.edited(text, tree)
        tokens = size(ast.unparse(self.source.method.tree), ast.unparse(tree))
        return Mended(source, int(getattr(site.node, "lineno", 0)), 1, tokens)


def _one_of(alternatives: Sequence[ast.expr], first: int) -> ast.expr:
    """The alternative of the number ``_WHICH[0]``, found by bisection."""
    if len(alternatives) == 1:
        return alternatives[0]
    half = len(alternatives) // 2
    number = ast.Subscript(ast.Name(_WHICH, ast.Load()), ast.Constant(0), ast.Load())
    is_left = ast.Compare(number, [ast.Lt()], [ast.Constant(first + half)])
    left, right = alternatives[:half], alternatives[half:]
    return ast.IfExp(is_left, _one_of(left, first), _one_of(right, first + half))


def _written(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _key(new: ast.AST | None) -> str:
    return "" if new is None else ast.dump(new)


def _scenes(source: BackwardSource, trial: Trial) -> dict[int, LocalsSnapshot]:
    """The locals at the last visit of each statement that was reached, by its ``id``."""
    now = _locals(source, trial.problem)
    rest = _locals(source, _at_rest(trial.problem))
    known = definitions(source.method.tree)
    return {
        id(path[-1]): LocalsSnapshot(
            now[k], rest.get(k, {}), trial.problem.params, frozenset(), known
        )
        for k, path in enumerate(statements((source.method.tree,)))
        if k in now
    }


def _locals(source: BackwardSource, problem: Problem) -> dict[int, dict[str, Any]]:
    seen: dict[int, dict[str, Any]] = {}

    def probe(number: int, variables: dict[str, Any]) -> None:
        seen[number] = dict(variables)

    tree = probed(source.method.tree, _PROBE)
    try:
        target = source.planted(source.compiled(tree, **{_PROBE: probe}))
        source.gradients(target, problem, source.forward(target, problem))
    except Exception:
        return seen  # up to where it raises
    return seen


def _at_rest(problem: Problem) -> Problem:
    return replace(
        problem,
        d_ys=np.zeros_like(problem.d_ys),
        d_state=trees.map_leaves(np.zeros_like, problem.d_state),
    )
