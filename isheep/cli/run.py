"""isheep run: run a recipe, or continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isheep.cli.options import AllowCode, BaseModelName, Seeds, UnsafeCode
from isheep.cli.output import print_line, print_parts
from isheep.cli.recipe_choice import RecipeName, Settings, choose_recipe, fork_run
from isheep.errors import UserError, shell_word

if TYPE_CHECKING:
    from isheep.recipe.schema import Recipe


Out = Annotated[Path | None, typer.Option(help="Run folder (default: runs/RECIPE, or runs/MODEL with --model).")]
Reuse = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Another run folder: take over every file of it that comes out the same, make the rest."
    ),
]
Fork = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Leave the run folder as it is: run in a new folder NAME beside it, and reuse the files of the old.",
    ),
]
Watch = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Only show the progress of a run that another process executes in DIR. Ctrl-C leaves that run untouched.",
    ),
]


def run(
    recipe_name: RecipeName = None,
    settings: Settings = None,
    out: Out = None,
    model: BaseModelName = None,
    seeds: Seeds = None,
    reuse: Reuse = None,
    fork: Fork = None,
    watch: Watch = None,
    unsafe_code: UnsafeCode = False,
    allow_code: AllowCode = False,
) -> None:
    """Run a recipe, or continue a run.

    A run folder is continued with its own recipe. The default of RECIPE is the run folder --out if it exists, else
    lamb. With --model it is small if the model has fewer than a billion parameters, else qwen2.5-0.5b.

    In a run that has begun, only the keys of machine may change, and iterations may grow. To change another key without
    generating again what it does not change, add --fork NAME.
    """
    if watch:
        from isheep.cli.run_watch import watch_run

        if any((recipe_name, settings, out, model, seeds, reuse, fork, unsafe_code, allow_code)):
            raise UserError(
                f"--watch {watch} only shows another run: give it alone, isheep run --watch {shell_word(watch)}"
            )
        return watch_run(watch)
    from isheep import api
    from isheep.cli.sweep import run_settings
    from isheep.recipe.sweeps import parse_seeds
    from isheep.rundir.run import complete_replacements

    seed_choice = parse_seeds(seeds) if seeds is not None else None
    choice = choose_recipe(recipe_name, settings, model, out)
    if choice.run_dir and fork is None:
        complete_replacements(choice.run_dir)
    overrides = ["machine.unsafe_code=true", *choice.overrides] if unsafe_code else choice.overrides
    recipe = api.load_recipe(choice.path, overrides)
    out = choice.run_dir or out or Path("runs") / (Path(model).resolve().name if model else choice.path.stem)
    if fork is not None:
        out, reuse = fork_run(out, fork, reuse)
    if seed_choice and reuse:
        raise UserError("--seeds makes several runs, which share files among themselves: leave out --reuse and --fork")
    if seed_choice and choice.run_dir:
        raise UserError(f"--seeds needs a folder of runs, and {out} is a single run folder: give another --out")
    if seed_choice:
        numbers = seed_choice.numbers(recipe.seed)
        return run_settings({f"seed-{n}": recipe.model_copy(update={"seed": n}) for n in numbers}, out)
    from isheep.sweep import check_recipe_ready

    check_recipe_ready(recipe, out, reuse=reuse)
    report_run(recipe, out, reuse)


def report_run(recipe: Recipe, out: Path, reuse: Path | None = None) -> None:
    """Run a recipe in the folder `out` and print its table and where its results are; `reuse` as in run_recipe.

    The recipe must be ready (sweep.check_recipe_ready).
    """
    from isheep.cli.live_view import live_view
    from isheep.evaluation.tables import run_table
    from isheep.report import REPORT_FILE
    from isheep.rundir.iterations import find_run_result
    from isheep.sweep import run_recipe

    with live_view():
        run_folder, iteration = run_recipe(recipe, out, reuse=reuse)
    print_parts([run_table(recipe, run_folder)])
    if recipe.stop_rule:
        result = find_run_result(recipe, run_folder)
        print_line(f"result   {result}")
        iteration = result.iteration
    last = run_folder.path / f"iter-{iteration}"
    for name, path in (("adapter", last / "adapter"), ("dataset", last / "train.json"), ("run", run_folder.path)):
        print_line(f"{name:<9}{path}")
    if (run_folder.path / REPORT_FILE).is_file():
        print_line(f"report   {run_folder.path / REPORT_FILE}")
