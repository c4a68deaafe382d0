"""User code neither escapes with its own exceptions nor changes the caller's settings."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
import warnings

import numpy as np
import pytest

from bpttcheck import activity
from bpttcheck.errors import ContractError, Declined
from bpttcheck.subject.user_code import MOST_NOTES, Notes, call, guarded_inspection


def divide(a, b):
    return np.array(a) / np.array(b)


def fails_in_numpy():
    return np.linalg.inv(np.zeros((2, 3)))


def raises(error):
    raise error


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def test_the_result_is_handed_through():
    assert call("step", lambda a, b: a + b, 1, 2) == 3


def test_floating_point_errors_stay_silent_even_where_the_caller_wants_them_raised():
    with np.errstate(all="raise"):
        assert np.isinf(call("step", divide, 1.0, 0.0))
        with pytest.raises(FloatingPointError):
            divide(1.0, 0.0)


def test_an_error_state_set_by_user_code_does_not_outlive_the_call():
    before = np.geterr()
    call("step", np.seterr, "raise")
    assert np.geterr() == before


def test_a_warning_becomes_a_note_and_no_error():
    notes = Notes()
    call("step", warnings.warn, "odd input", UserWarning, notes=notes)
    (text,) = notes.texts
    assert text.startswith("step warned: UserWarning: odd input (")


def test_a_warning_without_notes_is_dropped():
    call("step", warnings.warn, "odd input")


def test_each_note_is_kept_once_and_their_number_is_bounded():
    notes = Notes()
    for i in range(3 * MOST_NOTES):
        notes.add(f"note {i // 2}")
    assert len(notes.texts) == MOST_NOTES
    assert notes.texts[:2] == ("note 0", "note 1")


def test_the_filters_of_the_caller_are_restored_whatever_user_code_does_to_them():
    before = list(warnings.filters)
    show = warnings.showwarning

    def unkind():
        warnings.simplefilter("ignore")
        warnings.showwarning = print
        raise ValueError

    with pytest.raises(ContractError):
        call("step", unkind)
    assert warnings.filters == before
    assert warnings.showwarning is show
    with pytest.raises(UserWarning):
        warnings.warn("still an error", stacklevel=1)


def test_nested_calls_give_each_warning_to_the_innermost():
    outer, inner = Notes(), Notes()

    def both():
        call("step_vjp", warnings.warn, "within", notes=inner)
        warnings.warn("without", stacklevel=1)

    call("step", both, notes=outer)
    assert [text.split(": ")[2].split()[0] for text in inner.texts] == ["within"]
    assert [text.split(": ")[2].split()[0] for text in outer.texts] == ["without"]


def test_threads_that_end_in_any_order_leave_the_filters_as_they_were():
    before = list(warnings.filters)
    entered, leave = threading.Barrier(3), [threading.Event() for _ in range(2)]
    notes = [Notes(), Notes()]

    def slow(i):
        entered.wait(5)
        leave[i].wait(5)
        warnings.warn(f"from {i}", stacklevel=1)

    threads = [
        threading.Thread(target=lambda i=i: call("step", slow, i, notes=notes[i])) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    entered.wait(5)
    for i in range(2):  # first in, first out: the order that plain catch_warnings cannot undo
        leave[i].set()
        threads[i].join(5)
    assert warnings.filters == before
    assert [len(n.texts) for n in notes] == [1, 1]
    assert "from 1" in notes[1].texts[0]


def test_a_warning_of_another_thread_is_not_taken_for_the_cells():
    notes, inside, done = Notes(), threading.Event(), threading.Event()

    def slow():
        inside.set()
        done.wait(5)

    thread = threading.Thread(target=lambda: call("step", slow, notes=notes))
    with warnings.catch_warnings(record=True) as caught:
        thread.start()
        inside.wait(5)
        warnings.warn("of the caller", stacklevel=1)
        done.set()
        thread.join(5)
    assert [str(w.message) for w in caught] == ["of the caller"]
    assert notes.texts == ()


@pytest.mark.parametrize(
    "error", [ValueError("bad size"), SystemExit(3), StopIteration("bad size"), RecursionError()]
)
def test_any_error_becomes_a_contract_error_from_the_original(error):
    with pytest.raises(ContractError) as caught:
        call("step_vjp", raises, error)
    assert caught.value.method == "step_vjp"
    assert caught.value.__cause__ is error
    assert f"step_vjp raised {type(error).__name__}" in str(caught.value)
    assert "test_guard.py:" in str(caught.value)
    assert "raise error)" in str(caught.value)


def test_a_keyboard_interrupt_passes():
    with pytest.raises(KeyboardInterrupt):
        call("step", raises, KeyboardInterrupt())


@pytest.mark.parametrize("error", [Declined("an if"), ContractError("m", method="init", item="i")])
def test_an_error_of_ours_passes_unchanged(error):
    with pytest.raises(type(error)) as caught:
        call("step", raises, error)
    assert caught.value is error


def test_the_line_named_is_the_users_and_not_numpys():
    with pytest.raises(ContractError, match=r"test_guard\.py:\d+: return np\.linalg\.inv"):
        call("step", fails_in_numpy)


def test_a_failure_inside_a_library_alone_names_the_librarys_line():
    with pytest.raises(ContractError, match=r"LinAlgError: .* \(.*linalg.py:\d+: "):
        call("step", np.linalg.inv, np.zeros((2, 3)))


def test_the_line_named_is_the_users_and_not_the_standard_librarys():
    with pytest.raises(ContractError, match=r"test_guard\.py:\d+: call"):
        call("step", lambda: json.loads("{"))
    with pytest.raises(ContractError, match=r"\(test_guard\.py:\d+: call"):
        call("step", lambda: importlib.import_module("a_module_that_is_not_there"))


def test_code_without_a_source_is_named_by_its_number():
    names: dict = {}
    exec(compile("def step():\n    return 1 / 0", "<cell 3>", "exec"), names)
    with pytest.raises(ContractError, match=r"division by zero \(<cell 3>:2\)$"):
        call("step", names["step"])


def test_an_exception_without_a_text_is_named_by_its_type():
    with pytest.raises(ContractError, match=r"step raised ValueError \("):
        call("step", raises, ValueError())


def test_only_a_type_error_of_a_known_method_is_told_a_signature():
    for method, function, args in (("step", int, "x"), ("unknown", int, (1, 2, 3, 4))):
        with pytest.raises(ContractError) as caught:
            call(method, function, *args)
        assert "it is called as" not in str(caught.value)


def test_a_method_with_another_signature_is_told_how_it_is_called():
    with pytest.raises(ContractError, match=r"it is called as step\(params, state, x\)"):
        call("step", lambda params, x: None, 1, 2, 3)


def test_an_exception_that_cannot_print_itself_is_reported_all_the_same():
    with pytest.raises(ContractError, match=r"Unprintable: .its text cannot be printed"):
        call("step", raises, Unprintable())


def test_a_very_long_message_is_cut():
    with pytest.raises(ContractError) as caught:
        call("step", raises, ValueError("x" * 100_000))
    assert len(str(caught.value)) < 1000


def test_a_coroutine_is_named_as_one():
    async def step():
        await asyncio.sleep(0)

    with pytest.raises(ContractError, match="not `async def`"):
        call("step", step)


@pytest.mark.parametrize(
    ("method", "item", "what"),
    [
        ("step", "y", "step: y cannot"),
        ("step", "", "step: the result cannot"),
        ("", "subject", "subject cannot"),
        ("", "", "the object cannot"),
    ],
)
def test_looking_at_an_odd_object_ends_in_a_contract_error(method, item, what):
    with pytest.raises(ContractError, match=r"be examined.*KeyError") as caught:  # noqa: SIM117
        with guarded_inspection(method, item):
            raise KeyError("shape")
    assert str(caught.value).startswith(what)
    assert (caught.value.method, caught.value.item) == (method, item)


class Waiting:
    """User code in another thread, held until it is let go."""

    def __init__(self) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=call, args=("init", self.wait))
        self.thread.start()
        assert self.inside.wait(30)

    def wait(self) -> None:
        self.inside.set()
        assert self.go.wait(30)

    def end(self) -> None:
        self.go.set()
        self.thread.join()


def settings_of_warnings():
    return warnings.showwarning, list(warnings.filters)


def test_a_thread_that_outlives_the_callers_filters_does_not_keep_them():
    before = settings_of_warnings()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("error")
        waiting = Waiting()
    waiting.end()
    assert settings_of_warnings() == before


def test_filters_that_the_caller_restores_after_such_a_thread_are_undone_by_the_next_call():
    before = settings_of_warnings()
    waiting = Waiting()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        waiting.end()
        assert warnings.filters[0][0] == "error"
    call("init", lambda: None)
    assert settings_of_warnings() == before


def test_warnings_of_a_thread_that_runs_no_user_code_go_where_they_went_before():
    waiting = Waiting()
    with pytest.warns(UserWarning, match="from outside"):
        warnings.warn("from outside", UserWarning, stacklevel=1)
    waiting.end()
    call("init", lambda: None)


def test_who_listens_hears_of_each_call_before_it_begins(monkeypatch):
    heard = []
    monkeypatch.setattr(activity, "_listeners", [])
    activity.listen(lambda what, args: heard.append((what, args)))
    with pytest.raises(ContractError):
        call("step", raises, ValueError("no"))
    assert [what for what, _ in heard] == ["step"]
    assert isinstance(heard[0][1][0], ValueError)
