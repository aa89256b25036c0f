"""isheep plan: estimate what a recipe or a sweep will take."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import AllowCode, BaseModelName, Json
from isheep.cli.output import print_json, print_parts
from isheep.cli.recipe_choice import RecipeName, Settings, choose_recipe


def plan(
    recipe_name: RecipeName = None,
    settings: Settings = None,
    model: BaseModelName = None,
    gpu: Annotated[str | None, typer.Option(help="Name of the GPU, such as H100 (default: this machine).")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Number of GPUs (default: the fewest the model fits on).")
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="Run folder whose lengths, shares and speed replace the assumed ones."
        ),
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option(metavar="KEY=NUMBER", help="Value for an assumption; may be repeated.")
    ] = None,
    as_json: Json = False,
    allow_code: AllowCode = False,
) -> None:
    """Estimate tokens, time, memory and disk of a recipe.

    Prints FLOPs and the assumptions too. RECIPE is as in `isheep run`, or a sweep. No weights are loaded.
    """
    from isheep import api
    from isheep import plan as plans
    from isheep.plan import assumptions, tables
    from isheep.recipe import loading

    choice = choose_recipe(recipe_name, settings, model)
    is_sweep = loading.is_sweep(choice.path)
    if is_sweep:
        recipes = api.load_sweep(choice.path, choice.overrides)
    else:
        recipes = {"": api.load_recipe(choice.path, choice.overrides)}
    assumed, past = assumptions.parse_assumptions(assume or []), plans.past_of(from_run)
    device = plans.device_of(next(iter(recipes.values())).machine, gpu, gpus)
    by_name = {name: plans.plan(recipe, device, gpus, assumed, past) for name, recipe in recipes.items()}
    if as_json:
        values = {name: recipe_plan.model_dump(mode="json") for name, recipe_plan in by_name.items()}
        return print_json(values if is_sweep else values[""])
    print_parts(tables.sweep(by_name) if is_sweep else tables.tables(by_name[""]))
