"""Names for methods: one table a kind, filled by the modules that hold the methods."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from hamward.errors import unknown_name

__all__ = ["Entry", "Registry", "method_of"]

T = TypeVar("T")


def method_of(label: str) -> str:
    """Return the name before "@": of what a label with options or a budget calls.

    Example:
        >>> method_of("own-code@2/255")
        'own-code'
    """
    return label.split("@", maxsplit=1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """A registered method and what a reader must know before using it.

    Attributes:
        name: Name on the command line.
        make: The method: a class or function.
        summary: One sentence.
        citation: Authors, venue, year; "hamward" for ours.
        access: What the victim must grant ("gradients", "codes", "ranks" or "training").
        threat: Threat model in a few words.
    """

    name: str
    make: T
    summary: str
    citation: str
    access: str
    threat: str = ""


class Registry(Mapping[str, Entry[T]], Generic[T]):
    """A read-mostly mapping from names to entries; unknown names get the nearest ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(
        self, name: str, *, summary: str, citation: str, access: str, threat: str = ""
    ) -> Callable[[T], T]:
        """Return a decorator that enters its argument under `name`."""

        def enter(make: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(
                name=name,
                make=make,
                summary=summary,
                citation=citation,
                access=access,
                threat=threat,
            )
            return make

        return enter

    def __getitem__(self, name: str) -> Entry[T]:
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
