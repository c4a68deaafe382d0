"""Docstrings as the site shows them: roles become links, and doctests blocks of code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|mod|meth|data|attr|exc):`~?([\w.]+)`")
_DOCTEST = re.compile(r"(?:^>>> .*\n(?:^(?:\.\.\. ?.*|\S.*)\n?)*)+", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)


def _link(role: re.Match[str]) -> str:
    """A link, if the site has an entry of that name."""
    return f'<autoref optional identifier="{role[1]}"><code>{role[1]}</code></autoref>'


def shown(text: str) -> str:
    """The docstring in Markdown."""
    text = re.sub(r"``([^`]*)``", r"`\1`", _ROLE.sub(_link, text))
    return _DOCTEST.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)
