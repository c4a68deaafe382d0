"""The sizes that are measured: along T, and over n_hidden and B."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bpttcheck.bench.report.records import Size
from bpttcheck.errors import ContractError
from bpttcheck.subject.subject import Subject

_LENGTHS, _BATCHES, _WIDTHS = (10, 50, 200, 1000), (1, 8, 32), (8, 32, 128)
_T, _B, _H = 50, 8, 32
_SMALLEST = Size(10, 1, 4, 8)
_QUICK = (_SMALLEST, Size(20, _B, _H, _H), Size(100, _B, _H, _H))


def default(quick: bool = False) -> tuple[Size, ...]:
    """A small size, some lengths at one width and batch, and some of these at one length."""
    if quick:
        return _QUICK
    along = [Size(T, _B, _H, _H) for T in _LENGTHS]
    across = [Size(_T, B, H, H) for H, B in itertools.product(_WIDTHS, _BATCHES)]
    return tuple(dict.fromkeys([_SMALLEST, *along, *across]))


def parse(text: str) -> Size:
    """A size as it is typed, ``T,B,N,H``.

    Raises:
        ContractError: it is malformed.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ContractError(
            f"size {text!r}, expected four positive numbers T,B,N,H, such as 100,8,32,32",
            item="sizes",
        )
    T, B, n_in, n_hidden = map(int, parts)
    return Size(T, B, n_in, n_hidden)


def fitting(subject: Subject, sizes: Sequence[Size], given: bool) -> tuple[Size, ...]:
    """The sizes that the subject takes.

    Args:
        subject: it may declare a strategy of ``(n_in, n_hidden)``.
        sizes: what is to be measured.
        given: True if the user asked for exactly these sizes; else they are adapted.
    """
    if subject.sizes is None or given:
        return tuple(sizes)
    from bpttcheck.problems.sizes import collect

    pairs = collect(subject.sizes, 0)
    widths = sorted({size.n_hidden for size in sizes})
    # The widths of the plan, small to large, become the subject's own, small to large.
    chosen = {w: pairs[k * (len(pairs) - 1) // max(len(widths) - 1, 1)]
              for k, w in enumerate(widths)}  # fmt: skip
    made = [Size(size.T, size.B, *chosen[size.n_hidden]) for size in sizes]
    return tuple(dict.fromkeys(made))


def work(size: Size) -> int:
    """A measure of the work, by which the smallest size is chosen."""
    return size.T * size.B * size.n_hidden * (size.n_in + size.n_hidden)
