"""The phrasings of tasks, constraints and follow-ups, in three parts that share none (phrasings.yaml)."""

from functools import cache
from pathlib import Path
from typing import Literal

from isheep.files.yaml_files import read_yaml

Part = Literal["corpus", "validation", "exam"]
PARTS: tuple[Part, ...] = ("corpus", "validation", "exam")


@cache
def _read() -> dict[str, dict[str, dict[Part, list[str]]]]:
    phrasings: dict[str, dict[str, dict[Part, list[str]]]] = read_yaml(Path(__file__).with_suffix(".yaml"))
    return phrasings


def family_phrasings(name: str) -> dict[Part, list[str]]:
    return _read()["families"][name]


def constraint_phrasings(kind: str) -> dict[Part, list[str]]:
    return _read()["constraints"][kind]


def follow_up_phrasings(kind: str) -> dict[Part, list[str]]:
    return _read()["follow_ups"][kind]
