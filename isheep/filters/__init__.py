"""Filters (Algorithm 1, line 7): one module for each kind, and the union of their settings for the recipe.

To add a filter, write a module with a subclass of FilterSettings, and add its line to FILTERS (docs/extending.md).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union, get_args

from pydantic import Field

from isheep.errors import UserError
from isheep.extensions import import_registered
from isheep.filters.base import FilterSettings, Need

FILTERS = (
    ("isheep.filters.score", "ScoreFilter"),
    ("isheep.filters.contamination", "ContaminationFilter"),
    ("isheep.filters.perplexity", "PerplexityFilter"),
    ("isheep.filters.density", "DensityFilter"),
    ("isheep.filters.agreement", "AgreementFilter"),
    ("isheep.filters.random_choice", "RandomFilter"),
    ("isheep.filters.custom", "CustomFilter"),
)


def _load_class(module: str, name: str) -> type[FilterSettings]:
    """Return a class of FILTERS. Raises UserError if there is no such module or class, or it is no filter."""
    entry = f'("{module}", "{name}") of FILTERS in isheep/filters/__init__.py'
    filter_class: Any = getattr(import_registered(module, entry), name, None)
    if not (isinstance(filter_class, type) and issubclass(filter_class, FilterSettings)):
        raise UserError(f"{entry}: {module} has no subclass {name} of FilterSettings")
    if not get_args(filter_class.model_fields["kind"].annotation):
        raise UserError(f'{entry}: {name} has no kind: give it one, such as kind: Literal["mine"] = "mine"')
    return filter_class


_classes = tuple(_load_class(module, name) for module, name in FILTERS)

if TYPE_CHECKING:
    Filter: TypeAlias = FilterSettings
else:
    Filter = Annotated[Union[_classes], Field(discriminator="kind")]  # noqa: UP007


def filter_kinds() -> list[str]:
    """Return the kinds of filters that a recipe may name."""
    return [get_args(entry.model_fields["kind"].annotation)[0] for entry in _classes]


def needs(filters: Iterable[FilterSettings], need: Need) -> bool:
    """Return whether any of the filters reads this kind of data."""
    return any(need in entry.needs for entry in filters)


def count_samples(filters: Iterable[FilterSettings]) -> int:
    """Return the number of further answers to each task that the filters read."""
    return max((entry.num_samples for entry in filters), default=0)
