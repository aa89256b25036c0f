"""Parts of a benchmark's items: halves, of which one is for a stop rule and one is reported, and fixed samples.

A hash of an item's key decides its half, so that it depends neither on the order of the items, nor on the random seed,
nor on which other items there are. Items with the same key, such as questions about one passage, are in the same half.
A sample takes the items with the smallest hashes, so that a larger sample contains a smaller one.
"""

from collections.abc import Callable, Hashable, Sequence
from hashlib import sha256
from typing import Literal, TypeVar

from isheep.errors import UserError
from isheep.recipe.evaluation import BenchmarkSettings

T = TypeVar("T")

Half = Literal["validation half", "reported half"]
HALVES: tuple[Half, Half] = ("validation half", "reported half")


class HalfSettings(BenchmarkSettings):
    """The settings of a benchmark of which only the items of one half are asked. A recipe can't contain them."""

    half: Half


def as_half(settings: BenchmarkSettings, half: Half) -> HalfSettings:
    """Return the settings of one half of a benchmark."""
    return HalfSettings.model_validate({**settings.model_dump(), "half": half})


def half_name(settings: BenchmarkSettings) -> Half | Literal[""]:
    """Return the half that settings are about, or "" for all items."""
    return settings.half if isinstance(settings, HalfSettings) else ""


def part_name(settings: BenchmarkSettings) -> str:
    """Return what tells a score from the original benchmark's, such as "reported half, sample of 100", or ""."""
    sample = f"sample of {settings.num_items}" if settings.num_items else ""
    length = f"at most {settings.max_tokens} tokens" if settings.max_tokens else ""
    return ", ".join(filter(None, (half_name(settings), sample, length)))


def benchmark_title(settings: BenchmarkSettings) -> str:
    """Return the name of a benchmark in tables, with the items that the settings are about."""
    part = part_name(settings)
    return f"{settings.label} ({part})" if part else settings.label


def half_of(key: Hashable) -> Half:
    """Return the half of the items with this key, a text or a number."""
    return HALVES[sha256(f"half of {key}".encode()).digest()[0] % 2]


def select_items(items: Sequence[T], key: Callable[[T], Hashable], settings: BenchmarkSettings) -> list[T]:
    """Return the items of the half, and of the sample, that the settings are about, in their order.

    Raises UserError if the half has no item.
    """
    half = half_name(settings)
    selected = [item for item in items if not half or half_of(key(item)) == half]
    if items and not selected:
        raise UserError(
            f"benchmark {settings.label}: its {half} has no item, because all {len(items)} are in the other half: give "
            "more items as data, or name another benchmark in stop.benchmark"
        )
    return _sample(selected, key, settings.num_items) if settings.num_items else selected


def _sample(items: Sequence[T], key: Callable[[T], Hashable], num_items: int) -> list[T]:
    """Return the items whose keys have the smallest hashes, in their order; all of them if they are no more."""
    ranks = [(sha256(f"sample of {key(item)}".encode()).digest(), index) for index, item in enumerate(items)]
    return [items[index] for _, index in sorted(sorted(ranks)[:num_items], key=lambda rank: rank[1])]
