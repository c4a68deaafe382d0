"""The path of a case: the modules that are entered, and the returns to those that were left."""

import sys
from types import ModuleType

import pytest

from benchmarks.path_of_a_case.__main__ import CHECKS, path, path_of

SOURCES = {
    "house.a": """
import house.b as b

def first():
    b.one()
    second()
    b.one()
    b.two()

def second(): ...

def third(): ...
""",
    "house.b": """
import house.a as a

def one(): ...

def two():
    a.third()
""",
}


@pytest.fixture
def house(monkeypatch):
    modules = {name: ModuleType(name) for name in ("house", *SOURCES)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        setattr(modules["house"], name.rpartition(".")[2], module)
    for name, source in SOURCES.items():
        exec(compile(source, f"{name}.py", "exec"), modules[name].__dict__)
    return modules


def test_a_function_is_read_once_and_going_back_to_the_caller_is_no_return(house):
    found = path(house["house.a"].first, ("house.",))
    assert [(step.called, step.returns) for step in found] == [
        ("house.a.first", False),
        ("house.b.one", False),
        ("house.b.two", True),
        ("house.a.third", True),
    ]


@pytest.mark.parametrize("name", CHECKS)
def test_one_turns_back_at_most_half_as_often_as_before_the_judgement_was_taken_apart(name):
    assert sum(step.returns for step in path_of(name)) <= 41 / 2
