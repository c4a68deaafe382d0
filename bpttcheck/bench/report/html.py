"""A benchmark as one self-contained HTML page, without external scripts, fonts or images."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from bpttcheck.bench.report import plots, summary
from bpttcheck.bench.report.compare import Comparison
from bpttcheck.bench.report.records import Benchmark, SubjectBenchmark
from bpttcheck.errors import ContractError

_TEMPLATE = "index.html.j2"
# The colours of a plot that a dark page must change, by the variables of the page.
_INKS = {plots.INK: "var(--ink)", plots.SOFT: "var(--soft)", plots.LINE: "var(--line)"}


def page(
    benchmark: Benchmark, drawings: list[plots.Drawing], comparison: Comparison | None = None
) -> str:
    """The whole page.

    Args:
        benchmark: what was measured.
        drawings: its plots, embedded in the page.
        comparison: with an older benchmark, or None.

    Raises:
        ContractError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ContractError(
            'the page needs jinja2, which is not installed: pip install "bpttcheck[report]"'
        ) from error
    text = (
        resources.files("bpttcheck.bench.report")
        .joinpath("templates", _TEMPLATE)
        .read_text("utf-8")
    )
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        seconds=summary.seconds, times=summary.times, between=summary.between,
        percent=summary.percent, revisions_line=summary.revisions_line,
    )  # fmt: skip
    return environment.from_string(text).render(
        benchmark=benchmark,
        subjects=[_subject(one, drawings) for one in benchmark.subjects],
        comparison=comparison,
        short=summary.SHORT,
        environment=summary.environment_line(benchmark),
        share=summary.share,
        peak=benchmark.environment.get("peak_gflops", {}),
    )


def _subject(subject: SubjectBenchmark, drawings: list[plots.Drawing]) -> dict[str, Any]:
    reasons: dict[str, dict[str, None]] = {}
    for point in subject.points:
        for form, reason in point.absent.items():
            reasons.setdefault(form, {}).setdefault(reason)
    return {
        "found": subject,
        "notes": [line.strip() for line in summary.notes(subject)],
        "absent": {form: list(said) for form, said in reasons.items()},
        "plots": [
            (one.caption, inline(one.svg, one.name))
            for one in drawings
            if one.target == subject.target
        ],
    }


def inline(svg: str, name: str) -> str:
    """An SVG file as an element of a page, with unique ids and the page's colours.

    Args:
        svg: the file that matplotlib wrote.
        name: a prefix for its ids.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    # Inline SVG needs no XML namespaces, and the page sets the size.
    head, closing, body = element.partition(">")
    head = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", head)
    element = f"{head}{closing}{body}"
    element = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', element)
    element = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', element)
    element = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", element)
    element = element.replace("fill: #ffffff", "fill: none")
    for colour, variable in _INKS.items():
        element = element.replace(colour, variable)
    return element
