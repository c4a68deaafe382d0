"""The sentences of the page about power that rest on numbers."""

from __future__ import annotations

from benchmarks.ladder.page import smallest
from benchmarks.power.arms import EQUAL_FIXED, EQUAL_OURS, IDENTICAL, REGIME, TOO_LONG
from benchmarks.power.bench import LONG
from benchmarks.power.ladder import at_power
from benchmarks.power.records import OURS
from benchmarks.power.results import Results

ASKED = {"float64": (2e-13, 3e-14), "float32": (1e-4, 1e-5)}
"""The errors that one case, and one check, were asked to catch at 90 % power."""

_PLACES = {
    IDENTICAL: "In one case, identical inputs",
    REGIME: "In one case of a regime",
    EQUAL_OURS: "By whole checks",
}


def cells(r: Results) -> str:
    """The cells by name."""
    return ", ".join(
        f"the custom {c} (`examples/leaky.py`)" if c == "leaky" else c for c in r.cells
    )


def catalogue(r: Results) -> str:
    """The size of the catalogue for each cell."""
    return ", ".join(f"{count} for {cell}" for cell, count in r.catalogue.items())


def granted(r: Results) -> str:
    """The number of evaluations for each cell."""
    ours = r.where(arm=EQUAL_FIXED, method=OURS, family="")
    return "; ".join(f"{t.forward} + {t.traced} ({t.cell})" for t in ours)


def too_long(r: Results) -> str:
    """Who is not asked about long sequences."""
    left = [name for name in TOO_LONG if name in r.peers]
    if not left:
        return ""
    return f"{' and '.join(left)} perturb every input and are not asked at T = {LONG}."


def ladder_sentence(r: Results) -> str:
    """The ladder in one sentence."""
    parts: list[str] = []
    for dtype in r.dtypes:
        ours = at_power(r.climbs(arm="defaults", method=OURS, dtype=dtype))
        found = {m: at_power(r.climbs(arm="defaults", method=m, dtype=dtype)) for m in r.peers}
        seen = sorted(d for d in found.values() if d)
        theirs = f"{seen[0]:.0e} to {seen[-1]:.0e}" if seen else "nothing"
        blind = [m for m, d in found.items() if not d]
        more = f" ({', '.join(blind)}: none)" if blind else ""
        parts.append(f"{short(ours)} in {dtype}, the peers at their defaults {theirs}{more}")
    return (
        f"Smallest relative error of a block caught at 90 % power in one look: {'; '.join(parts)}."
    )


def asked(r: Results) -> str:
    """Beside what was asked for, without rounding up."""
    parts: list[str] = []
    for dtype, (case, check) in ASKED.items():
        found = at_power(r.climbs(arm="defaults", method=OURS, dtype=dtype))
        whole = smallest([c for c in r.checks if c.dtype == dtype], 0.9)
        for what, wanted, got in (("case", case, found), ("check", check, whole)):
            kept = "kept" if got is not None and got <= wanted else "not kept"
            parts.append(f"{short(wanted)} in a {what}, {dtype}: {short(got)}, {kept}")
    return f"Asked of bpttcheck at 90 % power, and found: {'; '.join(parts)}."


def missed(r: Results) -> str:
    """The bugs that this package did not catch, each with the places."""
    parts: list[str] = []
    for arm, what in _PLACES.items():
        where: dict[tuple[str, str], list[str]] = {}
        for t in r.where(arm=arm, method=OURS):
            if t.family and not t.flagged:
                regime = f", {t.regime}" if arm == REGIME else ""
                where.setdefault((t.mutant, t.cell), []).append(f"{t.dtype}{regime}")
        named = [f"- {bug} ({cell}): {'; '.join(at)}" for (bug, cell), at in where.items()]
        parts.append(f"{what}:\n\n" + "\n".join(named or ["- nothing"]))
    return "\n\n".join(parts) + (
        "\n\nBugs of purity are looked for by the check `purity`, not by a single gradient case. "
        "What needs a certain size, mask or length is missed by a check whose few cases lack it, "
        "and a case that is saturated or has no cotangent at the wrong step shows less. The report "
        "of a real check says which bugs its cases could not show."
    )


def short(d: float | None) -> str:
    """A rung of the ladder in few characters."""
    return "none" if d is None else f"{d:.0e}".replace("e-0", "e-")
