"""Named arrays as the bytes of an ``.npz``, and back without trusting a single one of them.

An ``.npz`` may hold pickles, which run code when they are read, and headers that ask for terabytes.
Here every member is stored uncompressed, its header is compared with what is expected before
anything is allocated, and the number of its bytes must be exact.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
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
    except Exception as error:  # zipfile and NumPy raise a dozen kinds for damaged bytes
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
        # The header names the sizes and may lie; what is read is bounded by the file itself.
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
