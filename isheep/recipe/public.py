"""The settings of a recipe as others may read them: without the section `machine`, and without paths of the machine."""

import os
from pathlib import Path
from typing import Any

from isheep.recipe.schema import Recipe


def public_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe without `machine`; a file or folder is named by its last component."""
    excluded = {"machine"} if recipe.date else {"machine", "date"}
    settings: dict[str, Any] = _without_paths(recipe.model_dump(mode="json", exclude=excluded))
    return settings


def public_name(name: str) -> str:
    """Return the last component of a path on this machine; any other text, such as a name on the Hub, as it is."""
    if "\n" in name or "/" not in name:
        return name
    is_path = name.startswith(("/", "~", "./", "../")) or os.path.exists(name)
    return Path(name).name if is_path else name


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return public_name(value) if isinstance(value, str) else value
