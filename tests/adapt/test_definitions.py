"""Scripts and notebooks: what they define is taken, what they do is not done."""

import inspect
import json
import linecache
import sys
import traceback

import numpy as np
import pytest

import bpttcheck
from bpttcheck.errors import ContractError

SCRIPT = '''"""A model that trains as soon as it is imported."""
from __future__ import annotations
import numpy as np
from math import pi as PI
from dataclasses import dataclass
import helper_of_this_script
import a_module_that_nobody_has

try:
    import another_that_nobody_has as xp
except ImportError:
    import numpy as xp

data = open("input.txt").read()
H, D = 3, 2 * 2
scale = float("0.5") * PI / H
dtype = np.float64
sizes = {"W": (D, H), "b": [H]}
vocabulary = 0
vocabulary = len(data)
lr = 0.1
W = np.random.randn(D, H)
if H > 2:
    deep = True
else:
    deep = False


@dataclass
class Settings:
    rate: float = lr
    steps: int = H + 1


def forward(x, W):
    h = np.tanh(x @ W)
    return h, (x, W, h)


def backward(dh, cache):
    x, W, h = cache
    da = dh * (1 - h**2)
    return da @ W.T, x.T @ da


def loss(x):
    """W is a global."""
    h = x @ W
    return 0.5 * np.sum(h**2), x.T @ h


@register
def decorated():
    return 1


while True:
    lr *= 0.9
    steps_done = 1
    raise RuntimeError("the loop was run")

if __name__ == "__main__":
    main_result = train()
'''


@pytest.fixture
def script(tmp_path):
    (tmp_path / "helper_of_this_script.py").write_text("VALUE = 7\n")
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def module(script):
    return bpttcheck.defs(script)


def test_functions_classes_imports_and_constants_are_there(module):
    assert module.__doc__ == "A model that trains as soon as it is imported."
    assert (module.H, module.D, module.dtype, module.deep) == (3, 4, np.float64, True)
    assert module.scale == 0.5 * np.pi / 3
    assert module.sizes == {"W": (4, 3), "b": [3]}
    assert module.xp is np
    assert module.helper_of_this_script.VALUE == 7
    assert module.Settings().steps == 4
    assert module.lr == 0.1  # what a loop does to it is not done


def test_nothing_is_left_behind_in_the_path(script):
    before = list(sys.path)
    bpttcheck.defs(script)
    assert sys.path == before


def test_what_was_left_out_is_listed_with_its_line_and_the_reason(module):
    left = {name: one for one in module.__left_out__ for name in one.names}
    assert set(left) == {
        "a_module_that_nobody_has", "data", "vocabulary", "W", "decorated", "lr", "steps_done",
        "main_result",
    }  # fmt: skip
    assert (
        str(left["data"])
        == "line 14: data = open('input.txt').read() (a call of open('input.txt').read)"
    )
    assert left["W"].reason == "a call of np.random.randn"
    assert "NameError" in left["decorated"].reason
    assert "No module named" in left["a_module_that_nobody_has"].reason
    assert left["steps_done"].reason.startswith("a loop")
    assert left["main_result"].reason == "the main program"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data", "line 14: data = open"),
        ("vocabulary", r"line 20: vocabulary = len\(data\) \(a call of len\)"),
        ("steps_done", r"line 57: while True: \(a loop"),
        ("main_result", "the main program"),
        ("Forward", "defines no 'Forward'; it defines D, H, PI,"),
    ],
)
def test_a_name_that_is_not_there_says_why(module, name, said):
    with pytest.raises(AttributeError, match=said):
        getattr(module, name)
    assert not hasattr(module, name)


def test_a_constant_that_is_replaced_by_what_is_left_out_is_not_kept(module):
    assert not hasattr(module, "vocabulary")


def test_source_and_line_numbers_are_those_of_the_script(module, script):
    assert inspect.getsource(module.backward).splitlines() == SCRIPT.splitlines()[39:43]
    assert inspect.getsource(module.Settings).startswith("@dataclass\nclass Settings:")
    assert inspect.getsourcefile(module.forward) == str(script.resolve())
    try:
        module.forward(1, "text")
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
    assert (frame.lineno, frame.line) == (36, "h = np.tanh(x @ W)")


def test_its_functions_are_checked(module):
    signature = "x: N D, W: D H -> h: N H"
    report = bpttcheck.check_vjp(module.forward, module.backward, signature, examples=3)
    assert report.passed
    assert report.lines == (5, 5)


def test_globals_that_were_left_out_are_given_by_in_module(module):
    report = bpttcheck.check_grad(
        module.loss, "x: N D", returns="loss, dW", params=bpttcheck.in_module(module, W="D H"),
        examples=3,
    )  # fmt: skip
    assert report.passed
    assert not hasattr(module, "W")  # as before


def test_a_function_that_is_replaced_by_what_is_left_out_is_not_kept(tmp_path):
    path = tmp_path / "twice.py"
    path.write_text("def f():\n    return 1\n\n\n@unknown\ndef f():\n    return 2\n")
    assert not hasattr(bpttcheck.defs(path), "f")


def test_an_import_that_ends_the_program_is_left_out(tmp_path):
    (tmp_path / "a_module_that_exits.py").write_text("raise SystemExit(3)\n")
    path = tmp_path / "imports.py"
    path.write_text("import a_module_that_exits\nH = 3\n")
    module = bpttcheck.defs(path)
    assert module.H == 3
    assert [one.reason for one in module.__left_out__] == ["SystemExit: 3"]


def test_scripts_of_one_name_do_not_replace_each_other(tmp_path):
    paths = [tmp_path / folder / "train.py" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(f"class Net:\n    folder = {path.parent.name!r}\n")
    modules = [bpttcheck.defs(path) for path in paths]
    assert "folder = 'a'" in inspect.getsource(modules[0].Net)
    assert bpttcheck.defs(paths[0]).__name__ == modules[0].__name__


def notebook(*cells):
    return json.dumps({
        "cells": [
            {"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in cells
        ],
        "nbformat": 4,
    })  # fmt: skip


@pytest.fixture
def lesson(tmp_path):
    path = tmp_path / "lesson.ipynb"
    path.write_text(notebook(
        ("markdown", "# not code ("),
        ("code", "%matplotlib inline\nimport numpy as np\n!pip install something\nH = 4"),
        ("code", "def forward(x):\n    %time 1\n    y = np.sin(x)\n    return y, x"),
        ("code", "%%bash\nls -l"),
        ("code", "%%time\ndef backward(dy, cache):\n    return dy * np.cos(cache)"),
        ("code", "def exercise(:\n    # YOUR CODE HERE"),
        ("code", "np.random.seed(0)\nresult = forward(np.ones(3))\nforward?"),
    ))  # fmt: skip
    return path


def test_the_cells_of_a_notebook_are_read_without_magics(lesson):
    module = bpttcheck.defs(lesson)
    assert module.H == 4
    assert inspect.getsource(module.backward) == (
        "def backward(dy, cache):\n    return dy * np.cos(cache)\n"
    )
    linecache.checkcache()
    assert "np.sin" in inspect.getsource(module.forward)
    report = bpttcheck.check_vjp(module.forward, module.backward, "x: N -> y: N", examples=3)
    assert report.passed
    assert report.lines == (3, 3)
    assert [one.where for one in module.__left_out__] == [
        "cell 5",
        "cell 6, line 1",
        "cell 6, line 2",
    ]
    with pytest.raises(AttributeError, match=r"cell 6, line 2: result = forward"):
        _ = module.result
    with pytest.raises(AttributeError, match=r"no 'exercise'.*Not read: cell 5: def exercise"):
        _ = module.exercise


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("missing.py", None, "cannot be read.*the current folder is"),
        ("model.txt", "", r"should be a \.py or an \.ipynb file"),
        (
            "old.py",
            "a = 1\nprint 'x'\n",
            "line 2 is not Python: Missing parentheses.*in \"print 'x'\"",
        ),
        ("broken.ipynb", "{", "is not a notebook"),
        ("list.ipynb", "[]", "is not a notebook"),
    ],
)
def test_errors_say_what_was_given_and_what_was_expected(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ContractError, match=said):
        bpttcheck.defs(path)


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("a = -1.5e-3 + 2 ** 3", True),
        ("a = 'text'", True),
        ("a = (1, [2, {'k': None}])", True),
        ("a = int('3') if True else 0", True),
        ("a = np.pi / 2", True),
        ("a: float = 1.0", True),
        ("a = b = 3", True),
        ("a = sizes[0]", True),
        ("a = float", True),
        ("a = np.zeros(3)", False),
        ("a = sizes.pop()", False),
        ("a = sizes.real", False),
        ("a = [x for x in sizes]", False),
        ("a = unknown + 1", False),
        ("a = 1 / 0", False),
        ("sizes[0] = a = 2", False),
    ],
)
def test_constants_are_literals_and_arithmetic_of_what_is_known(tmp_path, statement, kept):
    path = tmp_path / "constants.py"
    path.write_text(f"import numpy as np\nsizes = [1, 2]\n{statement}\n")
    module = bpttcheck.defs(path)
    assert hasattr(module, "a") is kept
    assert len(module.__left_out__) == (not kept)
