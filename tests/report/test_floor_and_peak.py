"""The floor of NumPy's own calls, counted on toys, and the peak of the machine."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from bpttcheck.bench import by_hand, machine
from bpttcheck.bench.by_hand import fused, fused_layer
from bpttcheck.bench.report.records import Size
from bpttcheck.bptt.fused import FUSED
from bpttcheck.cells import LSTM, Elman, GRUResetAfter, builtin
from bpttcheck.errors import Declined
from bpttcheck.problems.cases import build
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject


def problem(T: int = 5) -> Problem:
    return build(Subject(Elman()), Case(0, 0, T, 2, 3, 4, "float64", "none", "ordinary"))


class Toy:
    """Three calls of two kinds in each step forward, one backward, and some for all steps."""

    def forward(self, params: Any, xs: Any, state0: Any) -> Any:
        total, out = np.zeros((len(xs), 2, 4)), np.empty((2, 4))
        for t in range(len(xs)):
            np.add(total[t], state0, out=out)
            np.add(out, state0, out=out)
            np.multiply(out, 0.5, out=total[t])
        return total, state0, total

    def vjp(self, params: Any, tape: Any, d_ys: Any, d_state: Any) -> Any:
        for d_y in d_ys:
            np.dot(d_y, params["W"], out=np.zeros_like(d_y))
        return {}, d_ys, d_state


def test_the_calls_of_each_step_are_counted_and_those_of_the_sequence_are_not() -> None:
    found = by_hand.calls_per_step(Toy(), problem())
    names = Counter[str]()
    for call, count in found.items():
        names[call.name] += count
    assert names == {"add": 2.0, "multiply": 1.0, "dot": 1.0, "zeros_like": 1.0}
    assert all(call.named for call in found if call.name != "zeros_like")


def test_a_call_more_in_each_step_is_seen() -> None:
    class Wasteful(Toy):
        def forward(self, params: Any, xs: Any, state0: Any) -> Any:
            for x in xs:
                np.negative(x, out=x.copy())
            return super().forward(params, xs, state0)

    given = problem()
    more = by_hand.calls_per_step(Wasteful(), given)
    assert sum(more.values()) == sum(by_hand.calls_per_step(Toy(), given).values()) + 1


def test_numpy_is_itself_again_even_after_an_error() -> None:
    class Broken(Toy):
        def vjp(self, params: Any, tape: Any, d_ys: Any, d_state: Any) -> Any:
            assert np is not before
            raise ZeroDivisionError

    before = np
    with pytest.raises(ZeroDivisionError):
        by_hand.calls_per_step(Broken(), problem())
    assert np is before


def test_the_floor_is_the_sum_of_the_costs_over_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"add": 1.0, "multiply": 10.0, "dot": 100.0, "zeros_like": 1000.0}
    monkeypatch.setattr(by_hand, "cost", lambda call: costs[call.name])
    assert by_hand.seconds(Toy(), problem(T=7)) == 7 * 1112.0


def test_calls_at_their_sizes_are_those_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"add": 1.0, "multiply": 10.0, "dot": 100.0, "zeros_like": 1000.0}
    monkeypatch.setattr(by_hand, "cost", lambda call: costs[call.name])
    assert by_hand.seconds_at_size(Toy(), problem(T=7)) == 7 * 1112.0


def test_a_call_on_large_arrays_costs_more_at_its_size() -> None:
    large = np.zeros((300, 400)).T
    sizes = [by_hand.Given.of(large, at_size=at_size) for at_size in (False, True)]
    again = sizes[1].again()
    assert (again.shape, again.strides) == (large.shape, large.strides)
    small, own = (
        by_hand.cost(by_hand.CountedCall("exp", (one,), (("out", one),))) for one in sizes
    )
    assert own > 10 * small


def test_a_cost_is_that_of_the_call_and_not_of_the_arrays() -> None:
    array = by_hand.Given.of(np.zeros((4, 5)))
    one = by_hand.cost(by_hand.CountedCall("add", (array, array), (("out", array),)))
    exp = by_hand.CountedCall("exp", (array,), (("out", array),))
    assert 1e-8 < one < 1e-4
    assert by_hand.cost(exp) < 1e-4
    assert array == by_hand.Given.of(np.ones((400, 5)))
    assert array != by_hand.Given.of(np.ones((4, 5), "float32"))


def test_an_argument_that_cannot_be_given_again_has_no_cost() -> None:
    given = by_hand.Given.of([np.zeros(2)])
    with pytest.raises(Declined, match="of type list"):
        by_hand.cost(by_hand.CountedCall("stack", (given,)))
    with pytest.raises(Declined, match=r"np\.no_such|np\.reshape"):
        by_hand.cost(
            by_hand.CountedCall(
                "reshape", (by_hand.Given.of(np.zeros((2, 2))), by_hand.Given.of("x"))
            )
        )


@pytest.mark.parametrize("name", list(FUSED))
def test_every_fused_layer_has_a_floor_of_two_products_or_more(name: str) -> None:
    subject = Subject(builtin(name))
    layer = fused_layer(subject.target)
    assert layer is not None
    case = Case(0, 0, 6, 1, 3, 4, "float64", "none", "ordinary")
    counts = by_hand.calls_per_step(layer, build(subject, case))
    assert sum(count for call, count in counts.items() if call.name in ("dot", "matmul")) >= 2
    ready = fused(subject, build(subject, case))
    assert ready.floor is not None
    assert 0 < min(ready.floor())


def test_the_operations_are_those_of_six_products() -> None:
    size = Size(7, 2, 3, 5)
    assert machine.operations(Elman(), size) == 6 * 7 * 2 * 5 * 8
    assert machine.operations(GRUResetAfter(), size) == 3 * 6 * 7 * 2 * 5 * 8
    assert machine.operations(LSTM(), size) == 4 * 6 * 7 * 2 * 5 * 8
    assert machine.operations(builtin("jordan"), size) is None
    assert machine.operations(type("Mine", (LSTM,), {})(), size) is None


def test_the_peak_counts_a_product_and_a_sum_for_each_of_the_cubed_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(100))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(now))
    assert machine.peak_gflops(["float32", "float32"], 16) == {"float32": 2 * 16**3 / 1e9}
