"""Split protocols of papers, as named values: who asks, who is searched, who is learned from.

Positions refer to the source's own order. "First rows" therefore means what it means in the
paper's code only when the source keeps the paper's order. Where our notes mark a fact as UNKNOWN
or INFERRED, the summary says so and so does every prepared set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from hamward.data.source import Source
from hamward.data.split import Split, take_groups
from hamward.errors import ConfigError, DataError, unknown_name
from hamward.random import permutation

__all__ = ["PROTOCOLS", "Protocol", "split_source"]

Positions = NDArray[np.int64]
_Parts = tuple[Positions, Positions, Positions]  # query, train, database


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What a rule needs: the items, how many to take, and the seed."""

    source: Source
    queries: int
    train: int
    seed: int

    @property
    def size(self) -> int:
        return len(self.source.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A way to split a source.

    Attributes:
        name: Name on the command line.
        summary: The rule, in one sentence, with what is UNKNOWN or INFERRED.
        citation: Whose papers or code use it.
        counts: Queries and training items (with validation) by data set, as `Source.name` begins;
            elsewhere they must be given.
        rule: Makes query, train and database positions.
        fixed: Whether the source's own split is used, so that counts and seed play no part.
        default_seed: Seed where none is given.
    """

    name: str
    summary: str
    citation: str
    counts: Mapping[str, tuple[int, int]]
    rule: Callable[[_Task], _Parts]
    fixed: bool = False
    default_seed: int = 0


def split_source(
    source: Source,
    protocol: str,
    *,
    seed: int | None = None,
    queries: int | None = None,
    train: int | None = None,
    validation: int | None = None,
) -> Split:
    """Split a source by a named protocol; validation is always carved from the training items.

    Without labels an item's only answer is its own other side, so there the queries are searched
    too. Papers choose settings on their queries. Here `validation` of the paper's training items
    are held out instead, so `train` has that many fewer. Groups stay on one side.

    Args:
        source: The items.
        protocol: A key of `PROTOCOLS`.
        seed: Seed of random rules and of the validation items; default the protocol's own.
        queries: Overrides the protocol's number of queries.
        train: Overrides its number of training items (with validation).
        validation: Training items to hold out; default a tenth of them, at most 1,000.

    Raises:
        UnknownNameError: no such protocol.
        ConfigError: a count is missing or out of range.
        DataError: the source is too small, or has no split of its own, or the rule would put
            items of one group on both sides.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if protocol == "deephash" and source.split is not None:  # its list files say who is where
        protocol = "file"
    entry = PROTOCOLS[protocol]
    seed = entry.default_seed if seed is None else seed
    for name, value in (("queries", queries), ("train", train)):
        if value is not None and (value < 1 or entry.fixed):
            reason = "comes from the source" if entry.fixed else "must be at least 1"
            raise ConfigError(f"protocol {protocol!r}: {name} {reason}, got {value}")
    if entry.fixed:
        task = _Task(source=source, queries=0, train=0, seed=seed)
    else:
        task = _task(entry, source, queries=queries, train=train, seed=seed)
    query, learned, database = entry.rule(task)
    _check_groups(entry, source, query, np.union1d(learned, database))
    searched = np.intersect1d(learned, database)
    if 0 < len(searched) < len(learned):
        raise DataError(
            f"{source.name}: {len(searched)} of {len(learned)} training items are in the database; "
            "all or none of them must be"
        )
    held_out = _validation(source, learned, size=validation, seed=seed)
    alone = not source.label_names  # relevance is own pair: what a query looks for must be there
    return Split(
        query=query,
        database=np.union1d(database, query) if alone else database,
        train=np.setdiff1d(learned, held_out),
        validation=held_out,
        searched_train=bool(len(searched)) or not len(learned),
        searched_query=alone,
    )


def _task(
    entry: Protocol, source: Source, *, queries: int | None, train: int | None, seed: int
) -> _Task:
    size = len(source.ids)
    known = next((pair for name, pair in entry.counts.items() if _is(source, name)), None)
    if known is None and entry.name == "random":
        asking = queries or min(2000, max(size // 10, 1))
        known = (asking, min(10_000, max((size - asking) // 2, 1)))
    if known is None and (queries is None or train is None):
        sets = ", ".join(entry.counts) or "no data set"
        raise ConfigError(
            f"protocol {entry.name!r} has counts for {sets}, not for {source.name!r}: give both "
            "--queries and --train, or use protocol random"
        )
    asking, learning = known or (0, 0)
    task = _Task(source=source, queries=queries or asking, train=train or learning, seed=seed)
    if task.queries + task.train > size:
        raise DataError(
            f"protocol {entry.name!r} takes {task.queries:,} queries and {task.train:,} training "
            f"items, {source.name} has {size:,}: give --queries and --train, or use protocol random"
        )
    return task


def _validation(source: Source, learned: Positions, *, size: int | None, seed: int) -> Positions:
    if size is None:
        size = min(1000, len(learned) // 10)
    if not 0 <= size < max(len(learned), 1):
        raise ConfigError(
            f"validation must be in 0..{max(len(learned) - 1, 0)} (of {len(learned)} training "
            f"items), got {size}"
        )
    return _take(source, learned, size=size, seed=seed, stream="validation")


def _take(source: Source, candidates: Positions, *, size: int, seed: int, stream: str) -> Positions:
    """Choose at random; whole groups only, then sometimes a few less than `size`."""
    if source.groups is not None:
        return take_groups(candidates, source.groups, size=size, seed=seed, stream=stream)
    order = permutation(len(candidates), seed=seed, stream=stream).numpy()
    return np.sort(candidates[order[:size]])


def _check_groups(entry: Protocol, source: Source, query: Positions, others: Positions) -> None:
    if source.groups is None:
        return
    common = np.intersect1d(source.groups[query], source.groups[others])
    if common.size:
        advice = (
            "correct the split of the source"
            if entry.fixed
            else "use protocol random, which keeps groups whole"
        )
        if _is(source, "nus-wide"):
            advice += ", or leave rows of one picture out with --duplicates drop"
        raise DataError(
            f"protocol {entry.name!r} would put items of {common.size} groups both among the "
            f"queries and into the database or training items, first groups "
            f"{common[:5].tolist()}: {advice}"
        )


def _is(source: Source, family: str) -> bool:
    """Whether a source is of a family of sets; packed files go by other names than archives."""
    other = {"mirflickr": ("flickr-25k", "flickr25k"), "coco": ("ms-coco", "mscoco")}
    return source.name.lower().startswith((family, *other.get(family, ())))


def _first(task: _Task) -> _Parts:
    return _ask(np.arange(task.size, dtype=np.int64), task)


def _ask(order: Positions, task: _Task) -> _Parts:
    """The head of an order asks, the next are learned from, all but the head is searched."""
    query, rest = order[: task.queries], order[task.queries :]
    return np.sort(query), np.sort(rest[: task.train]), np.sort(rest)


def _dadh(task: _Task) -> _Parts:
    if _is(task.source, "nus-wide"):
        return _first(task)
    return _ask(np.roll(np.arange(task.size, dtype=np.int64), task.queries), task)


def _random(task: _Task) -> _Parts:
    rows = np.arange(task.size, dtype=np.int64)
    query = _take(task.source, rows, size=task.queries, seed=task.seed, stream="queries")
    rest = np.setdiff1d(rows, query)
    learned = _take(task.source, rest, size=task.train, seed=task.seed, stream="train")
    return query, learned, rest


def _dchmt(task: _Task) -> _Parts:
    order = np.random.RandomState(task.seed).permutation(task.size)
    return _ask(order.astype(np.int64), task)


def _per_label(task: _Task) -> _Parts:
    """DJSRH: label by label, each its share and the first what is over, padded at random."""
    if not task.source.label_names:
        raise DataError(
            f"{task.source.name} has no labels, and this protocol draws label by label: use "
            "protocol random"
        )
    order = permutation(task.size, seed=task.seed, stream="per label").numpy()
    free = np.ones(task.size, dtype=bool)

    def choose(size: int) -> Positions:
        columns = task.source.labels.shape[1]
        twice = _is(task.source, "mirflickr")  # 160 + 80 * 23: the first counts double
        share = size // max(columns + twice, 1)
        taken: list[int] = []
        for label in range(columns):
            wanted = 2 * share if twice and label == 0 else share
            mine = order[free[order] & (task.source.labels[order, label] > 0)][:wanted]
            free[mine] = False
            taken.extend(mine.tolist())
        padding = order[free[order]][: size - len(taken)]
        free[padding] = False
        return np.sort(np.array([*taken, *padding.tolist()], dtype=np.int64))

    query = choose(task.queries)
    learned = choose(task.train)
    return query, learned, np.setdiff1d(np.arange(task.size, dtype=np.int64), query)


def _deephash(task: _Task) -> _Parts:
    if _is(task.source, "nus-wide"):
        return _per_label(task)
    query, learned, rest = _random(task)
    return query, learned, np.setdiff1d(rest, learned)


def _file(task: _Task) -> _Parts:
    split = task.source.split
    if split is None:
        raise DataError(
            f"{task.source.name} has no split of its own: choose another protocol, such as random"
        )
    unknown = sorted(set(split) - {"query", "train", "database"})
    if unknown:
        raise DataError(
            f"{task.source.name}: its split names {unknown}, allowed are query, train, database"
        )
    rows = np.arange(task.size, dtype=np.int64)
    query = np.unique(np.asarray(split.get("query", ()), dtype=np.int64))
    learned = np.unique(np.asarray(split.get("train", ()), dtype=np.int64))
    database = np.setdiff1d(rows, query)
    if "database" in split:
        database = np.unique(np.asarray(split["database"], dtype=np.int64))
    return query, learned, database


def _protocol(
    name: str,
    rule: Callable[[_Task], _Parts],
    citation: str,
    summary: str,
    *,
    counts: str = "",
    fixed: bool = False,
    default_seed: int = 0,
) -> Protocol:
    """Return an entry of the table; counts are words `set queries/train`."""
    pairs = (word.split(" ") for word in filter(None, counts.split(", ")))
    sizes = {family: tuple(map(int, numbers.split("/"))) for family, numbers in pairs}
    return Protocol(
        name=name,
        summary=summary,
        citation=citation,
        counts=MappingProxyType({family: (size[0], size[1]) for family, size in sizes.items()}),
        rule=rule,
        fixed=fixed,
        default_seed=default_seed,
    )


_TABLE = (
    _protocol(
        "dcmh",
        _first,
        "DCMH (CVPR 2017), TensorFlow and PyTorch code; SSAH (CVPR 2018)",
        "First rows ask, the next are learned from, all but the queries are searched. The Matlab "
        "code and SSAH draw at random instead; the NUS-WIDE counts are SSAH's (UNKNOWN whether "
        "its code agrees).",
        counts="mirflickr 2000/10000, nus-wide 2100/10500",
    ),
    _protocol(
        "cmla",
        _file,
        "CMLA (NeurIPS 2019)",
        "Fixed in the authors' .h5 files: the source's own split. The numbers of training and "
        "database items are UNKNOWN.",
        fixed=True,
    ),
    _protocol(
        "eqb2a",
        _first,
        "EQB2A, TA-DCH and FPAD code",
        "First rows ask, the rest is searched. INFERRED: the training items are the rows that "
        "follow the queries; INFERRED for the Wikipedia set, whose 2,173 training items are all "
        "that is searched.",
        counts="mirflickr 2000/5000, nus-wide 2100/10500, coco 2000/10000, iapr 2000/5000, "
        "wiki 693/2173",
    ),
    _protocol(
        "dadh",
        _dadh,
        "DADH (ICMR 2020) and CPAH code",
        "The LAST rows ask, the first are learned from, all but the queries are searched. On "
        "NUS-WIDE the first rows ask; INFERRED: the next are learned from.",
        counts="mirflickr 2000/10000, nus-wide 2100/10000",
    ),
    _protocol(
        "djsrh",
        _per_label,
        "DJSRH (ICCV 2019) and JDSH code",
        "Label by label at random, each an equal share (the first of MIRFlickr a double one), "
        "padded at random. Unseeded in the released code, so the items are never the paper's; "
        "the order of draws is INFERRED.",
        counts="mirflickr 2000/5000, nus-wide 2000/5000",
    ),
    _protocol(
        "dchmt",
        _dchmt,
        "DCHMT (ACM MM 2022) code",
        "One permutation by NumPy's legacy generator with seed 1814: its head asks, the next are "
        "learned from, all but the queries are searched. The paper's counts; the code's defaults "
        "are 5,120 and 10,240.",
        counts="mirflickr 5000/10000, nus-wide 5000/10000, coco 5000/10000",
        default_seed=1814,
    ),
    _protocol(
        "deephash",
        _deephash,
        "DeepHash-pytorch",
        "The split of the list files, if the source has one. Else at random: MIRFlickr 1,000 / "
        "4,000 / 20,000 with training items NOT searched, NUS-WIDE 100 and 500 per concept of "
        "TC21, searched; the released items are in their files.",
        counts="mirflickr 1000/4000, nus-wide 2100/10500",
    ),
    _protocol(
        "random",
        _random,
        "-",
        "Queries and training items at random, all but the queries are searched; by default a "
        "tenth (at most 2,000) asks and half of the rest (at most 10,000) is learned from.",
    ),
    _protocol(
        "file",
        _file,
        "-",
        "The source's own split, such as a split column or split files.",
        fixed=True,
    ),
)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({entry.name: entry for entry in _TABLE})
