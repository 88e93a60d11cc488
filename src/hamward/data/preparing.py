"""From a source to a prepared set: decode, split, count words, write, vouch."""

import errno
import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamward.artifacts import digest_of, environment, read_json, write_json
from hamward.data.decoding import Decoded, decode_pictures
from hamward.data.invariants import check_values
from hamward.data.prepared import (
    ITEM_FILE,
    MANIFEST,
    NAMES_FILE,
    WORK,
    StoredColumn,
    array_file,
    file_digest,
    open_prepared,
    read_bags,
    read_labels,
    stored_digest,
)
from hamward.data.protocols import PROTOCOLS, split_source
from hamward.data.retrieval_data import RetrievalData
from hamward.data.selecting import drop_items, keep_items, picture_name
from hamward.data.source import PictureFiles, Pictures, Skipped, Source
from hamward.data.sparse_bags import ones_of
from hamward.data.split import SPLIT_NAMES, Split, split_digest
from hamward.data.storing import compact_pictures, write_array, write_items, write_skipped
from hamward.data.words import bag_blocks, vocabulary
from hamward.errors import ArtifactError, ConfigError, DataError
from hamward.progress import SILENT, Progress

__all__ = ["PrepareConfig", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """How a source becomes a prepared set.

    Attributes:
        image_side: Side of the stored pictures: the shorter side is resized, the middle kept.
        protocol: A key of `hamward.data.protocols.PROTOCOLS`.
        seed: Seed of the protocol and of the validation items; None is the protocol's own.
        queries: Overrides the protocol's number of queries.
        train: Overrides its number of training items (with validation).
        validation: Training items held out; None is a tenth, at most 1,000.
        min_count: Training texts a word must occur in to be in the vocabulary. Not used where
            the source has a vocabulary of its own.
        max_words: Largest vocabulary, the most frequent words; None is all.
        keep_unlabeled: Keep items without a label in a set that has labels, as the counts of
            some papers do: nothing is relevant to them, but they are searched.
    """

    image_side: int = 64
    protocol: str = "random"
    seed: int | None = None
    queries: int | None = None
    train: int | None = None
    validation: int | None = None
    min_count: int = 3
    max_words: int | None = None
    keep_unlabeled: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("image_side", 8, 1024),
            ("seed", 0, 2**32 - 1),
            ("queries", 1, 2**31),
            ("train", 1, 2**31),
            ("validation", 0, 2**31),
            ("min_count", 1, 2**31),
            ("max_words", 1, 2**31),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} must be in {low}..{high}, got {value}")


def prepare(
    source: Source,
    out: Path,
    *,
    config: PrepareConfig | None = None,
    read_by: Mapping[str, Any] | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> RetrievalData:
    """Write a source as a prepared set and open it.

    Memory does not grow with the number of pictures. A kill, an error or a full disk leaves a
    folder that does not open; the same call with `resume` goes on after the last finished chunk
    of pictures and ends with the same bytes.

    Args:
        source: Items as a reader found them.
        out: Folder to write; new, empty, or an interrupted preparation with `resume`.
        config: Side, protocol, vocabulary.
        read_by: Reader and options, for the manifest.
        resume: Continue, or return what is finished already.
        skip_bad: Leave out unreadable pictures and items without labels.
        threads: Decoding threads; default one per usable CPU.
        progress: Watches.

    Raises:
        DataError: the source cannot be used, a picture is unreadable, or the disk is full.
        ArtifactError: the folder holds something else.
        ConfigError: an option does not fit.
    """
    config = config or PrepareConfig()
    pictures = _check_source(source)
    bare = np.flatnonzero(~source.labels.any(1)) if source.label_names else np.empty(0, np.int64)
    if len(bare) and not config.keep_unlabeled:
        if not skip_bad:
            raise DataError(
                f"{source.name}: {len(bare):,} of {len(source.ids):,} items have no label, first "
                f"ids {source.ids[bare[:5]].tolist()}: nothing is relevant to them. Leave them out "
                "with --skip-bad, or keep them with --keep-unlabeled"
            )
        source = drop_items(source, bare, "has no label")
        pictures = _check_source(source)
    _split(source, config)  # a protocol that does not fit is an error before the work, not after
    plan = {
        "config": asdict(config),
        "name": source.name,
        "items": len(source.ids),
        "content": _content_of(source),
    }
    try:
        if _claim(out, plan, resume=resume):
            return open_prepared(out)
        _check_space(out, len(pictures), config.image_side)
        made = decode_pictures(
            pictures,
            array_file(out, "images"),
            side=config.image_side,
            journal=out / WORK / "chunks.jsonl",
            skip_bad=skip_bad,
            threads=threads,
            progress=progress,
        )
        return _finish(source, made, out, config=config, read_by=read_by or {}, progress=progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"{out}: the disk is full ({error.strerror}); nothing that opens was left. Free some "
            "space and run again with --resume"
        ) from error


def _check_source(source: Source) -> Pictures:
    if source.pictures is None:
        have = "no pictures"
        if source.features is not None:
            have += f", only features of width {source.features.shape[1]}"
        raise DataError(
            f"{source.name}: has {have}. It can be read (hamward.data.read_source gives texts, "
            "labels and features) but not prepared, because hamward's image networks read "
            "pictures: give the folder with the picture files (--pictures DIR, and --missing skip "
            "to leave out items without one)"
        )
    if source.label_names and not source.labels.any():
        raise DataError(f"{source.name}: no item has a label")
    if not source.label_names and not _has_texts(source):
        raise DataError(
            f"{source.name}: has neither labels nor texts: name a label column, a text column or "
            "both"
        )
    return source.pictures


def _has_texts(source: Source) -> bool:
    return source.bags is not None or any(text.strip() for text in source.texts)


def _split(source: Source, config: PrepareConfig) -> Split:
    return split_source(
        source,
        config.protocol,
        seed=config.seed,
        queries=config.queries,
        train=config.train,
        validation=config.validation,
    )


def _content_of(source: Source) -> str:
    """Hash what a resumed preparation must find again."""
    sha = hashlib.sha256(source.ids.astype("<i8").tobytes())
    sha.update(np.packbits(source.labels > 0).tobytes())
    if source.groups is not None:
        sha.update(source.groups.astype("<i8").tobytes())
    sha.update("\n".join((*source.label_names, *source.texts)).encode())
    if isinstance(source.pictures, PictureFiles):
        sha.update("\n".join(map(str, source.pictures.files)).encode())
    return sha.hexdigest()


def _claim(out: Path, plan: Mapping[str, Any], *, resume: bool) -> bool:
    """Make the folder ours; return whether the set is finished already."""
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out}: not a folder; choose another")
    finished, begun = (out / MANIFEST).exists(), (out / WORK / "plan.json").exists()
    if finished or begun:
        what = "a prepared set" if finished else "an unfinished preparation"
        if not resume:
            raise ArtifactError(
                f"{out}: holds {what} already; choose another folder, or --resume to continue it"
            )
        old = read_json(out / MANIFEST)["plan"] if finished else read_json(out / WORK / "plan.json")
        changed = [k for k in plan if digest_of(old.get(k)) != digest_of(plan[k])]
        if changed:
            raise ArtifactError(
                f"{out}: cannot resume: {what} with other options or files is there (differing: "
                f"{', '.join(changed)}); choose another folder"
            )
        return finished
    if out.exists() and any(out.iterdir()):
        raise ArtifactError(f"{out}: not empty and no prepared set; choose another folder")
    write_json(out / WORK / "plan.json", plan)
    return False


def _check_space(out: Path, items: int, side: int) -> None:
    wanted = items * 3 * side * side
    file = array_file(out, "images")
    there = file.stat().st_blocks * 512 if file.exists() else 0
    free = shutil.disk_usage(out).free + there
    if free < wanted:
        raise DataError(
            f"{out}: {items:,} pictures of side {side} need {wanted / 1e9:.1f} GB, the disk has "
            f"{free / 1e9:.1f} GB free: choose another --out or a smaller --image-side"
        )


def _finish(
    source: Source,
    made: Decoded,
    out: Path,
    *,
    config: PrepareConfig,
    read_by: Mapping[str, Any],
    progress: Progress,
) -> RetrievalData:
    pictures, hashes = source.pictures, made.hashes
    if made.bad:
        kept = np.setdiff1d(np.arange(len(source.ids)), list(made.bad))
        if not len(kept):
            raise DataError(f"{source.name}: none of its {len(source.ids)} pictures is readable")
        compact_pictures(array_file(out, "images"), kept)
        hashes = tuple(hashes[i] for i in kept)
        bad = tuple(
            Skipped(file=picture_name(pictures, i) or source.name, line=None, reason=reason)
            for i, reason in sorted(made.bad.items())
        )
        source = replace(keep_items(source, kept), skipped=(*source.skipped, *bad))
        pictures = source.pictures
    split = _split(source, config)
    words = source.words
    learned = np.union1d(split.train, split.validation)
    if not _has_texts(source):
        words = ()
        source = replace(source, notes=(*source.notes, "no texts: a set of pictures and labels"))
    elif words is None and source.bags is not None:
        words = tuple(f"word{column}" for column in range(source.bags.shape[1]))
        source = replace(source, notes=(*source.notes, "words are numbered: the file has no names"))
    elif words is None:
        words = vocabulary(
            (source.texts[i] for i in learned),
            min_count=config.min_count,
            max_words=config.max_words,
        )
    if not words and _has_texts(source):
        raise DataError(
            f"{source.name}: no word occurs in {config.min_count} of the {len(learned)} training "
            "texts: give a smaller --min-count, or texts"
        )
    assert words is not None
    _write_sides(source, words, out)
    numbers: dict[str, NDArray[np.int64]] = {"ids": source.ids}
    numbers |= {name: split[name] for name in SPLIT_NAMES}
    if source.groups is not None:
        numbers["groups"] = source.groups
    for name, values in numbers.items():
        write_array(out, name, [values], shape=values.shape, dtype="<i8")
    write_json(out / NAMES_FILE, {"words": list(words), "labels": list(source.label_names)})
    write_items(out / ITEM_FILE, source, pictures, hashes)
    write_skipped(out / "skipped.csv", source.skipped)
    texts = StoredColumn(out / ITEM_FILE, "text", size=len(source.ids))
    manifest = _manifest(source, split, config, read_by, words=words, hashes=hashes)
    manifest["digest"] = stored_digest(out, texts)
    manifest["plan"] = read_json(out / WORK / "plan.json")
    names = [f"{name}.npy" for name in ("images", "bag_starts", "bag_words", "labels", *numbers)]
    tracked = progress.track(
        [*names, NAMES_FILE, ITEM_FILE, "skipped.csv"], total=len(names) + 3, label="checksums"
    )
    manifest["files"] = {
        name: {"size": (out / name).stat().st_size, "sha256": file_digest(out / name)}
        for name in tracked
    }
    write_json(out / WORK / MANIFEST, manifest)
    _vouch(out, manifest, split, texts, words)
    (out / WORK / MANIFEST).replace(out / MANIFEST)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return open_prepared(out)


def _write_sides(source: Source, words: Sequence[str], out: Path) -> None:
    """Write bags of words in compressed rows, and labels as bits."""
    bags = [source.bags] if source.bags is not None else bag_blocks(source.texts, words)
    starts, ones = ones_of(bags)
    write_array(out, "bag_starts", [starts], shape=starts.shape, dtype="<i8")
    write_array(out, "bag_words", [ones], shape=ones.shape, dtype="<u4")
    if source.labels.size and source.labels.max() > 1:
        raise DataError(f"labels must hold 0 and 1 only, found {int(source.labels.max())}")
    packed = np.packbits(source.labels, axis=1)
    write_array(out, "labels", [packed], shape=packed.shape)


def _vouch(
    out: Path, manifest: Mapping[str, Any], split: Split, texts: Sequence[str], words: Sequence[str]
) -> None:
    """Check the values once, so that opening need not."""
    names = read_json(out / NAMES_FILE)
    check_values(
        RetrievalData(
            name=manifest["name"],
            images=np.load(array_file(out, "images"), mmap_mode="r"),
            bags=read_bags(out, len(words)),
            labels=read_labels(out, len(names["labels"])),
            texts=texts,
            words=tuple(words),
            label_names=tuple(names["labels"]),
            ids=np.load(array_file(out, "ids")),
            split=split,
            digest=manifest["digest"],
        )
    )


def _manifest(
    source: Source,
    split: Split,
    config: PrepareConfig,
    read_by: Mapping[str, Any],
    *,
    words: Sequence[str],
    hashes: Sequence[str],
) -> dict[str, Any]:
    entry = PROTOCOLS[config.protocol]
    return {
        "kind": "prepared set",
        "name": source.name,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "items": len(source.ids),
        "searched_train": split.searched_train,
        "searched_query": split.searched_query,
        "relevance": "shared label" if source.label_names else "own pair",
        "split_digest": split_digest(split, source.ids),
        "protocol": {
            "name": config.protocol,
            "seed": entry.default_seed if config.seed is None else config.seed,
            "rule": entry.summary,
            "citation": entry.citation,
            "counts": {name: len(split[name]) for name in SPLIT_NAMES},
        },
        "read_by": dict(read_by),
        "counts": {
            **source.counts,
            "kept": len(source.ids),
            "skipped": len(source.skipped),
            "vocabulary": len(words),
            "labels": len(source.label_names),
        },
        "notes": list(source.notes),
        "vocabulary": "the source's own"
        if source.bags is not None
        else f"words in at least {config.min_count} training texts",
        "sources": [
            {"file": str(file), "size": file.stat().st_size, "sha256": file_digest(file)}
            for file in source.files
        ],
        "pictures": {
            "files": sum(map(bool, hashes)),
            "sha256_of_sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        },
        "environment": environment(),
    }
