"""Cards on a sheet: picture, words, labels. Only drawing, no choosing."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

__all__ = ["Example", "draw_sheet"]

_INK = (31, 41, 55)
_SOFT = (107, 114, 128)
_LINE = (221, 225, 231)
_PAPER = (246, 247, 249)
_WHITE = (255, 255, 255)
_ACCENT = (29, 78, 137)

_PICTURE = 192
_PAD = 16
_CARD = _PICTURE + 2 * _PAD
_WORD_LINES = 2
_CHIP_LINES = 2
_LINE_HEIGHT = 21
_CHIP_HEIGHT = 24
_CARD_HEIGHT = 3 * _PAD + _PICTURE + _WORD_LINES * _LINE_HEIGHT  # plus the lines of chips
_GAP = 18
_MARGIN = 36
_HEAD = 100
_ROW_NAME = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One card. Pixels are uint8 (S, S, 3); the first label is drawn filled."""

    pixels: NDArray[np.uint8]
    words: Sequence[str]
    labels: Sequence[str]


def draw_sheet(
    sections: Sequence[tuple[str, int, Sequence[Example]]],
    *,
    title: str,
    caption: str,
    columns: int,
) -> "Image.Image":
    """Draw one row of cards per (label, number of its items, examples)."""
    from PIL import Image, ImageDraw

    caption_font = _font(15)
    width = max(2 * _MARGIN + columns * (_CARD + _GAP) - _GAP, 560)
    caption_lines = _wrap(caption.split(), caption_font, width - 2 * _MARGIN, lines=6)
    head = _HEAD + 20 * (len(caption_lines) - 1)
    heights = [_card_height(examples) for _, _, examples in sections]
    height = head + sum(heights) + len(heights) * (_ROW_NAME + _GAP) + _MARGIN // 2
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 26), title, font=_font(30, bold=True), fill=_INK)
    for i, line in enumerate(caption_lines):
        draw.text((_MARGIN, 68 + 20 * i), line, font=caption_font, fill=_SOFT)
    name_font = _font(19, bold=True)
    top = head
    for (name, count, examples), card_height in zip(sections, heights, strict=True):
        draw.text((_MARGIN, top + 8), name, font=name_font, fill=_ACCENT)
        after = _MARGIN + name_font.getlength(name) + 12
        draw.text((after, top + 12), f"{count:,} items", font=_font(15), fill=_SOFT)
        for column, example in enumerate(examples):
            corner = (_MARGIN + column * (_CARD + _GAP), top + _ROW_NAME)
            _draw_card(sheet, draw, example, corner=corner, height=card_height)
        top += _ROW_NAME + card_height + _GAP
    return sheet


def _card_height(examples: Sequence[Example]) -> int:
    lines = max((len(_chip_lines(example.labels)) for example in examples), default=1)
    return _CARD_HEIGHT + lines * (_CHIP_HEIGHT + 5)


def _draw_card(
    sheet: "Image.Image",
    draw: "ImageDraw.ImageDraw",
    example: Example,
    *,
    corner: tuple[int, int],
    height: int,
) -> None:
    from PIL import Image

    x, y = corner
    draw.rounded_rectangle(
        (x, y, x + _CARD, y + height), radius=10, fill=_WHITE, outline=_LINE, width=1
    )
    picture = Image.fromarray(example.pixels).resize((_PICTURE, _PICTURE), Image.Resampling.LANCZOS)
    sheet.paste(picture, (x + _PAD, y + _PAD))
    y += _PICTURE + 2 * _PAD
    font = _font(15)
    lines = _wrap(example.words, font, _PICTURE, lines=_WORD_LINES)
    for i, line in enumerate(lines or ["(no words)"]):
        draw.text((x + _PAD, y + i * _LINE_HEIGHT), line, font=font, fill=_INK if lines else _SOFT)
    _draw_chips(draw, example.labels, corner=(x + _PAD, y + _WORD_LINES * _LINE_HEIGHT + 8))


def _chip_lines(labels: Sequence[str]) -> list[list[str]]:
    """Break labels into at most `_CHIP_LINES` lines; what does not fit becomes "+n"."""
    lines: list[list[str]] = [[]]
    for i, label in enumerate(labels):
        rest = [f"+{len(labels) - i - 1}"] if i + 1 < len(labels) else []
        room_for = rest if len(lines) == _CHIP_LINES else []
        if not lines[-1] or _chips_width([*lines[-1], label, *room_for]) <= _PICTURE:
            lines[-1].append(label)
        elif len(lines) < _CHIP_LINES:
            lines.append([label])
        else:
            lines[-1].append(f"+{len(labels) - i}")
            break
    return lines


def _chips_width(labels: Sequence[str]) -> float:
    font = _font(13)
    return sum(font.getlength(label) + 16 for label in labels) + 6 * (len(labels) - 1)


def _draw_chips(
    draw: "ImageDraw.ImageDraw", labels: Sequence[str], *, corner: tuple[int, int]
) -> None:
    """Draw labels as rounded chips, filled for the first."""
    font = _font(13)
    left, y = corner
    for i, line in enumerate(_chip_lines(labels)):
        x = float(left)
        for j, label in enumerate(line):
            filled = i == j == 0
            box = (x, y, x + _chips_width([label]), y + _CHIP_HEIGHT)
            draw.rounded_rectangle(
                box,
                radius=_CHIP_HEIGHT // 2,
                fill=_ACCENT if filled else _WHITE,
                outline=_ACCENT,
                width=1,
            )
            middle = ((box[0] + box[2]) / 2, y + _CHIP_HEIGHT / 2)
            draw.text(middle, label, font=font, fill=_WHITE if filled else _ACCENT, anchor="mm")
            x = box[2] + 6
        y += _CHIP_HEIGHT + 5


def _wrap(
    words: Sequence[str], font: "ImageFont.FreeTypeFont", width: int, *, lines: int
) -> list[str]:
    """Break words into at most `lines` lines; an ellipsis says that something is missing."""
    wrapped: list[str] = []
    for word in words:
        longer = f"{wrapped[-1]} {word}" if wrapped else word
        if wrapped and font.getlength(longer) <= width:
            wrapped[-1] = longer
        elif len(wrapped) < lines:
            wrapped.append(_clip(word, font, width))
        else:
            wrapped[-1] = _clip(longer, font, width)
            break
    return wrapped


def _clip(text: str, font: "ImageFont.FreeTypeFont", width: int) -> str:
    """Shorten a text to a width, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@functools.cache
def _font(size: int, *, bold: bool = False) -> "ImageFont.FreeTypeFont":
    """Return DejaVu Sans from matplotlib, so that the sheet looks the same everywhere."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
