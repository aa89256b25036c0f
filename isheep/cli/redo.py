"""isheep redo: make a run again from a stage on."""

from typing import Annotated

import typer

from isheep.cli.options import AllowCode, RunDir, UnsafeCode
from isheep.cli.recipe_choice import Settings


def redo(
    run_dir: RunDir,
    stage: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="Stage: instructions, answers, measures, ratings, filtering, training or evaluation; or seeds, for "
            "the seed tasks and all iterations. Names such as assess and train are accepted too.",
            show_default=False,
        ),
    ],
    settings: Settings = None,
    iteration: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Iteration with which to begin; 0 is the base model (default: the only one that has the stage).",
            show_default=False,
        ),
    ] = None,
    unsafe_code: UnsafeCode = False,
    allow_code: AllowCode = False,
) -> None:
    """Make a run again from one of its stages on.

    The files of the stage, and all that depend on them, also in later iterations, are moved to DIR/replaced/1, then 2,
    ... Then the run goes on as with `isheep run DIR`, which also continues it after an interruption.

    The recipe stays the same, except for the keys of machine; to change another key: isheep run DIR KEY=VALUE --fork
    NAME. The same recipe and the same code give the same files; `redo` is for a file that is damaged or that you have
    edited, for code of your own or a server that has changed, and for another version of isheep.
    """
    from isheep import api
    from isheep.cli.run import report_run
    from isheep.rundir.python_objects import check_python_objects
    from isheep.rundir.redo import choose_iteration, describe_redo, find_stage, put_back, set_aside
    from isheep.rundir.run import check_run_dir, lock_run, open_run
    from isheep.sweep import check_recipe_ready

    stage = find_stage(stage)
    open_run(run_dir)
    overrides = [*(["machine.unsafe_code=true"] if unsafe_code else []), *(settings or [])]
    recipe = api.load_recipe(run_dir / "recipe.yaml", overrides)
    check_run_dir(run_dir, recipe)
    # A run with an engine or filters from Python can't be continued by a command.
    check_python_objects(run_dir, {})
    with lock_run(run_dir) as run:
        first = choose_iteration(run, stage, iteration)
        aside = set_aside(run, stage, first)
        try:
            # What a run needs depends on the files that it lacks.
            check_recipe_ready(recipe, run_dir)
        except BaseException:
            put_back(run, aside)
            raise
        for note in describe_redo(run, aside):
            run.notify(note, redone_from=first)
        report_run(recipe, run_dir)
