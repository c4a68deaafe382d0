"""What ``bpttcheck explain`` prints of a diagnosis: the formula, the mistake and its mending."""

import pytest
from click.testing import CliRunner

from bpttcheck import diagnose
from bpttcheck.cli import main
from bpttcheck.diagnose import CODES, PAGES, rule

TITLES = ("the formula", "the usual mistake", "right", "how it is recognised")


def code_lines(text):
    """Lines of code without their comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {line for line in lines if line}


def test_there_is_a_page_for_every_code():
    assert tuple(PAGES) == CODES
    assert not any("_" in code for code in CODES)


def test_the_room_has_no_other_attributes():
    with pytest.raises(AttributeError, match="no attribute 'PAGE'"):
        _ = diagnose.PAGE


@pytest.mark.parametrize("code", CODES)
def test_a_page_has_every_part(code):
    page = rule(code).page
    assert page.code == code
    for part in (page.meaning, page.formula, page.mistake, page.right, page.seen):
        assert part.strip() == part
        assert len(part) >= 10, part
    assert page.meaning.endswith(".")
    assert "\n" not in page.meaning


@pytest.mark.parametrize("code", CODES)
def test_the_right_code_is_not_the_usual_mistake(code):
    page = rule(code).page
    assert code_lines(page.right) - code_lines(page.mistake)
    assert code_lines(page.mistake) - code_lines(page.right)


@pytest.mark.parametrize("code", CODES)
def test_a_page_begins_with_its_meaning_and_its_parts_follow_in_order(code):
    lines = PAGES[code].splitlines()
    assert lines[0] == rule(code).page.meaning
    titles = [line.removesuffix(":") for line in lines if line.removesuffix(":") in TITLES]
    assert titles == list(TITLES)
    own = [line for line in lines[1:] if line and line.removesuffix(":") not in TITLES]
    assert all(line.startswith("    ") for line in own)


@pytest.mark.parametrize("code", CODES)
def test_the_command_line_prints_the_page(code):
    result = CliRunner().invoke(main, ["explain", code])
    assert result.exit_code == 0, result.output
    # A name that is a check's and a diagnosis's would hide the page.
    assert result.stdout.rstrip() == PAGES[code].replace("``", "`").rstrip()


@pytest.mark.parametrize("code", CODES)
def test_no_line_is_too_wide_for_a_terminal(code):
    page = rule(code).page
    code_parts = (page.formula, page.mistake, page.right)
    assert max(len(line) for part in code_parts for line in part.splitlines()) <= 96
