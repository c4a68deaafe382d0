"""What README.md shows is what happens."""

import re
import tomllib
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()


def test_it_fits_two_screens():
    assert len(README.split()) <= 600


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_failure_that_is_drawn_is_the_one_that_is_printed(theme, failure):
    picture = (DOCS / "_assets" / f"failure-{theme}.svg").read_text()
    rows = re.findall(r"<text[^>]*>(.*?)</text>", picture)
    drawn = [
        unescape(re.sub(r"<[^>]*>", "", row)).replace("\N{NO-BREAK SPACE}", " ") for row in rows
    ]
    numbers = re.compile(r"-?\d\S*")
    assert [numbers.sub("0", line) for line in drawn] == [
        numbers.sub("0", line) for line in failure
    ]
    value = re.compile(r"(?:hand|JAX) +(\S+)")
    assert value.findall("\n".join(drawn))
    for mine, its in zip(
        *(map(float, value.findall("\n".join(x))) for x in (drawn, failure)), strict=True
    ):
        assert mine == pytest.approx(its, rel=1e-6)


@pytest.fixture(scope="module")
def failure():
    """The lines that the picture is made of, without colours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "_make")
        import make_picture

        return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in make_picture.printed()]


def test_the_figures_on_speed_are_those_of_the_page():
    page = (DOCS / "evidence" / "performance.md").read_text()
    rows = {
        line.split("|")[1].strip(): line.split("|")[3].strip()
        for line in page.splitlines()
        if line.startswith(("| fused over JAX, geo", "| on JAX over JAX, geo"))
    }
    for row, words in {
        "on JAX over JAX, geometric mean, 1 core": "rule on JAX takes",
        "fused over JAX, geometric mean, 1 core": "NumPy layer",
    }.items():
        said = re.search(words + r" (\d\.\d\dx)", README.replace("\n", " "))
        assert rows[row].split()[0] == said[1]


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_settings_that_are_documented_are_all_there_are():
    from bpttcheck.config import Settings

    page = (DOCS / "reference" / "settings.md").read_text()
    table = tomllib.loads(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])["tool"]["bpttcheck"]
    assert set(table) == set(Settings.__dataclass_fields__)


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    for command in ('pip install ".[dev]" && pytest', "pip install . && bpttcheck verify"):
        assert f"\n{command}\n" in README
        assert re.sub(r"([.\[\]])", r"\\\1", command).split(" &&")[0] in script
