"""How tasks and constraints are put into words, in three parts that share no phrasing (`phrasings.yaml`)."""

from functools import cache
from pathlib import Path
from typing import Literal

import yaml

Part = Literal["corpus", "validation", "exam"]
PARTS: tuple[Part, ...] = ("corpus", "validation", "exam")


@cache
def _read() -> dict[str, dict[str, dict[Part, list[str]]]]:
    found: dict[str, dict[str, dict[Part, list[str]]]] = yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    )
    return found


def of_family(name: str) -> dict[Part, list[str]]:
    return _read()["families"][name]


def of_constraint(kind: str) -> dict[Part, list[str]]:
    return _read()["constraints"][kind]
