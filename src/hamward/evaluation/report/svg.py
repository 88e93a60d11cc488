"""Line charts as inline SVG: colors come from the page, so light and dark both work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

__all__ = ["Axis", "Level", "Panel", "Series", "draw", "nice_ticks", "sheet", "victim_color"]

_LEFT, _TOP, _BOTTOM, _RIGHT = 40, 46, 40, 12
_CHARACTER = 6.9
_LABEL_GAP = 14.0
_COLORS = 10  # v0 to v9 in chart.css
_LARGEST = 1.2  # no chart is shown larger than this times its own size


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: its range, named ticks and title."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    name: str
    log: bool = False

    def at(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high end."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low) if high > low else 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line.

    Attributes:
        points: (x, y) in data units.
        style: CSS classes: the color, and "dashed" or "filled".
        label: Written at the end of the line, or above the plot if `keyed`; empty for none.
        band: (low, high) per point, or empty.
        markers: Draw the points; an unconnected series has style "points".
        keyed: Write the label above the plot, where no line can cross it.
        link: Address that the points lead to; empty for none.
        told: What a link's points say to a reader who cannot see them, or points at them.
    """

    points: tuple[tuple[float, float], ...]
    style: str
    label: str = ""
    band: tuple[tuple[float, float], ...] = ()
    markers: bool = False
    keyed: bool = False
    link: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A horizontal reference line with a name."""

    y: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart; `alt` says in words what it shows."""

    title: str
    alt: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    width: int = 380
    height: int = 260


def nice_ticks(low: float, high: float, *, wanted: int = 5) -> tuple[tuple[float, str], ...]:
    """Return round ticks that cover [low, high] from inside.

    Example:
        >>> [label for _, label in nice_ticks(0, 0.7)]
        ['0', '0.2', '0.4', '0.6']
    """
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= wanted)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple((i * step, f"{i * step:.4g}") for i in range(first, last + 1))


def draw(panel: Panel) -> Markup:
    """Return a panel as an <svg> element; every text in it is escaped."""
    ends = [s.label for s in panel.series if s.label and not s.keyed]
    names = [level.label for level in panel.levels] if ends else []
    right = max((8 + _CHARACTER * len(text) for text in (*ends, *names)), default=_RIGHT)
    frame = _Frame(panel, left=_LEFT, right=panel.width - right)
    parts = [frame.axes(), *(frame.level(level, inside=not ends) for level in panel.levels)]
    parts += [frame.series(series) for series in panel.series]
    parts += frame.keys()
    parts += frame.end_labels()
    head = Markup(
        '<svg class="chart" role="img" viewBox="0 0 {w} {h}" aria-label="{alt}" '
        'style="max-width:{most}px">'
        "<title>{alt}</title>"
    ).format(w=panel.width, h=panel.height, most=round(_LARGEST * panel.width), alt=panel.alt)
    return head + Markup("").join(parts) + Markup("</svg>")


def sheet(
    panels: Sequence[Markup], *, columns: int = 2, width: int = 460, height: int = 300
) -> str:
    """Return drawn panels of one size as an SVG file that needs nothing else.

    Args:
        panels: From `draw`.
        columns: Panels in a row.
        width: Of a panel, as it was drawn.
        height: Of a panel.
    """
    style = (resources.files("hamward.evaluation.report") / "chart.css").read_text("utf-8")
    gap, columns = 24, min(columns, len(panels))
    size = (
        columns * (width + gap) + gap,
        math.ceil(len(panels) / columns) * (height + gap) + gap,
    )
    placed = Markup("").join(
        Markup('<svg x="{}" y="{}" width="{}" height="{}">{}</svg>').format(
            gap + i % columns * (width + gap),
            gap + i // columns * (height + gap),
            width,
            height,
            panel,
        )
        for i, panel in enumerate(panels)
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        f'width="{size[0]}" height="{size[1]}" font-family="sans-serif">'
    )
    back = '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
    return f"{head}<style>{style}</style>{back}{placed}</svg>\n"


class _Frame:
    """Pixel positions of one panel."""

    def __init__(self, panel: Panel, *, left: float, right: float) -> None:
        self.panel, self.left, self.right = panel, left, right
        self.top, self.bottom = _TOP, panel.height - _BOTTOM

    def x(self, value: float) -> float:
        return round(self.left + (self.right - self.left) * self.panel.x.at(value), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - (self.bottom - self.top) * self.panel.y.at(value), 1)

    def axes(self) -> Markup:
        panel = self.panel
        parts = [_text(0, 13, panel.title, "title")]
        for value, label in panel.y.ticks:
            parts.append(_line(self.left, self.y(value), self.right, self.y(value), "grid"))
            parts.append(_text(self.left - 6, self.y(value) + 4, label, "tick end"))
        last = -math.inf
        for value, label in panel.x.ticks:
            x = self.x(value)
            parts.append(_line(x, self.bottom, x, self.bottom + 4, "axis"))
            if x - last >= 10 + _CHARACTER * len(label):
                parts.append(_text(x, self.bottom + 16, label, "tick middle"))
                last = x
        parts.append(_line(self.left, self.bottom, self.right, self.bottom, "axis"))
        middle = (self.left + self.right) / 2
        parts.append(_text(middle, panel.height - 6, panel.x.name, "name middle"))
        parts.append(_text(0, self.top - 9, panel.y.name, "name"))
        return Markup("").join(parts)

    def level(self, level: Level, *, inside: bool) -> Markup:
        y = self.y(level.y)
        line = _line(self.left, y, self.right, y, "level")
        return line + _text(self.right, y - 5, level.label, "tick end") if inside else line

    def series(self, series: Series) -> Markup:
        path = "L".join(f"{self.x(x)} {self.y(y)}" for x, y in series.points)
        parts = []
        if series.band:
            pairs = list(zip(series.points, series.band, strict=True))
            around = [(x, low) for (x, _), (low, _) in pairs]
            around += [(x, high) for (x, _), (_, high) in reversed(pairs)]
            edge = "L".join(f"{self.x(x)} {self.y(y)}" for x, y in around)
            parts.append(_path(f"M{edge}Z", f"band {series.style}"))
        if "filled" in series.style.split():
            first, last = self.x(series.points[0][0]), self.x(series.points[-1][0])
            area = f"M{first} {self.bottom}L{path}L{last} {self.bottom}Z"
            parts.append(_path(area, f"area {series.style}"))
        if "points" not in series.style.split():
            parts.append(_path(f"M{path}", f"line {series.style}"))
        if series.markers:
            dot = Markup('<circle class="dot {c}" cx="{x}" cy="{y}" r="3.4"/>')
            parts += [
                dot.format(c=series.style, x=self.x(x), y=self.y(y)) for x, y in series.points
            ]
        drawn = Markup("").join(parts)
        if not series.link:
            return drawn
        return Markup('<a href="{}" aria-label="{}"><title>{}</title>{}</a>').format(
            series.link, series.told, series.told, drawn
        )

    def keys(self) -> list[Markup]:
        """Return the keyed labels in one row above the plot, ending at its right edge."""
        parts, x = [], self.right
        for series in reversed([s for s in self.panel.series if s.label and s.keyed]):
            parts.append(_text(x, self.top - 9, series.label, f"label end {series.style}"))
            x -= _CHARACTER * len(series.label) + 14
        return parts

    def end_labels(self) -> list[Markup]:
        ends = [s for s in self.panel.series if s.label and not s.keyed]
        wanted = [(self.y(s.points[-1][1]), s.label, f"label {s.style}") for s in ends]
        if ends:
            wanted += [(self.y(level.y), level.label, "tick") for level in self.panel.levels]
        wanted.sort(key=lambda item: item[0])
        heights = _spread([y for y, _, _ in wanted], low=self.top, high=self.bottom - 2)
        return [
            _text(self.right + 7, y + 4, text, style)
            for y, (_, text, style) in zip(heights, wanted, strict=True)
        ]


def _spread(wanted: Sequence[float], *, low: float, high: float) -> list[float]:
    """Move sorted heights apart by at least a line, and keep them inside."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, low if not placed else placed[-1] + _LABEL_GAP))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - _LABEL_GAP
    return placed


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(
        round(x, 1), round(y, 1), style, text
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<path class="{}" d="M{} {}L{} {}"/>').format(
        style, round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1)
    )


def _path(d: str, style: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(style, d)


def victim_color(number: int) -> str:
    """Return the style of the victim that stands at this place: ten in turn.

    Example:
        >>> victim_color(3), victim_color(10)
        ('v3', 'v0')
    """
    return f"v{number % _COLORS}"
