"""A problem as named arrays, and their ``.npz``, which is read as untrusted input.

An ``.npz`` may hold pickles, which run code when they are read, and headers that ask for terabytes.
Here every member is stored uncompressed, its header is compared with the expected one before
anything is allocated, and the number of its bytes must be exact.
"""

from __future__ import annotations

import io
import keyword
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case

Array = NDArray[Any]
Shape = Any
"""A tree without its leaves, as JSON: null for a leaf, else one of the three kinds of container."""

MOST_BYTES = 64 * 2**20
_DEPTH = 50
KINDS = "biuf"  # booleans, integers, floating numbers


@dataclass(frozen=True)
class SerializedProblem:
    """A problem's arrays under plain names.

    Args:
        params: the names of the parameters, in order; their arrays are ``param_0`` and so on.
        state: the state's structure as JSON; its leaves are ``state0_0`` ... and ``d_state_0`` ...
        arrays: every array by its name: those, ``xs``, ``d_ys``, and ``mask`` if there is one.
    """

    params: tuple[str, ...]
    state: Shape
    arrays: Mapping[str, Array]

    def leaves(self, name: str) -> list[Array]:
        """The arrays ``name_0``, ``name_1``, ..."""
        count = len(self.params) if name == "param" else size(self.state)
        return [self.arrays[f"{name}_{i}"] for i in range(count)]

    def restore(self, case: Case, state: trees.Structure) -> Problem:
        """The problem, its states in the containers of ``state``."""
        return Problem(
            case=case,
            params=dict(zip(self.params, self.leaves("param"), strict=True)),
            xs=self.arrays["xs"],
            state0=state.unflatten(self.leaves("state0")),
            mask=self.arrays.get("mask"),
            d_ys=self.arrays["d_ys"],
            d_state=state.unflatten(self.leaves("d_state")),
        )


def flatten(problem: Problem) -> SerializedProblem:
    """The problem's arrays by name.

    Raises:
        ValueError: it cannot be stored; the text says why.
    """
    params, state = problem.params, shape(trees.structure(problem.state0))
    check_params(list(params))
    check_shape(state)
    d_state = trees.map_leaves(lambda _, leaf: leaf, problem.state0, problem.d_state)
    arrays: dict[str, Any] = {f"param_{i}": value for i, value in enumerate(params.values())}
    arrays["xs"], arrays["d_ys"] = problem.xs, problem.d_ys
    if problem.mask is not None:
        arrays["mask"] = problem.mask
    for name, tree in (("state0", problem.state0), ("d_state", d_state)):
        arrays |= {f"{name}_{i}": leaf for i, leaf in enumerate(trees.leaves(tree))}
    plain = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in arrays.items()}
    for name, array in plain.items():
        if array.dtype.kind not in KINDS or array.dtype.itemsize > 8:
            raise ValueError(f"{name} has the dtype {array.dtype}")
    if sum(array.nbytes for array in plain.values()) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES // 2**20} MiB of numbers")
    return SerializedProblem(tuple(params), state, plain)


def names(params: int, leaves: int, *, mask: bool) -> list[str]:
    """The names of the arrays of a problem with these numbers of parameters and state leaves."""
    return [
        *(f"param_{i}" for i in range(params)),
        "xs",
        "d_ys",
        *(["mask"] if mask else []),
        *(f"state0_{i}" for i in range(leaves)),
        *(f"d_state_{i}" for i in range(leaves)),
    ]


def shape(structure: trees.Structure) -> Shape:
    """The JSON form of a structure."""
    children = [shape(child) for child in structure.children]
    if structure.kind == "leaf":
        return None
    if structure.kind == "dict":
        return {"dict": [[key, c] for key, c in zip(structure.keys, children, strict=True)]}
    if structure.kind == "namedtuple":
        return {
            "namedtuple": structure.type.__name__,
            "fields": [[key, c] for key, c in zip(structure.keys, children, strict=True)],
        }
    return {"tuple": children}


def size(state: Shape) -> int:
    """The number of leaves."""
    return 1 if state is None else sum(size(child) for _, child in items(state))


def items(state: Shape) -> list[tuple[Any, Shape]]:
    """The children of a container with their positions, fields or keys."""
    if "tuple" in state:
        return list(enumerate(state["tuple"]))
    return [(key, child) for key, child in state.get("fields", state.get("dict"))]


def check_params(params: Any) -> None:
    """Raise ValueError unless ``params`` is a list of names, each once."""
    plain = isinstance(params, list) and all(type(name) is str for name in params)
    if not plain or len(set(params)) < len(params):
        raise ValueError("the names of the parameters are not strings, each once")


def check_shape(state: Any, depth: int = 0) -> None:
    """Raise ValueError unless ``state`` describes a tree."""
    if state is None:
        return
    fault = ValueError("the structure of the state is unknown")
    if depth > _DEPTH or not isinstance(state, dict):
        raise fault
    if set(state) == {"tuple"}:
        children = state["tuple"]
        if not isinstance(children, list):
            raise fault
    else:
        pairs = state.get("fields", state.get("dict"))
        if set(state) not in ({"dict"}, {"namedtuple", "fields"}) or not isinstance(pairs, list):
            raise fault
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise fault
        keys, children = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if "fields" in state:
            fine = all(_is_name(name) for name in [state["namedtuple"], *keys])
        else:
            fine = all(type(key) in (str, int) for key in keys)
        if not fine or len(set(keys)) < len(keys):
            raise fault
    for child in children:
        check_shape(child, depth + 1)


def _is_name(name: Any) -> bool:
    return type(name) is str and name.isidentifier() and not keyword.iskeyword(name)


Expected = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]


def pack(arrays: Mapping[str, Array]) -> bytes:
    """The arrays as an ``.npz``; the same arrays give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return out.getvalue()


def unpack(data: bytes, expected: Expected) -> dict[str, Array]:
    """The arrays in ``data``.

    Args:
        data: the bytes of an ``.npz``.
        expected: name -> ``(dtype, shape)`` of every array that must be there, and of no other.

    Raises:
        ValueError: anything else is there.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _members(archive, expected)
    except ValueError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds of errors for damaged bytes
        raise ValueError(f"it cannot be read ({type(error).__name__}: {error})") from error


def _members(archive: zipfile.ZipFile, expected: Expected) -> dict[str, Array]:
    found = sorted(member.filename for member in archive.infolist())
    if found != sorted(f"{name}.npy" for name in expected):
        raise ValueError(f"it holds {', '.join(found)[:200]}")
    arrays: dict[str, Array] = {}
    for name, (dtype, shape) in expected.items():
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        # The header may be wrong about the sizes; reads are bounded by the file itself.
        arrays[name] = _array(name, archive.read(member), dtype, shape)
    return arrays


def _array(name: str, data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} is in another format")
    found, fortran, given = np.lib.format.read_array_header_1_0(stream)
    if given != dtype or found != shape or fortran:
        raise ValueError(f"{name} has the dtype {given} and the shape {found}")
    body = stream.read()
    if len(body) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name} has {len(body)} bytes of numbers")
    if dtype.kind == "b" and max(body, default=0) > 1:
        raise ValueError(f"{name} holds bytes that are neither true nor false")
    return np.frombuffer(body, dtype).reshape(shape).copy()
