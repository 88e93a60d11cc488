"""Pack the openclipart27 folder into the one file that hamward ships.

    python tools/pack_openclipart27.py --source /path/to/openclipart27

The pictures' WebP bytes go in untouched. The same source and pyarrow version give the same
bytes. The printed sha256 belongs into `SHA256` of `src/hamward/data/openclipart27.py`.
"""

import argparse
import csv
import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

DATA_FOLDER = Path(__file__).parents[1] / "src" / "hamward" / "data"
LICENSE = (
    "Public domain: every item carries a public-domain mark in its SVG metadata. Source: Debian "
    "packages openclipart-png and openclipart-svg, 1:0.18+dfsg-19 (Open Clip Art Library)."
)


def table_of(source: Path) -> pa.Table:
    """Read items.csv, labels.txt and images/ into a table in the order of items.csv."""
    with (source / "items.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    names = (source / "labels.txt").read_text(encoding="utf-8").split()
    images = [(source / "images" / row["file"]).read_bytes() for row in rows]
    strings = {key: [row[key] for row in rows] for key in ("file", "split", "text")}
    schema = pa.schema(
        [
            ("file", pa.string()),
            ("image", pa.binary()),
            ("split", pa.string()),
            ("labels", pa.list_(pa.string())),
            ("text", pa.string()),
            ("group", pa.int64()),
            ("source", pa.string()),
            ("creator", pa.string()),
        ],
        metadata={"name": "openclipart27", "labels": json.dumps(names), "license": LICENSE},
    )
    columns = strings | {
        "image": images,
        "labels": [row["labels"].split(";") for row in rows],
        "group": [int(row["group"]) for row in rows],
        "source": [row["source"] for row in rows],
        "creator": [row["creator"] for row in rows],
    }
    return pa.table(columns, schema=schema)


def main() -> None:
    """Write the file and print its size and sha256."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with items.csv")
    parser.add_argument("--out", type=Path, default=DATA_FOLDER / "openclipart27.parquet")
    options = parser.parse_args()

    table = table_of(options.source)
    # WebP does not compress further; one row group, because readers want everything anyway.
    compression = {name: "NONE" if name == "image" else "ZSTD" for name in table.schema.names}
    compression["labels.list.element"] = compression.pop("labels")
    pq.write_table(
        table,
        options.out,
        compression=compression,
        use_dictionary=["split", "labels.list.element", "creator"],
        write_statistics=False,
        row_group_size=len(table),
    )
    content = options.out.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    sys.stdout.write(f"{options.out}: {len(table)} items, {len(content)} bytes, sha256 {digest}\n")


if __name__ == "__main__":
    main()
