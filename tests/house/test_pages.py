"""The site's build runs the code that pages show; here it is shown to find what does not run."""

import sys
from pathlib import Path

import pytest

MAKE = Path(__file__).parents[2] / "docs" / "_make"


@pytest.fixture(autouse=True)
def _importable(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(MAKE)
    monkeypatch.chdir(tmp_path)


def test_pages_that_are_made_are_current_and_what_is_public_has_a_docstring():
    import build_site

    assert build_site.stale() == []
    assert build_site.undocumented() == []


def test_a_page_that_is_not_current_is_found(monkeypatch):
    import build_site
    import make_checks

    monkeypatch.setattr(make_checks, "INTRODUCTION", "another")
    assert len(build_site.stale()) == 1


def test_a_public_name_without_a_docstring_is_found(monkeypatch):
    import build_site

    import bpttcheck

    monkeypatch.setattr(bpttcheck, "check", lambda: None)
    assert build_site.undocumented() == ["bpttcheck.check has no docstring"]


def test_files_are_written_and_changed_and_commands_are_run(tmp_path):
    import run_pages

    file = '```python title="a/one.py"'
    text = f"{file}\nx = 1\n```\n{file} replace\nx = 1\n---\nx = 2\n```\n"
    text += "```python\nfrom pathlib import Path\n"
    text += "assert Path('a/one.py').read_text() == 'x = 2\\n'\n```\n"
    text += "```py\nnot Python\n```\n"
    text += "```console\n$ bpttcheck explain purity\n...\nwritten.\n...\n```\n"
    run_pages.run(text, tmp_path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "page",
    [
        "```python\nassert False\n```\n",
        "```console\n$ bpttcheck explain no-such-thing\n...\n```\n",
        "<!-- exit 2 -->\n```console\n$ bpttcheck explain purity\n...\n```\n",
        "```console\n$ bpttcheck explain purity\nsomething else\n...\n```\n",
        '```python title="a.py" replace\nx\n---\ny\n```\n',
    ],
)
def test_what_does_not_run_is_found(page, tmp_path):
    import run_pages

    (tmp_path / "a.py").write_text("")
    with pytest.raises(AssertionError):
        run_pages.run(page, tmp_path)


def test_the_pages_of_the_tutorial_and_of_the_guides_are_run():
    import run_pages

    assert {"tutorial/index.md", "how-to/torch.md", "how-to/jax-rules.md"} <= set(run_pages.pages())
    assert sys.modules["run_pages"].__file__ == str(MAKE / "run_pages.py")
