"""The JSON file of pytest-benchmark, read as a table: each form beside autodiff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bpttcheck.bench.report.records import HAND

_FASTEST = ("jax", "jax_hoisted")


def is_pytests(path: Path) -> bool:
    """True for a file that ``pytest --benchmark-json`` wrote."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # the reader of our own files says what is wrong
    return isinstance(document, dict) and {"benchmarks", "machine_info"} <= set(document)


def table(path: Path) -> tuple[list[str], str]:
    """Headlines, and a page in Markdown.

    Args:
        path: a file for which :func:`is_pytests` holds.

    Returns:
        One line for each group with a hand-written form, and the page. Ratios are of medians: the
        forms were timed one after another, not in rounds, so that they have no interval.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    groups: dict[str, dict[str, float]] = {}
    for one in document["benchmarks"]:
        form = (one.get("extra_info") or {}).get("form")
        if form:
            groups.setdefault(one["group"], {})[form] = one["stats"]["median"]
    machine: Any = document["machine_info"]
    cpu = (machine.get("cpu") or {}).get("brand_raw") or machine.get("machine", "")
    lines = [
        "# Benchmark",
        "",
        f"By pytest-benchmark {document.get('version', '')} on {cpu}, {document.get('datetime')}. "
        "Medians; forms were timed one after another: `bpttcheck bench` times them in rounds and "
        "gives intervals.",
        "",
        "| group | form | median | over the faster JAX autodiff |",
        "|---|---|---|---|",
    ]
    headlines: list[str] = []
    for group, medians in groups.items():
        base = min((medians[form] for form in _FASTEST if form in medians), default=None)
        for form, seconds in sorted(medians.items(), key=lambda item: item[1]):
            ratio = "" if base is None else f"{seconds / base:.2f}x"
            lines.append(f"| {group} | {form} | {1e3 * seconds:.3g} ms | {ratio} |")
        hand = {form: medians[form] for form in HAND if form in medians}
        if base is not None and hand:
            told = ", ".join(f"{form} {seconds / base:.2f}x" for form, seconds in hand.items())
            headlines.append(f"{group}: {told} of the time of JAX autodiff")
    if not groups:
        headlines.append("no benchmark in it was made by parametrize_with_benchmarks")
    return headlines, "\n".join([*lines, ""])
