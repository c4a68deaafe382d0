"""The same values in another layout, dtype or order: what misreads them is found and named."""

import re

import numpy as np
import pytest
from subjects import Plain, PlainLayer, in_memory_order

from bpttcheck.cells import LSTM
from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks.arguments import LAYOUTS, arguments, on_problem
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.conduct.passes import small_case

BOTH = ("float64", "float32")


def tally(cell, dtypes=BOTH, seed=0):
    return arguments(Context(Run(Subject(cell), seed, dtypes), examples=20))


def messages(told):
    """Without what is another's: the lines of the code, and what NumPy says."""
    said = [re.sub(r"\.py:\d+", ".py:#", finding.message) for finding in told]
    return [re.sub(r"ValueError: matmul.*", "ValueError: #", text) for text in said]


class RawCotangent(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache, d_state, in_memory_order(d_y))


class RawState(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache, in_memory_order(d_state), d_y)


class RawWeights(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        raw = {key: in_memory_order(value) for key, value in params.items()}
        return super().step_vjp(raw, cache, d_state, d_y)


class RawInput(Plain):
    def step(self, params, state, x):
        return super().step(params, state, in_memory_order(x))


class RawSequence(PlainLayer):
    def vjp(self, params, tape, d_ys, d_state_T):
        return super().vjp(params, tape, in_memory_order(d_ys), d_state_T)


class RawWithoutMask(PlainLayer):
    """Only the path for full sequences reads raw memory."""

    def forward(self, params, xs, state0, mask=None):
        ys, state, tape = super().forward(params, xs, state0, mask)
        return ys, state, (*tape, mask is None)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_ys = in_memory_order(d_ys) if tape[3] else d_ys
        return super().vjp(params, tape[:3], d_ys, d_state_T)


class PointerOfBroadcast(Plain):
    """Expects that an array with a stride of 0 has a memory of its own."""

    def step_vjp(self, params, cache, d_state, d_y):
        if 0 in d_y.strides:
            d_y = np.lib.stride_tricks.as_strided(d_y, d_y.shape, np.empty(d_y.shape).strides)
        return super().step_vjp(params, cache, d_state, d_y)


class IgnoresStrides(Plain):
    """Right for both contiguous orders, wrong for slices."""

    def step_vjp(self, params, cache, d_state, d_y):
        if not (d_y.flags.c_contiguous or d_y.flags.f_contiguous):
            d_y = np.lib.stride_tricks.as_strided(d_y, d_y.shape, np.empty_like(d_y).strides)
        return super().step_vjp(params, cache, d_state, d_y)


@pytest.mark.parametrize(
    ("cell", "method"),
    [
        (RawCotangent(), "step_vjp"),
        (RawState(), "step_vjp"),
        (RawWeights(), "step_vjp"),
        (RawInput(), "step"),
        (RawSequence(), "vjp"),
        (RawWithoutMask(), "vjp"),
        (PointerOfBroadcast(), "step_vjp"),
        (IgnoresStrides(), "step_vjp"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_code_that_reads_raw_memory_is_found_with_its_argument_and_layout(cell, method, snapshot):
    found = tally(cell)
    assert found.failures == 1
    assert messages(found.findings) == snapshot
    first = found.findings[0]
    assert (first.check, first.method) == ("arguments", method)
    assert first.message.startswith(method)
    assert not found.conduct


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cell", [Plain(), PlainLayer(), LSTM()], ids=lambda c: type(c).__name__)
def test_right_code_is_left_alone(cell, seed):
    found = tally(cell, seed=seed)
    assert (found.findings, found.conduct, dict(found.skipped)) == ([], [], {})
    assert found.cases >= 4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "bool"])
def test_every_layout_has_the_same_values_and_another_memory(layout, dtype):
    a = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    placed = LAYOUTS[layout](a)
    if layout == "unaligned" and dtype == "bool":
        assert placed is None
        return
    np.testing.assert_array_equal(placed, a)
    assert placed.dtype == a.dtype
    plain = placed.flags.c_contiguous and placed.flags.aligned and placed.flags.writeable
    assert not plain
    assert not np.shares_memory(placed, a)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_without_entries_have_layouts_too(layout):
    for shape in ((0,), (0, 3), (2, 0)):
        placed = LAYOUTS[layout](np.zeros(shape))
        assert placed is None or placed.shape == shape


class RefusesViews(PlainLayer):
    def forward(self, params, xs, state0, mask=None):
        self.require(xs, state0)
        return super().forward(params, xs, state0, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        self.require(d_ys, d_state_T)
        return super().vjp(params, tape, d_ys, d_state_T)

    def require(self, *arrays):
        if not all(a.flags.c_contiguous for a in arrays):
            raise ValueError("not C-contiguous")


class RefusesUnaligned(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        if not d_y.flags.aligned:
            raise ValueError("not aligned")
        return super().step_vjp(params, cache, d_state, d_y)


class RefusesReadOnly(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        if not d_y.flags.writeable:
            raise ValueError("buffer source array is read-only")
        return super().step_vjp(params, cache, d_state, d_y)


@pytest.mark.parametrize(
    "cell", [RefusesViews(), RefusesUnaligned()], ids=lambda c: type(c).__name__
)
def test_a_refusal_of_a_layout_is_conduct_and_told_once(cell, snapshot):
    found = tally(cell)
    assert (found.findings, found.failures) == ([], 0)
    assert messages(found.conduct) == snapshot


def test_behind_a_refusal_other_arguments_are_still_tried():
    class Both(RefusesViews):
        def require(self, *arrays):
            super().require(arrays[0])

        def vjp(self, params, tape, d_ys, d_state_T):
            self.require(d_ys)
            return PlainLayer.vjp(self, params, tape, d_ys, in_memory_order(d_state_T))

    found = tally(Both())
    assert "with d_state_T in Fortran order" in messages(found.findings)[0]
    assert found.conduct


def test_a_refusal_of_read_only_arrays_is_a_failure(snapshot):
    found = tally(RefusesReadOnly())
    assert [one.block for one in found.findings] == ["d_y"]
    assert messages(found.findings) == snapshot


class ReadOnlyIsZero(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache, d_state, d_y if d_y.flags.writeable else 0 * d_y)


def test_another_result_of_a_read_only_array_is_found():
    (finding,) = tally(ReadOnlyIsZero()).findings
    assert finding.block.startswith("d_")
    assert "where d_y is read-only, with equal values" in finding.message


def test_a_subject_that_declares_contiguous_arrays_meets_no_layouts():
    class Declared(RawCotangent):
        contiguous = True

    found = tally(Declared())
    assert (found.findings, found.conduct) == ([], [])
    assert "contiguous = True" in " ".join(found.remarks)


class MaskBitwise(PlainLayer):
    """Accepts numbers forward, and inverts their bits backward."""

    def forward(self, params, xs, state0, mask=None):
        ys, state, tape = super().forward(params, xs, state0, mask)
        return ys, state, (*tape, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_h = super().vjp(params, tape[:3], d_ys, d_state_T)
        mask = tape[3]
        if mask is not None and mask.dtype.kind == "i":
            d_h = d_h * (~mask[0] == 1)[:, None]
        return d_params, d_xs, d_h


class BoolOnly(PlainLayer):
    def forward(self, params, xs, state0, mask=None):
        if mask is not None and mask.dtype != bool:
            raise TypeError("a mask is bool")
        return super().forward(params, xs, state0, mask)


class OtherForward(PlainLayer):
    """Takes a mask of numbers for indices, forward and backward."""

    def forward(self, params, xs, state0, mask=None):
        numbers = mask is not None and mask.dtype != bool
        return super().forward(params, xs, state0, None if numbers else mask)


def test_a_mask_of_numbers_that_is_accepted_forward_must_be_one_backward(snapshot):
    found = tally(MaskBitwise())
    assert [one.block for one in found.findings] == ["d_state0"]
    assert messages(found.findings) == snapshot


@pytest.mark.parametrize("cell", [BoolOnly(), OtherForward()], ids=lambda c: type(c).__name__)
def test_a_mask_of_numbers_that_is_not_understood_is_conduct(cell, snapshot):
    found = tally(cell)
    assert found.findings == []
    assert [one.block for one in found.conduct] == ["mask"]
    assert messages(found.conduct) == snapshot


class ByPosition(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        names = dict(zip(("W", "U", "b"), params.values(), strict=True))
        return super().step_vjp(names, cache, d_state, d_y)


class ByPositionEverywhere(ByPosition):
    def step(self, params, state, x):
        return super().step(dict(zip(("W", "U", "b"), params.values(), strict=True)), state, x)


def test_params_read_by_position_backward_alone_are_found(snapshot):
    found = tally(ByPosition())
    assert found.failures == 1
    assert messages(found.findings) == snapshot


def test_params_read_by_position_everywhere_are_conduct(snapshot):
    found = tally(ByPositionEverywhere())
    assert found.findings == []
    assert [one.block for one in found.conduct] == ["params"]
    assert messages(found.conduct) == snapshot


class HalfTheBytes(Plain):
    """Reads d_y as memory of the parameters' dtype."""

    def step_vjp(self, params, cache, d_state, d_y):
        if params["W"].dtype != d_y.dtype:
            d_y = np.resize(np.ascontiguousarray(d_y).view(params["W"].dtype), d_y.shape)
        return super().step_vjp(params, cache, d_state, d_y)


class OneDtype(Plain):
    def step(self, params, state, x):
        if params["W"].dtype != x.dtype:
            raise TypeError("one dtype for all")
        return super().step(params, state, x)


class CastsDown(Plain):
    """Computes in the parameters' dtype."""

    def step(self, params, state, x):
        return super().step(params, state, x.astype(params["W"].dtype))


def test_memory_of_one_dtype_that_is_read_as_another_is_found(snapshot):
    found = tally(HalfTheBytes())
    assert found.failures == 1
    assert messages(found.findings) == snapshot


@pytest.mark.parametrize("cell", [OneDtype(), CastsDown()], ids=lambda c: type(c).__name__)
def test_mixed_dtypes_may_be_refused_or_rounded(cell):
    found = tally(cell)
    assert (found.findings, found.conduct) == ([], [])


def test_one_dtype_alone_is_never_mixed():
    class Strict(OneDtype):
        def step(self, params, state, x):
            assert x.dtype == np.float32
            return super().step(params, state, x)

    found = tally(Strict(), dtypes=("float32",))
    assert (found.findings, found.conduct, dict(found.skipped)) == ([], [], {})


def test_code_that_fails_with_plain_arguments_is_skipped_with_the_reason():
    class Fails(Plain):
        def step_vjp(self, params, cache, d_state, d_y):
            raise RuntimeError("no")

    found = tally(Fails())
    assert found.findings == []
    assert dict(found.skipped) == {"step_vjp failed with plain arguments": found.cases}


def test_results_that_are_not_finite_are_skipped():
    class Infinite(Plain):
        def step_vjp(self, params, cache, d_state, d_y):
            return super().step_vjp(params, cache, d_state + np.inf, d_y)

    found = tally(Infinite())
    assert found.findings == []
    assert "the results are not finite" in found.skipped


@pytest.mark.parametrize(("cell", "right"), [(RawCotangent(), Plain()), (ByPosition(), Plain()),
                                             (HalfTheBytes(), Plain())])  # fmt: skip
def test_a_finding_is_seen_again_on_its_own_problem(cell, right):
    finding = tally(cell).findings[0]
    run = Run(Subject(cell), 0, [finding.case.dtype])
    again = on_problem(run, finding.problem).findings
    assert finding.block in [one.block for one in again]
    repaired = Run(Subject(right), 0, [finding.case.dtype])
    assert on_problem(repaired, finding.problem).findings == []


def test_arguments_that_are_changed_do_not_spoil_the_comparison():
    class Writes(Plain):
        def step_vjp(self, params, cache, d_state, d_y):
            results = super().step_vjp(params, cache, d_state, d_y)
            if d_y.flags.writeable:
                d_y *= 2
            return results

    assert tally(Writes()).findings == []


def test_sizes_that_a_subject_declares_are_kept():
    from hypothesis import strategies as st

    run = Run(Subject(Plain(), sizes=st.just((2, 6))), 0, BOTH)
    case = small_case(run, 4, 3, 2, 4, "float32", "holes")
    assert (case.T, case.B, case.n_in, case.n_hidden, case.dtype) == (4, 3, 2, 6, "float32")


def test_lengths_batches_and_masks_that_a_subject_declares_are_kept():
    class Kernel(PlainLayer):
        lengths, batches, masks = (16, 32), (1, 8), ("lengths",)

    run = Run(Subject(Kernel()), 0, BOTH)
    case = small_case(run, 4, 3, 2, 4, mask="holes")
    assert (case.T, case.B, case.mask) == (16, 1, "none")
    assert small_case(run, 30, 9, 2, 4, mask="lengths").mask == "lengths"
    assert tally(Kernel()).findings == []
