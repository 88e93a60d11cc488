"""From captions and tags to bags of words."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bag_blocks", "tokens", "vocabulary"]

_TOKEN = re.compile(r"[^\W_]+")
_BLOCK = 4096


def tokens(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits, case folded.

    Example:
        >>> tokens("Two dogs; a RED_ball, 2x")
        ['two', 'dogs', 'a', 'red', 'ball', '2x']
    """
    return _TOKEN.findall(text.casefold())


def vocabulary(
    texts: Iterable[str], *, min_count: int, max_words: int | None = None
) -> tuple[str, ...]:
    """Return the words of at least `min_count` texts, in alphabetical order.

    Args:
        texts: Texts of the training items only, so that queries stay unseen.
        min_count: Texts a word must occur in.
        max_words: Keep only this many, the most frequent (ties by alphabet).
    """
    counts = Counter(word for text in texts for word in set(tokens(text)))
    frequent = [word for word, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda word: (-counts[word], word))
    return tuple(sorted(frequent[:max_words]))


def bag_blocks(texts: Sequence[str], words: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield bags of words block by block: uint8 (rows, D) in {0, 1}."""
    column = {word: i for i, word in enumerate(words)}
    for start in range(0, len(texts), _BLOCK):
        part = texts[start : start + _BLOCK]
        block = np.zeros((len(part), len(words)), dtype=np.uint8)
        for row, text in enumerate(part):
            block[row, [column[word] for word in tokens(text) if word in column]] = 1
        yield block
