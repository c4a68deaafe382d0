"""Which lines of a backward pass ran: every form of guard; recording disturbs nothing."""

import functools
import linecache
import sys
import textwrap
import traceback

import numpy as np
import pytest

from bpttcheck import adapt, cells
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.subject.source import LineCoverage, hints

HEAD = "import contextlib\nimport functools\nimport numpy as np\n"


class Made:
    """A cell whose backward pass calls ``body(self, x, T)`` of a file of its own."""

    def __init__(self, folder, lines, before=""):
        self.path = folder / "cell.py"
        body = textwrap.indent(textwrap.dedent(lines).strip(), " " * 8)
        self.path.write_text(
            f"{HEAD}{textwrap.dedent(before)}\nclass Cell:\n"
            "    at = 128\n"
            "    def step(self, params, state, x):\n        return state, x, None\n"
            f"    def step_vjp(self, x, T, *more):\n{body}\n"
        )
        self.module = {"__name__": "cell"}
        exec(compile(self.path.read_text(), str(self.path), "exec"), self.module)
        self.cell = self.module["Cell"]()
        self.coverage = LineCoverage(self.cell)
        assert self.coverage.available, self.coverage.reason

    def run(self, x, T=4):
        with self.coverage.recording():
            result = self.cell.step_vjp(x, T)
        self.coverage.commit()
        return result

    def unreached(self):
        return [(entry.text, entry.condition) for entry in self.coverage.unreached()]


@pytest.fixture
def make(tmp_path):
    return functools.partial(Made, tmp_path)


@pytest.mark.parametrize(
    ("lines", "text", "condition"),
    [
        ("if T > 64:\n    x = 0\nreturn x", "x = 0", "if T > 64"),
        ("if T > 64: x = 0\nreturn x", "if T > 64: x = 0", "if T > 64"),
        ("if T < 64:\n    x = 1\nelse:\n    x = 0\nreturn x", "x = 0", "else of if T < 64"),
        (
            "if T < 64:\n    x = 1\nelif T < 99:\n    x = 0\nreturn x",
            "elif T < 99:\n    x = 0",
            "else of if T < 64",
        ),
        ("if T <= self.at:\n    return x\nx = 0", "x = 0", "else of if T <= self.at"),
        (
            "for t in range(9):\n    if t < 9:\n        continue\n    x = 0\nreturn x",
            "x = 0",
            "else of if t < 9",
        ),
        ("for t in range(64, T):\n    x = 0\nreturn x", "x = 0", "for t in range(64, T)"),
        (
            "for t in range(T):\n    break\nelse:\n    x = 0\nreturn x",
            "x = 0",
            "else of for t in range(T)",
        ),
        ("while T > 64:\n    T = T - 1\nreturn x", "T = T - 1", "while T > 64"),
        (
            "try:\n    x = x + 1\nexcept ValueError:\n    x = 0\nreturn x",
            "x = 0",
            "except ValueError",
        ),
        (
            "try:\n    x = {}[T]\n    x = 2\nexcept KeyError:\n    x = 1\nreturn x",
            "x = 2",
            "no exception in line 11",
        ),
        (
            "try:\n    x = {}[T]\nexcept KeyError:\n    x = 1\nelse:\n    x = 3\nreturn x",
            "x = 3",
            "else of try in line 10",
        ),
        (
            "match T:\n    case 4:\n        x = 1\n    case 64:\n        x = 0\nreturn x",
            "x = 0",
            "case 64 of match T",
        ),
        (
            "match T:\n    case v if v > 64:\n        'text'\n        x = 0\nreturn x",
            "x = 0",
            "case v if v > 64 of match T",
        ),
        (
            "for t in range(T):\n    if t >= 0:\n        return x\nx = 0",
            "x = 0",
            "after for t in range(T)",
        ),
        ("with contextlib.nullcontext():\n    return x\nx = 0", "x = 0", "after line 10"),
        (
            "with contextlib.nullcontext():\n    if T > 64:\n        x = 0\nreturn x",
            "x = 0",
            "if T > 64",
        ),
        ("x = (\n    0\n    if T > 64\n    else x\n)\nreturn x", "0", "if T > 64"),
        ("return x if T < 64 else 0", "return x if T < 64 else 0", "else of if T < 64"),
        (
            "return [0 if v > 64 else v for v in [T]]",
            "return [0 if v > 64 else v for v in [T]]",
            "if v > 64",
        ),
        ("def inner(v):\n    return 0\nreturn x", "return 0", "call of inner()"),
        ("if T > 64:\n    if x:\n        x = 0\n    x = 1\nreturn x",
         "if x:\n    x = 0\nx = 1", "if T > 64"),
    ],
)  # fmt: skip
def test_unreached_lines_are_named_with_their_guard(make, lines, text, condition):
    made = make(lines)
    made.run(5)
    assert made.unreached() == [(text, condition)]
    reached, total = made.coverage.share()
    assert 0 <= reached < total


def test_lines_and_hints_of_an_entry_are_those_of_the_file(make):
    made = make("if T > 64 and abs(x) > 3.3:\n    x = (\n        0\n    )\nreturn x")
    made.run(5)
    (entry,) = made.coverage.unreached()
    assert entry.file == str(made.path)
    assert (entry.first, entry.last) == (11, 13)
    assert hints(entry) == ((64,), (3.3,))
    assert str(entry) == "cell.py:11-13 in Cell.step_vjp: if T > 64 and abs(x) > 3.3"


def test_a_named_condition_gives_its_constants(make):
    made = make("late = T > 1000\nif late:\n    x = 0\nreturn x")
    made.run(5)
    (entry,) = made.coverage.unreached()
    assert entry.condition == "if late"
    assert hints(entry) == ((1000,), ())


def test_what_was_reached_later_is_no_longer_named(make):
    made = make("if T > 64:\n    if x > 7:\n        return 1\n    x = 2\nreturn x")
    assert made.run(5, 4) == 5
    assert [c for _, c in made.unreached()] == ["if T > 64"]
    assert made.run(5, 65) == 2
    assert [c for _, c in made.unreached()] == ["if x > 7"]
    assert made.run(8, 65) == 1
    assert made.unreached() == []
    assert made.coverage.share() == (5, 5)


def test_a_case_that_was_not_judged_does_not_count(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    with made.coverage.recording():
        made.cell.step_vjp(1, 65)
    made.coverage.discard()
    made.run(1, 4)
    assert made.unreached() == [("x = 0", "if T > 64")]


def test_what_runs_outside_a_recording_does_not_count(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    made.cell.step_vjp(1, 65)
    made.run(1, 4)
    made.cell.step_vjp(1, 65)
    assert made.unreached() == [("x = 0", "if T > 64")]


def test_several_recordings_may_make_one_case(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    for T in (4, 65):
        with made.coverage.recording():
            made.cell.step_vjp(1, T)
    made.coverage.commit()
    assert made.unreached() == []


@pytest.mark.parametrize(
    "lines",
    [
        "'''A docstring.'''\nreturn x",
        "if x is None:\n    raise ValueError('x is None')\nreturn x",
        "if x is None:\n    text = 'no x'\n    raise ValueError(text)\nreturn x",
        "if x is None:\n    assert False, 'no x'\nreturn x",
        "if T < 64:\n    x = 1\nelse:\n    raise ValueError(T)\nreturn x",
        "try:\n    x = x + 1\nexcept TypeError as e:\n    raise ValueError from e\nreturn x",
        "try:\n    x = x + 1\nexcept TypeError:\n    pass\nreturn x",
        "global G\nG = 1\n\n# a comment\nx = x if x is not None else None\nreturn x",
        "if T:\n    pass\nelse:\n    pass\nreturn x",
        "try:\n    return x\nfinally:\n    T = 0",
    ],
)
def test_checks_of_arguments_docstrings_and_empty_branches_are_no_lines(make, lines):
    made = make(lines)
    made.run(5)
    assert made.unreached() == []
    reached, total = made.coverage.share()
    assert reached == total > 0


HELPERS = """
def logged(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)
    return inner

def scaled(x):
    if x > 64:
        return 0
    return x

@logged
def decorated(x):
    if x > 65:
        return 0
    return x

def forward_only(x):
    if x > 66:
        return 0
    return x

class Base:
    def back(self, x):
        return scaled(x)
    def never(self, x):
        return x

class Derived(Base):
    def back(self, x):
        if x > 67:
            return 0
        return super().back(x) + decorated(x)
"""


def test_helpers_decorators_and_base_classes_count_and_what_is_not_called_does_not(make):
    made = make("return Derived().back(x)", before=HELPERS)
    assert made.run(3) == 6
    assert [condition for _, condition in made.unreached()] == [
        "if x > 64",
        "if x > 65",
        "if x > 67",
    ]


def test_a_helper_of_an_unreached_branch_has_the_guard_of_its_call(make):
    made = make("return scaled(x) if T > 96 else x", before=HELPERS)
    made.run(3)
    conditions = {entry.condition for entry in made.coverage.unreached()}
    assert conditions == {"if T > 96"}
    assert all(hints(entry)[0] == (96,) for entry in made.coverage.unreached())


def test_a_method_found_by_its_name_counts_once_it_has_run(make):
    made = make(
        "for part in self.parts[:T]:\n    x = part.undo(x)\nreturn x",
        before="""
        class Part:
            def undo(self, x):
                if x > 64:
                    return 0
                return x
        """,
    )
    made.cell.parts = [made.module["Part"]()]
    made.coverage = LineCoverage(made.cell)
    made.run(3, 0)
    assert made.unreached() == [("x = part.undo(x)", "for part in self.parts[:T]")]
    made.run(3, 1)
    assert made.unreached() == [("return 0", "if x > 64")]


class ClosureTape:
    def forward(self, params, xs, state0, mask=None):
        if len(xs) > 900:
            xs = xs * 2

        def back(d):
            if len(d) > 64:
                d = d * 0
            return d

        return xs, state0, back

    def vjp(self, params, tape, d_ys, d_state_T):
        return params, tape(d_ys), d_state_T


def test_a_tape_of_closures_is_a_backward_pass_and_the_forward_pass_is_not():
    layer = ClosureTape()
    coverage = LineCoverage(layer)
    with coverage.recording():
        _, _, tape = layer.forward({}, np.ones(3), 0)
        layer.vjp({}, tape, np.ones(3), 0)
    coverage.commit()
    assert [entry.condition for entry in coverage.unreached()] == ["if len(d) > 64"]


def raw_step(params, state, x):
    return state, x, None


def raw_back(params, cache, d_state, d_y):
    if len(d_y) > 64:
        d_y = d_y * 0
    return params, d_state, d_y


@pytest.mark.parametrize(
    "vjp",
    [
        raw_back,
        functools.partial(raw_back),
        lambda params, cache, d_state, d_y: raw_back(params, cache, d_state, d_y),
    ],
    ids=["function", "partial", "lambda"],
)
def test_functions_in_an_adapter_are_recorded(vjp):
    cell = adapt.from_callables(raw_step, vjp, init={"W": ("n_hidden", "n_in")})
    coverage = LineCoverage(cell)
    with coverage.recording():
        cell.step_vjp({}, None, np.ones(2), np.ones(2))
    coverage.commit()
    assert [entry.condition for entry in coverage.unreached()] == ["if len(d_y) > 64"]


def test_closures_of_one_factory_share_their_lines():
    def factory(by):
        def back(params, cache, d_state, d_y):
            if len(d_y) > 64:
                d_y = d_y * by
            return params, d_state, d_y

        return back

    first, second = factory(1), factory(2)

    def vjp(params, cache, d_state, d_y):
        first(params, cache, d_state, d_y)
        return second(params, cache, d_state, np.ones(65))

    cell = adapt.from_callables(raw_step, vjp, init={"W": ("n_hidden", "n_in")})
    coverage = LineCoverage(cell)
    with coverage.recording():
        cell.step_vjp({}, None, np.ones(2), np.ones(2))
    coverage.commit()
    assert coverage.unreached() == []


def test_a_trace_function_that_is_installed_goes_on_and_stays(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    seen = []

    def tracer(frame, event, argument):
        if frame.f_code.co_filename == str(made.path):
            seen.append((event, frame.f_lineno))
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        made.run(5)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert [line for event, line in seen if event == "line"] == [10, 12]
    assert made.unreached() == [("x = 0", "if T > 64")]


def test_the_code_is_as_it_was_after_a_recording_even_after_an_exception(make):
    made = make("if T > 64:\n    x = 0\nreturn x / T")
    function = type(made.cell).step_vjp
    code = function.__code__
    with made.coverage.recording(), made.coverage.recording():
        assert function.__code__ is not code
    assert function.__code__ is code
    with pytest.raises(ZeroDivisionError) as caught, made.coverage.recording():
        made.cell.step_vjp(1, 0)
    assert function.__code__ is code
    assert traceback.extract_tb(caught.tb)[-1].lineno == 12
    assert traceback.extract_tb(caught.tb)[-1].filename == str(made.path)


def test_a_function_that_is_fully_reached_runs_as_it_is(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    made.run(1, 4)
    made.run(1, 65)
    function = type(made.cell).step_vjp
    code = function.__code__
    with made.coverage.recording():
        assert function.__code__ is code


def test_a_function_that_somebody_else_changed_is_left_alone(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    function = type(made.cell).step_vjp
    other = function.__code__.replace(co_name="other")
    function.__code__ = other
    made.run(1, 65)
    assert function.__code__ is other
    assert made.coverage.share()[0] == 0


def test_a_second_coverage_of_the_same_code_does_not_spoil_the_first(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    second = LineCoverage(made.cell)
    code = type(made.cell).step_vjp.__code__
    with made.coverage.recording(), second.recording():
        made.cell.step_vjp(1, 4)
    made.coverage.commit()
    assert made.unreached() == [("x = 0", "if T > 64")]
    assert type(made.cell).step_vjp.__code__ is code


def test_a_file_changed_after_its_import_is_left_out(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    made.path.write_text(made.path.read_text().replace("x = 0", "x = 1"))
    linecache.checkcache(str(made.path))
    coverage = LineCoverage(made.cell)
    assert not coverage.available
    assert coverage.reason == "Cell.step_vjp: its source is not what runs"


def test_progress_of_another_process_counts(make):
    made = make("if T > 64:\n    x = 0\nreturn x")
    made.run(1, 4)
    other = LineCoverage(made.cell)
    with other.recording():
        made.cell.step_vjp(1, 65)
    other.commit()
    made.coverage.include(other.progress())
    assert made.unreached() == []


class Awkward:
    """Everything that a second compilation could break: names, closures, defaults, generators."""

    __factor = 3

    def step(self, params, state, x):
        return state, x, None

    def step_vjp(self, params, cache, d_state, d_y, *rest, scale=2, **more):
        total = 0

        def add(value, by=self.__factor):
            nonlocal total
            total += value * by
            return total

        def values():
            yield from (add(v) for v in d_y)

        class Local:
            def method(self):
                return __class__.__name__ if total else "never"

        text = f"{'big' if len(d_y) > 64 else 'small'} {total!r:>4}"
        found = [*values(), Local().method(), text, super().__repr__()[:5]]
        try:
            found.append(params["missing"])
        except* KeyError as group:
            found.append(len(group.exceptions))
        finally:
            found.append(scale if more else rest)
        return found, (lambda v: v if v else -1)(d_state), (yes := total) and yes


def test_code_with_every_kind_of_name_does_the_same_while_it_is_recorded():
    subject = Awkward()
    coverage = LineCoverage(subject)
    assert coverage.left_out == []
    expected = subject.step_vjp({}, None, 0, (1, 2), 7, more=1)
    with coverage.recording():
        assert subject.step_vjp({}, None, 0, (1, 2), 7, more=1) == expected
    coverage.commit()
    assert expected == ([3, 9, "Local", "small    0", "<test", 1, 2], -1, 9)
    assert [entry.condition for entry in coverage.unreached()] == [
        *("else of if total", "if len(d_y) > 64", "else of if more", "if v"),
    ]


@pytest.mark.parametrize("name", sorted(cells.BUILTINS))
def test_a_built_in_gives_the_same_bits_while_it_is_recorded(name):
    cell = cells.BUILTINS[name]()
    layer = cell if hasattr(cell, "forward") else CellLayer(cell)
    coverage = LineCoverage(layer)
    rng = np.random.default_rng(0)
    params = layer.init(rng, 3, 4)
    xs = rng.standard_normal((5, 2, 3))

    def run():
        ys, state, tape = layer.forward(params, xs, layer.initial_state(params, 2))
        return layer.vjp(params, tape, np.ones_like(ys), state)

    expected = run()
    with coverage.recording():
        found = run()
    coverage.commit()
    assert repr(found) == repr(expected)
    assert coverage.available
    assert coverage.left_out == []
    assert coverage.share()[0] > 5
