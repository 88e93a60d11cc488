"""A bench recipe that runs in seconds, and the folder of a data set that it runs on."""

from pathlib import Path

from make_folder import make_folder

from hamward.data.folder import read_folder
from hamward.data.preparing import PrepareConfig, prepare

TINY = """
title = "Tiny"
source = "hamward"
queries = 5

[train]
model = { code_length = 8, image_network = "NETWORK", text_width = 8 }
fit = { epochs = 1, batch_size = 8, flip = false }

[harden]
epochs = 1
batch_size = 8

[victims.dcmh]
recipe = "dcmh"
label = "DCMH"

[defenses.control]

[threats.both]
label = "two attacks"
eps = "8/255"
text_eps = 0.05
attacks.own-code = { steps = 1 }
attacks.hag = { steps = 1 }

[threats.noise]
label = "noise"
access = "codes"
eps = "8/255"
text_eps = 0.05
attacks.random-noise = {}

[tables.main]
title = "All of it"
rows = ["defense", "threat"]
columns = ["direction", "metric"]
victims = ["dcmh"]
defenses = ["none", "control"]
threats = ["clean", "both", "noise"]
metrics = ["map", "D"]

[[published]]
data = "tiny"
source = "nobody"
status = "seen"
at = { direction = "i2t", metric = "map", defense = "none" }
rows = [{ threat = "clean" }, { threat = "both" }]
columns = [{ victim = "dcmh" }]
values = [[0.5], [0.25]]

[scale.smaller]
queries = 3
"""


SHORT = (
    ('defenses = ["none", "control"]', 'defenses = ["none"]'),
    ('threats = ["clean", "both", "noise"]', 'threats = ["noise"]'),
)
"""Changes that leave two cells: the victim, and one evaluation."""


def write_recipe(
    folder: Path, *changes: tuple[str, str], network: str = "tiny-resnet", name: str = "tiny"
) -> str:
    """Write the recipe and return its path. "tiny-resnet" exists in the tests' process only."""
    text = TINY.replace("NETWORK", network)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    file = folder / f"{name}.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def prepare_tiny(folder: Path) -> str:
    """Prepare 40 small pictures with captions, which other processes can open."""
    config = PrepareConfig(image_side=16, queries=6, train=20, validation=4, min_count=1)
    prepare(read_folder(make_folder(folder / "pets")), folder / "tiny", config=config)
    return str(folder / "tiny")
