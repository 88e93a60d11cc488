"""MS-COCO from its annotation files."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hamward.data.readers.lines import Problems, check_choice
from hamward.data.readers.located import Missing, locate_pictures
from hamward.data.source import Source
from hamward.errors import DataError

__all__ = ["read_coco"]

Year = Literal[2014, 2017]
Rule = Literal["all", "label"]
_USUAL = {"all": 123_287, "label": 122_218}
_KEPT = ("images", "annotations", "categories", "id", "file_name", "name")
_KEPT_OF_ANNOTATIONS = ("image_id", "category_id", "caption")


def read_coco(
    root: Path,
    *,
    skip_bad: bool = False,
    year: Year | None = None,
    rule: Rule = "all",
    pictures: Path | None = None,
    missing: Missing = "error",
) -> Source:
    """Read captions and instances of the training and validation pictures as one set.

    Layout: annotations/captions_train2014.json, instances_train2014.json and the same for
    val2014 (or 2017), pictures in train2014/ and val2014/ (or below images/). Test pictures have
    no public labels and are not read.

    Items follow the image id, which is their id. A label is a category of any annotation of the
    picture, crowds included; the columns follow the category id. A text holds the picture's
    captions in the order of their ids, one a line; the vocabulary is left to the split, because
    it must be built on training captions.

    Args:
        root: Folder that holds annotations/.
        skip_bad: Leave out items with a missing picture or caption instead of stopping.
        year: 2014 or 2017; needed when the folder holds both.
        rule: "all" pictures (123,287), or only those with a "label" (122,218).
        pictures: Folder that holds train2014/ and val2014/, when it is elsewhere.
        missing: What to do when pictures are missing (see `locate_pictures`).

    Raises:
        DataError: files are missing, damaged or contradict each other.
        ConfigError: an unknown option value.
    """
    check_choice("year", year, Literal[2014, 2017, None])
    check_choice("rule", rule, Rule)
    root = Path(root)
    problems = Problems(skip_bad=skip_bad)
    folder = root / "annotations" if (root / "annotations").is_dir() else root
    parts = [f"{part}{_year(folder, year)}" for part in ("train", "val")]

    names: dict[int, str] = {}
    categories: dict[int, str] = {}
    captions: defaultdict[int, dict[int, str]] = defaultdict(dict)
    labeled: defaultdict[int, set[int]] = defaultdict(set)
    files: list[Path] = []
    for part in parts:
        instances, texts = (folder / f"{kind}_{part}.json" for kind in ("instances", "captions"))
        files += [instances, texts]
        content = _load(instances)
        mine = {_integer(c, "id", instances): str(c.get("name")) for c in content["categories"]}
        if categories and categories != mine:
            raise DataError(f"{instances}: other categories than in {files[0]}")
        categories = mine
        _add_names(content["images"], names, part, instances)
        for annotation in content["annotations"]:
            image_id = _image_of(annotation, names, instances, problems)
            category = _integer(annotation, "category_id", instances)
            if category not in categories:
                problems.report(instances, None, f"annotation of unknown category {category}")
            else:
                labeled[image_id].add(category)
        for annotation in _load(texts)["annotations"]:
            image_id = _image_of(annotation, names, texts, problems)
            caption = " ".join(str(annotation.get("caption", "")).split())
            captions[image_id][_integer(annotation, "id", texts)] = caption

    ids = sorted(names)
    for number in ids:
        if not any(captions[number].values()):
            problems.report(files[1], None, f"image {number} ({names[number]}) has no caption")
    ids = [number for number in ids if any(captions[number].values())]
    if rule == "label":
        ids = [number for number in ids if labeled[number]]
    found, present = locate_pictures(
        [names[number] for number in ids],
        [Path(pictures)] if pictures is not None else [root, root / "images"],
        missing=missing,
        place_of=lambda position: (files[0], None),
        problems=problems,
    )
    ids = [number for number, there in zip(ids, present, strict=True) if there]
    order = sorted(categories)
    labels = np.zeros((len(ids), len(order)), np.uint8)
    for row, number in enumerate(ids):
        labels[row, [order.index(category) for category in labeled[number]]] = 1
    return Source(
        name=f"coco{parts[0][-4:]}",
        ids=np.array(ids, dtype=np.int64),
        pictures=found,
        texts=tuple(
            "\n".join(text for _, text in sorted(captions[number].items()) if text)
            for number in ids
        ),
        labels=labels,
        label_names=tuple(categories[category] for category in order),
        files=tuple(files),
        counts={
            "items": len(ids),
            "items usually reported": _USUAL[rule],
            "labels usually reported": 80,
            "pictures missing": int((~present).sum()),
            "without label": int((~labels.any(axis=1)).sum()),
        },
        skipped=tuple(problems.skipped),
    )


def _year(folder: Path, year: Year | None) -> int:
    found = [y for y in (2014, 2017) if (folder / f"instances_train{y}.json").is_file()]
    if year is not None:
        return year
    if len(found) != 1:
        state = "both 2014 and 2017" if found else "neither 2014 nor 2017"
        raise DataError(
            f"{folder} holds {state}: expected instances_train2014.json (or 2017) beside "
            "captions_train2014.json and the same for val; choose with year=2014 or year=2017"
        )
    return found[0]


def _load(file: Path) -> dict[str, Any]:
    """Read a JSON file without what is not used: outlines are nine tenths of it."""
    kept = frozenset(_KEPT + _KEPT_OF_ANNOTATIONS)

    def strip(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key in kept}

    try:
        with file.open(encoding="utf-8") as stream:
            content = json.load(stream, object_hook=strip)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON ({error.msg}); truncated?") from error
    needed = ["images", "annotations"] + ["categories"] * file.name.startswith("instances")
    for key in needed:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: expected an object with lists {', '.join(needed)}")
    result: dict[str, Any] = content
    return result


def _integer(values: dict[str, Any], key: str, file: Path) -> int:
    value = values.get(key)
    if not isinstance(value, int):
        raise DataError(f"{file}: {key} must be a whole number, got {value!r} in {values!r}"[:300])
    return value


def _image_of(
    annotation: dict[str, Any], names: dict[int, str], file: Path, problems: Problems
) -> int:
    """Return the image's id; what belongs to an unknown image is never looked up."""
    number = _integer(annotation, "image_id", file)
    if number not in names:
        problems.report(file, None, f"annotation {annotation.get('id')} of unknown image {number}")
    return number


def _add_names(images: list[dict[str, Any]], names: dict[int, str], part: str, file: Path) -> None:
    for image in images:
        number = _integer(image, "id", file)
        if number in names:
            raise DataError(f"{file}: image id {number} is listed twice")
        names[number] = f"{part}/{image.get('file_name')}"
