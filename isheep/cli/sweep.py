"""isheep sweep: run every setting of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isheep.cli.options import AllowCode, Seeds
from isheep.cli.output import print_line, print_parts
from isheep.cli.recipe_choice import Settings

if TYPE_CHECKING:
    from isheep.recipe.schema import Recipe


def sweep(
    name: Annotated[
        str, typer.Argument(metavar="SWEEP", help="Sweep: a file, or a name from `isheep recipes`.", show_default=False)
    ],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Parent folder of the run folders (default: runs/SWEEP).")] = None,
    seeds: Seeds = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Only this setting; may be repeated (default: all).", show_default=False)
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Run every setting of a sweep, or continue them.

    A sweep is a recipe file with `settings` or a `grid`. A file that is identical in two settings is made once and
    copied. KEY=VALUE sets a key of the recipe in all settings, except in those that the sweep itself sets it for. With
    --seeds, every setting runs with every random seed, in a folder --out/SETTING/seed-K.
    """
    from isheep import api
    from isheep.errors import UserError, unknown_name
    from isheep.recipe import loading
    from isheep.recipe.sweeps import parse_seeds, with_seeds

    choice = parse_seeds(seeds) if seeds is not None else None
    path = loading.find_recipe(name)
    recipes = api.load_sweep(path, settings or [])
    for label in setting or []:
        if label not in recipes:
            raise UserError(f"{path}: {unknown_name('setting', label, list(recipes))}")
    recipes = {label: recipes[label] for label in setting or recipes}
    run_settings(with_seeds(recipes, choice) if choice else recipes, out or Path("runs") / path.stem)


def run_settings(recipes: Mapping[str, Recipe], out: Path) -> None:
    """Run recipes by name, each in the folder of its name in `out`, and print the table of all, also after an error."""
    from isheep.cli.live_view import live_view
    from isheep.cli.seed_tables import seed_tables
    from isheep.evaluation.seed_runs import is_seed_sweep, load_seed_sweep
    from isheep.evaluation.sweep_table import sweep_table
    from isheep.recipe.sweeps import folder_of_setting
    from isheep.sweep import run_sweep

    try:
        with live_view():
            run_sweep(recipes, out)
    finally:
        if any(folder_of_setting(out, name).exists() for name in recipes):
            print_parts(seed_tables(load_seed_sweep(out)) if is_seed_sweep(out) else [sweep_table(recipes, out)])
            print_line(f"runs     {out}")
