"""Options that attacks inherit are described somewhere in what `hamward list NAME` prints."""

import dataclasses
import inspect
import re

import pytest

from hamward.attacks import ATTACKS
from hamward.attacks.options import BallOptions, FormOptions, StepOptions
from hamward.errors import BudgetError, ConfigError

CLASSES = [name for name in ATTACKS if isinstance(ATTACKS[name].make, type)]


@pytest.mark.parametrize("name", CLASSES)
def test_every_option_is_described(name: str) -> None:
    made = ATTACKS[name].make
    assert isinstance(made, type)
    pages = [base.__doc__ or "" for base in inspect.getmro(made) if dataclasses.is_dataclass(base)]
    described = set(re.findall(r"^ {8}(\w+): ", "\n".join(pages), flags=re.MULTILINE))
    assert {f.name for f in dataclasses.fields(made)} <= described
    assert made.__doc__ not in [base.__doc__ for base in inspect.getmro(made)[1:]]


def test_shared_options_are_checked_where_they_are_shared() -> None:
    assert FormOptions().budget("image").eps == 8 / 255
    assert FormOptions().budget("text").eps == 0.05
    with pytest.raises(BudgetError, match="did you mean 8/255"):
        BallOptions(eps=8)
    with pytest.raises(ConfigError, match="steps must be at least 0, got -1"):
        StepOptions(steps=-1)
    with pytest.raises(ConfigError, match="step_size must be positive, got 0"):
        FormOptions(step_size=0)
