"""The code blocks of the README and of docs/*.md."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$(?:\n+prints\n+```text\n(.*?)^```$)?", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block; `prints` is the output that the page shows under the word "prints"."""

    language: str
    text: str
    prints: str | None
    line: int

    @property
    def commands(self) -> list[str]:
        """The commands of a console block: its lines, or those with a prompt among outputs."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        asked = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return asked or [line for line in lines if line.strip()]


def blocks_of(text: str, language: str | None = None) -> list[Block]:
    """Return the blocks of a page in order, all or those in one language."""
    found = [
        Block(m[1], m[2], m[3], text.count("\n", 0, m.start()) + 1) for m in _FENCED.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


def words_of(command: str) -> list[str]:
    """Split a command as a shell does, without its comment."""
    return shlex.split(command, comments=True)
