"""The page and the plots: complete, offline, and the same for the same benchmark."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bpttcheck.bench.report import html, plots
from bpttcheck.bench.report.compare import compare
from bpttcheck.bench.report.records import Benchmark, load
from bpttcheck.bench.report.summary import between

FOUND = load(Path(__file__).parent / "report.json")
_VOID = {"meta", "br", "input", "link", "img"}


@pytest.fixture(scope="module")
def drawn() -> list[plots.Drawing]:
    return plots.drawings(FOUND)


@pytest.fixture(scope="module")
def page(drawn: list[plots.Drawing]) -> str:
    return html.page(FOUND, drawn, compare(FOUND, FOUND))


class Structure(HTMLParser):
    """Counts elements and ids, and notes every tag that is closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.wrong = list[str](), list[str]()
        self.ids, self.tags = Counter[str](), Counter[str]()
        self.addresses = list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in _VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("href", "xlink:href", "src"):
                self.addresses.append(value or "")


def structure(text: str) -> Structure:
    found = Structure()
    found.feed(text)
    return found


def test_the_page_is_well_formed_and_no_id_is_used_twice(page: str) -> None:
    found = structure(page)
    assert found.wrong == []
    assert found.open == []
    assert [name for name, count in found.ids.items() if count > 1] == []


def test_the_page_asks_for_nothing_from_outside(page: str) -> None:
    assert "://" not in page
    assert "@import" not in page
    found = structure(page)
    assert not {"link", "img", "iframe", "object"} & found.tags.keys()
    assert all(address.startswith("#") for address in found.addresses)
    assert all(address[1:] in found.ids for address in found.addresses)
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in found.ids}


def test_the_page_is_for_light_and_dark_and_for_a_phone(page: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert plots.INK not in svg
    assert "fill: #ffffff" not in svg
    assert "var(--ink)" in svg


def test_every_table_can_be_sorted_by_every_column(page: str) -> None:
    found = structure(page)
    assert found.tags["table"] == 1 + len(FOUND.subjects)
    assert found.tags["button"] == found.tags["th"]
    assert found.tags["script"] == 1


def test_the_page_tells_everything_that_was_measured(page: str) -> None:
    text = page[: page.index("<script>")]
    for subject in FOUND.subjects:
        for line in subject.headlines:
            assert line in text
        for point in subject.points:
            for timing in point.timings:
                if timing.ratio is not None:
                    assert between(timing.ratio) in text
    for words in ("wrong.py:Cell: not timed: d_xs is off by 0.5", "torch is not installed",
                  "1200 calls", "never", "Compared with before"):  # fmt: skip
        assert words in text
    assert "OPENBLAS_CORETYPE=Haswell" in text


def test_the_floor_and_the_share_of_the_peak_have_columns_of_their_own(
    drawn: list[plots.Drawing], page: str
) -> None:
    assert "GFLOP/s" not in page
    subject = FOUND.subjects[0]
    first = subject.points[0]
    one = replace(first.timings[0], seconds=3e-3, floor=2e-3)
    known = replace(first, timings=[one], flops=30_000_000)
    changed = replace(subject, points=[known])
    environment = {**FOUND.environment, "peak_gflops": {first.dtype: 50.0}}
    text = html.page(replace(FOUND, subjects=[changed], environment=environment), drawn)
    assert ">2 ms</td>" in text
    assert ">1.50x</td>" in text
    assert ">20 %</td>" in text  # 10 of 50 GFLOP/s
    assert f"(50 GFLOP/s in {first.dtype})" in text


def test_a_name_is_text_and_not_markup(drawn: list[plots.Drawing]) -> None:
    odd = replace(FOUND.subjects[0], target="<script>alert(1)</script>", headlines=["<b>&"])
    text = html.page(replace(FOUND, subjects=[odd]), drawn)
    assert "<script>alert" not in text
    assert "&lt;b&gt;&amp;" in text


def test_the_plots_are_those_that_there_are_points_for(drawn: list[plots.Drawing]) -> None:
    kinds = Counter(one.name.split("-", 2)[2] for one in drawn)
    assert kinds["float64-time"] == 1
    names = {one.name for one in drawn}
    lstm = {f"1-lstm-float64-{kind}" for kind in (
        "time", "error", "ratio-numpy", "ratio-fused", "ratio-on_jax", "differences",
    )}  # fmt: skip
    assert lstm <= names
    assert {name for name in names if name.startswith("2-")} == {
        "2-mine-py-Cell-float64-time", "2-mine-py-Cell-float64-error",
        "2-mine-py-Cell-float64-differences",
    }  # fmt: skip


def test_every_plot_is_valid_xml_and_says_what_it_shows(drawn: list[plots.Drawing]) -> None:
    for one in drawn:
        text = "".join(ET.fromstring(one.svg).itertext())
        assert one.caption.split("; ")[0] in text
        ET.fromstring(one.svg[one.svg.index("<svg") :])


def test_a_heat_map_tells_the_ratio_of_each_of_its_points(drawn: list[plots.Drawing]) -> None:
    svg = next(one.svg for one in drawn if one.name == "1-lstm-float64-ratio-fused")
    for point in FOUND.subjects[0].points:
        timing = point.timing("fused")
        assert timing is not None
        assert timing.ratio is not None
        if point.dtype == "float64" and point.size.T == 50:
            assert f"{timing.ratio.value:.2f}x" in svg


def test_the_fitted_exponent_stands_beside_each_form(drawn: list[plots.Drawing]) -> None:
    svg = next(one.svg for one in drawn if one.name == "1-lstm-float64-time")
    assert svg.count("T^0.95") == 5


def test_zero_errors_and_single_points_are_drawn_all_the_same() -> None:
    subject = FOUND.subjects[0]
    point = subject.points[0]
    zero = replace(point, timings=[replace(timing, error=0.0) for timing in point.timings])
    curve = replace(subject.v_curves[0], errors=[0.0] * len(subject.v_curves[0].steps))
    for points in ([zero], [zero, replace(subject.points[1], timings=zero.timings)], []):
        odd = replace(subject, points=points, v_curves=[curve])
        for one in plots.drawings(replace(FOUND, subjects=[odd])):
            ET.fromstring(one.svg)


def test_the_same_benchmark_gives_the_same_plots_to_the_byte(drawn: list[plots.Drawing]) -> None:
    assert plots.drawings(only_second(FOUND)) == plots.drawings(only_second(FOUND))


def only_second(found: Benchmark) -> Benchmark:
    return replace(found, subjects=found.subjects[1:])
