"""Filters (Algorithm 1, line 7): one module for each kind, and the union of their settings for the recipe.

To add a filter, write a module with a subclass of FilterSettings, and add its line to FILTERS (docs/extending.md).
"""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import Field

from isheep.filters.base import FilterSettings, Need

FILTERS = (
    ("isheep.filters.score", "ScoreFilter"),
    ("isheep.filters.contamination", "ContaminationFilter"),
    ("isheep.filters.perplexity", "PerplexityFilter"),
    ("isheep.filters.density", "DensityFilter"),
    ("isheep.filters.random_choice", "RandomFilter"),
    ("isheep.filters.custom", "CustomFilter"),
)

if TYPE_CHECKING:
    Filter: TypeAlias = FilterSettings
else:
    _classes = tuple(getattr(import_module(module), name) for module, name in FILTERS)
    Filter = Annotated[Union[_classes], Field(discriminator="kind")]  # noqa: UP007


def needs(filters: Iterable[FilterSettings], need: Need) -> bool:
    """Return whether any of the filters reads this kind of data."""
    return any(need in entry.needs for entry in filters)
