"""What a subject says of itself is read in one place, by type, and told on one page."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bpttcheck
from bpttcheck.judge.run import Run
from bpttcheck.signature import Signature
from bpttcheck.subject.subject import Subject
from bpttcheck.traits import TRAITS, Traits

PACKAGE = Path(bpttcheck.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "traits.md"

GIVEN = {
    "sizes": [(3, 4)], "lengths": (2, 1), "batches": [3], "supports_mask": False,
    "masks": ("holes",), "contiguous": True, "fixed_sizes": np.bool_(True),
    "domain": {"W": (0, 1)}, "causal": False, "splits_in_time": False, "exact_length": True,
    "deterministic": True, "final_state_gradient": False, "reference": len, "to_reference": len,
    "sequence": len, "surrogate": "truncated", "surrogate_step": len, "full": 5, "adjoints": len,
    "initial_state_vjp": len, "name": "mine", "step_jvp": len, "jvp": len, "torch_reference": len,
    "jax_reference": len, "adapter_notes": tuple,
    "signature": Signature.parse("x: N -> y: N"),
}  # fmt: skip
ANOTHER_TYPE = {
    "sizes": (3, 4), "lengths": {"a": 1}, "batches": (0,), "supports_mask": 1, "masks": ("all",),
    "contiguous": 1, "fixed_sizes": [4], "domain": "time", "causal": np.zeros(2),
    "splits_in_time": 0, "exact_length": "no", "deterministic": 1, "final_state_gradient": 0,
    "to_reference": 1, "sequence": [1, 2], "surrogate": 3, "surrogate_step": 3, "adjoints": (),
    "initial_state_vjp": 1, "name": 7, "step_jvp": 1, "jvp": (2,), "signature": "x: N",
}  # fmt: skip


def test_every_trait_is_read():
    assert set(GIVEN) == set(TRAITS)
    found = Traits.of(SimpleNamespace(**GIVEN))
    plain = Traits()
    for name in TRAITS:
        assert getattr(found, name) != getattr(plain, name), name
    assert not found.ignored
    assert (found.lengths, found.masks) == ((1, 2), ("none", "holes"))


@pytest.mark.parametrize("name", sorted(ANOTHER_TYPE))
def test_an_attribute_of_another_type_is_no_trait(name):
    found = Traits.of(SimpleNamespace(**{name: ANOTHER_TYPE[name]}))
    assert found.ignored == (name,)
    assert getattr(found, name) == getattr(Traits(), name)


def test_what_cannot_be_hashed_is_no_kind_of_mask():
    assert Traits.of(SimpleNamespace(masks=[[True, False]])).ignored == ("masks",)


def test_the_report_says_what_was_left_alone():
    class Mine(type(bpttcheck.cells.Elman())):
        sizes = (3, 4)

    note = "`sizes` was left alone: the trait of that name is pairs (n_in, n_hidden), or a "
    note += "Hypothesis strategy of them"
    run = Run(Subject(Mine()), 0, ("float64",))
    assert note in run.code.notes.texts
    assert note in run.for_call("mine").code.notes.texts
    report = bpttcheck.check(Mine(), checks=["contract"], raises=False)
    assert note in report.notes
    assert not Run(Subject(bpttcheck.cells.Elman()), 0, ("float64",)).code.notes.texts


def test_the_page_tells_of_every_trait():
    told = set(re.findall(r"`(\w+)", PAGE.read_text(encoding="utf-8")))
    assert set(TRAITS) <= told


def reads(source):
    """The traits that are read by their names as strings."""
    return {
        node.args[1].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr") and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant) and node.args[1].value in TRAITS
    }  # fmt: skip


def test_nobody_else_reads_one():
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in PACKAGE.rglob("*.py")
        if (names := reads(path.read_text(encoding="utf-8")))
    }
    # The first refuses what is not a bool, the second asks the loop over time, too; the name of
    # the last is that of any value.
    allowed = {
        "subject/validate.py": {"supports_mask"},
        "judge/handwritten.py": {"adjoints"},
        "mutants/values.py": {"name"},
    }
    assert found == allowed
    assert reads("getattr(cell, 'causal', True)") == {"causal"}


def test_the_traits_of_nested_networks_are_asked_once_each():
    """A network of networks asks its parts: all their traits for each would take for ever."""
    asked = []

    class Asked(type(bpttcheck.cells.Elman())):
        def __getattribute__(self, name):
            asked.append(name)
            return super().__getattribute__(name)

    network = Asked()
    for _ in range(5):
        network = bpttcheck.networks.Stack([network])
    asked.clear()
    Traits.of(network)
    assert all(asked.count(name) <= 3 for name in TRAITS), {n: asked.count(n) for n in TRAITS}
