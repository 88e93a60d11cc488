"""The official layouts, tiny: real JPEG files, real annotation files, MATLAB's own orientation.

Every picture has one color that encodes its number and a white corner at its upper right, so that
a test can tell which picture it got and whether it is upright.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GENERAL = (
    *("animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor"),
    *("lake", "male", "night", "people", "plant_life", "portrait", "river", "sea", "sky"),
    *("structures", "sunset", "transport", "tree", "water"),
)
RELEVANT = "baby bird car clouds dog female flower male night people portrait river sea tree"
SIDE = (16, 24)  # height, width


def picture(number: int) -> np.ndarray:
    """uint8 (H, W, 3)."""
    pixels = np.full((*SIDE, 3), (8 * number) % 200, np.uint8)
    pixels[:8, 16:] = 255
    return pixels


def number_of(image: Image.Image) -> int:
    """Undo `picture`, after checking that it is upright."""
    pixels = np.asarray(image).astype(int)
    assert pixels.shape == (*SIDE, 3)
    assert pixels[:6, 18:].min() > 240, "the white corner is not at the upper right"
    rest = pixels[10:, :14]
    assert np.ptp(rest) < 8
    return round(rest.mean() / 8)


def save_picture(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number)).save(file, quality=98)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    return file


def make_mirflickr(root: Path, *, beside: str = "mirflickr25k_annotations_v080") -> None:
    """Twelve pictures; 3 has no vocabulary tag, 4 no label, 10 only 'tree', 2 only 'animals'."""
    base = root / "mirflickr"
    vocabulary = ("sky", "me", "nikon", "blue")
    write(
        base / "doc/common_tags.txt", "".join(f"{t} {90 - i}\r\n" for i, t in enumerate(vocabulary))
    )
    for number in range(1, 13):
        save_picture(base / f"im{number}.jpg", number)
        tags = ["unheardof"] if number == 3 else [vocabulary[number % 4], "unheardof"]
        write(base / f"meta/tags/tags{number}.txt", "".join(f"{tag}\r\n" for tag in tags))
        write(base / f"meta/tags_raw/tags{number}.txt", "".join(f"{t.title()}\n" for t in tags))
    members = {name: [1, 5, 6, 7, 8, 9, 11, 12, 3] for name in GENERAL}
    members["tree"] += [10]
    members["animals"] += [2]
    folder = root / beside
    write(folder / "README.txt", "These are the annotations, version 0.80.\r\n1 is not a label\r\n")
    for name in reversed(GENERAL):  # folders list files in the order of creation, if in any
        write(folder / f"{name}.txt", "".join(f"{n}\r\n" for n in members[name]))
    for name in RELEVANT.split():
        write(folder / f"{name}_r1.txt", "5\r\n")


NUS_CONCEPTS = ["lake", "sky", *(f"concept{i:02d}" for i in reversed(range(79)))]
NUS_ROWS = 40
NUS_WORDS = tuple(f"word{i}" for i in range(10))


def nus_labels() -> dict[str, np.ndarray]:
    """concept78 has most items, then concept77; 'sky' and 'lake' have one, row 38 and 39."""
    labels = {
        name: (np.arange(NUS_ROWS) < max(0, 36 - i)).astype(int)
        for i, name in enumerate(NUS_CONCEPTS[2:])
    }
    labels["lake"] = (np.arange(NUS_ROWS) == 39).astype(int)
    labels["sky"] = (np.arange(NUS_ROWS) == 38).astype(int)
    return labels


def nus_bags() -> np.ndarray:
    bags = (np.arange(NUS_ROWS)[:, None] % 10 == np.arange(10)).astype(int)
    bags[[4, 5]] = 0
    return bags


def nus_id(row: int) -> int:
    """Rows 2 and 7 are the same picture."""
    return 2_124_494_000 + (2 if row == 7 else row)


def make_nus_wide(root: Path, *, pictures: bool = True) -> None:
    """40 lines, CRLF and backslashes; tabs end every line of AllTags1k as in the original."""
    lines = []
    for row in range(NUS_ROWS):
        folder = "actor" if row % 2 else "zoo"
        lines.append(f"{folder}\\{row:04d}_{nus_id(row)}.jpg\r\n")
        if pictures:
            save_picture(root / "Flickr" / folder / f"{row:04d}_{nus_id(row)}.jpg", row % 20)
    write(root / "ImageList/Imagelist.txt", "".join(lines))
    for name, column in nus_labels().items():
        write(
            root / f"Groundtruth/AllLabels/Labels_{name}.txt", "".join(f"{v}\r\n" for v in column)
        )
    tags = "".join("".join(f"{v}\t" for v in row) + "\r\n" for row in nus_bags())
    write(root / "NUS_WID_Tags/AllTags1k.txt", tags)
    write(root / "NUS_WID_Tags/TagList1k.txt", "".join(f"{word}\r\n" for word in NUS_WORDS))
    all_tags = (f"{nus_id(row)}      red {'sky' * (row % 2)}\r\n" for row in range(NUS_ROWS))
    write(root / "NUS_WID_Tags/All_Tags.txt", "".join(all_tags))
    write(root / "NUS_WID_Tags/AllTags81.txt", "1 " * 81 + "\n")
    write(root / "Groundtruth/TrainTestLabels/Labels_lake_Train.txt", "1\n" * 9)


def make_coco(root: Path, *, year: int = 2014) -> None:
    """Five pictures; category ids have gaps; picture 9 has no instance, 581929 a crowd."""
    categories = [{"id": i, "name": n} for i, n in ((90, "toothbrush"), (1, "person"), (18, "dog"))]
    images = {"train": (581929, 9, 25), "val": (42, 73)}
    labels = {581929: (18, 18, 1), 25: (90,), 42: (1,), 73: (18,)}
    for part, numbers in images.items():
        listed: list[dict[str, Any]] = []
        for number in numbers:
            prefix = f"COCO_{part}2014_" if year == 2014 else ""
            name = f"{prefix}{number:012d}.jpg"
            listed.append({"license": 3, "file_name": name, "id": number, "height": SIDE[0]})
            save_picture(root / f"{part}{year}" / name, number % 20)
        instances = [
            {"segmentation": [[1.5, 2.5]], "iscrowd": k, "image_id": n, "category_id": c, "id": 9}
            for n in numbers
            for k, c in enumerate(labels.get(n, ()))
        ]
        captions = [
            {"image_id": n, "id": 100 * n - k, "caption": f"Caption {k}\nof {n}. "}
            for k in range(5)
            for n in numbers
        ]
        head = {"info": {"year": year}, "licenses": [], "images": listed}
        for kind, body in (
            ("instances", {"annotations": instances, "categories": categories}),
            ("captions", {"annotations": captions}),
        ):
            write(root / f"annotations/{kind}_{part}{year}.json", json.dumps({**head, **body}))


def save_v73(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as MATLAB does with -v7.3: header, reversed axes, class attributes."""
    import h5py

    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w", userblock_size=512) as out:
        for key, value in arrays.items():
            if value.dtype == object:  # a cell array of row vectors of characters
                cells = np.empty(value.T.shape, dtype=h5py.ref_dtype)
                for index, text in np.ndenumerate(value.T):
                    units = np.array([ord(c) for c in text], np.uint16)[:, None]
                    inner = out.require_group("#refs#").create_dataset(f"{key}{index}", data=units)
                    inner.attrs["MATLAB_class"] = np.bytes_("char")
                    cells[index] = inner.ref
                dataset = out.create_dataset(key, data=cells, dtype=h5py.ref_dtype)
                dataset.attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                chunks = tuple(min(3, size) for size in value.T.shape)
                dataset = out.create_dataset(key, data=value.T, chunks=chunks, compression="gzip")
                names = {"float64": "double", "float32": "single"}
                dataset.attrs["MATLAB_class"] = np.bytes_(names.get(str(value.dtype), "uint8"))
    with file.open("r+b") as out:
        out.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def save_h5(file: Path, arrays: dict[str, Any]) -> None:
    """Write arrays as h5py does, in C order."""
    import h5py

    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as out:
        for key, value in arrays.items():
            out[key] = value


def save_v5(file: Path, arrays: dict[str, Any]) -> None:
    from scipy.io import savemat

    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, arrays, do_compression=True)


ITEMS, WORDS, LABELS = 11, 7, 5


def packed_arrays(first: int = 0, n: int = ITEMS) -> dict[str, np.ndarray]:
    """Pictures (N, H, W, 3), bags (N, D) and labels (N, C) of the items first, first + 1, .."""
    rng = np.random.default_rng(3)
    bags = rng.integers(0, 2, (40, WORDS)).astype(np.uint8)
    labels = rng.integers(0, 2, (40, LABELS)).astype(np.uint8)
    rows = slice(first, first + n)
    return {
        "pictures": np.stack([picture(i) for i in range(first, first + n)]),
        "bags": bags[rows],
        "labels": labels[rows],
    }
