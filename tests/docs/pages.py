"""The pages for people, read as Markdown: code blocks, links, code spans, and the commands among them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)(?: title=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is to be saved as, its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*parts) for parts in _FENCE.findall(page.read_text(encoding="utf-8"))]


def spans(page: Path) -> list[str]:
    """Code spans outside of fenced blocks."""
    return _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def shell_lines(page: Path) -> Iterator[str]:
    """Lines of the page's shell blocks, continued ones joined."""
    for block in blocks(page):
        if block.language == "bash":
            yield from block.text.replace("\\\n", " ").splitlines()


def commands(page: Path) -> list[list[str]]:
    """Words after ``python -m`` of every command of ours in the page: the module, then its arguments."""
    texts = [*shell_lines(page), *(span for span in spans(page) if span.startswith("python -m bench"))]
    found = []
    for text in texts:
        words = shlex.split(text, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables set for the command
            words.pop(0)
        if words[:2] == ["python", "-m"] and words[2].partition(".")[0] == "bench":
            found.append([word for word in words[2:] if word != "..."])
    return found
