"""What to write instead of a line of user code that cannot be traced."""

from __future__ import annotations

import re
from typing import NoReturn

from bpttcheck.oracles.tracer.run import called_by_user, decline, user_line

_BRANCHES = (
    (r"\bassert\b", "an assertion on a traced value", "assertions on shapes only"),
    (r"\bwhile\b", "`while` on a traced value", "a fixed number of rounds, with np.where"),
    (r"(?<![\w.])max\(", "max() of traced values", "np.maximum(a, b), or np.max(z)"),
    (r"(?<![\w.])min\(", "min() of traced values", "np.minimum(a, b), or np.min(z)"),
    (r"(?<![\w.])sorted\(", "sorted() of traced values", "np.sort"),
    (r"(?<![\w.])(any|all)\(", "any() or all() of traced values", "np.any, np.all"),
    (r"(?<![\w.])bool\(", "bool() of a traced value", "np.where(condition, a, b)"),
    (r"\band\b", "`and` of traced values", "np.logical_and(a, b), or a & b"),
    (r"\bor\b", "`or` of traced values", "np.logical_or(a, b), or a | b"),
    (r"\bif\b", "`if` on a traced value", "np.where(condition, a, b)"),
    (r"\bnot\b", "`not` of a traced value", "np.logical_not(a), or ~a"),
)

_NUMBERS = {
    "float": ("float() of a traced value", "the array itself, or np.float64 arithmetic"),
    "int": ("int() of a traced value", "z.astype(int)"),
    "index": ("a traced value as a Python integer", "an array index: np.take(table, k, axis=0)"),
    "complex": ("complex() of a traced value", "the array itself"),
    "hash": ("hash() of a traced value", "keep values out of sets and dict keys"),
    "round": ("round() of a traced value", "np.round"),
}

_CONVERSIONS = (
    (r"\bmatrix\(", "np.matrix of a traced array", "2-D arrays, with @ for the product"),
    (r"\bvectorize\b", "np.vectorize", "array expressions, np.where for branches"),
    (r"\bnp\.float(32|64)\(", "np.float32() or np.float64() of a traced array", "z.astype(dtype)"),
    (r"\w\[.*\]\s*[-+*/@]?=(?!=)", "a traced value is written into an array that was made outside "
     "the step", "make the array inside the step, with np.empty, np.zeros or np.array"),
    (r"\w\[.*\]", "a traced value turned into a plain array, perhaps as an index of one",
     "np.take(table, k, axis=0)"),
)  # fmt: skip

_METHODS = {
    "item": "the array itself",
    "tolist": "the array itself",
    "tobytes": "NumPy functions of the array",
    "tofile": "save outside the step",
    "dump": "save outside the step",
    "dumps": "save outside the step",
    "data": "NumPy functions of the array",
    "ctypes": "NumPy functions of the array",
    "partition": "np.sort",
    "resize": "np.resize",
    "byteswap": "NumPy functions of the array",
    "getfield": "NumPy functions of the array",
    "setfield": "NumPy functions of the array",
    "base": "NumPy functions of the array",
}


def refuse_branch() -> NoReturn:
    """A traced value was used as a bool."""
    line = user_line()
    for pattern, what, remedy in _BRANCHES:
        if re.search(pattern, line):
            decline(what, remedy, by_value=True)
    decline("the truth of a traced value", "np.where(condition, a, b)", by_value=True)


def refuse_number(kind: str) -> NoReturn:
    """A traced value was converted to a Python number."""
    found = re.search(r"\bmath\.(\w+)\(", user_line())
    if found and kind == "float":
        decline(f"math.{found[1]} of a traced value", remedy_for_math(found[1]))
    if kind == "index" and re.search(r"\brange\(", user_line()):
        decline(
            "range() up to a traced value", "a fixed range, with np.where inside", by_value=True
        )
    decline(*_NUMBERS[kind], by_value=kind in ("int", "index"))


def remedy_for_math(name: str) -> str:
    """What to write instead of ``math.name``."""
    others = {"erf": "scipy.special.erf", "erfc": "scipy.special.erfc", "pow": "np.power",
              "lgamma": "scipy.special.gammaln", "gamma": "scipy.special.gamma",
              "fsum": "np.sum", "dist": "np.linalg.norm"}  # fmt: skip
    return others.get(name, f"np.{name}")


def refuse_conversion() -> NoReturn:
    """A traced value was converted to a plain ndarray."""
    line, called = user_line(), called_by_user()
    for pattern, what, remedy in _CONVERSIONS:
        if re.search(pattern, line) or re.search(pattern, called):
            decline(what, remedy)
    by = f" by {called}" if called else ""
    decline(
        f"a traced array is turned into a plain ndarray{by}",
        "NumPy functions, with arrays (np.array([...])) in place of lists",
    )


def refuse_attribute(name: str) -> NoReturn:
    """A method or attribute that needs concrete values."""
    call = f".{name}" if name in ("data", "ctypes", "base") else f".{name}()"
    decline(f"{call} of a traced value", _METHODS.get(name, "NumPy functions"))
