"""Fakes for tests of stages and of the loop: a context in a temporary folder, a killed stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isheep.engines import Engine
from isheep.recipe.schema import Recipe
from isheep.records import Record
from isheep.rundir.folder import RunFolder
from isheep.stages.context import StageContext
from tests.helpers.fakes import FakeChat


def stage_context(
    path: Path,
    engine: Engine,
    iteration: int = 1,
    *,
    seed_tasks: Sequence[Any] = (),
    chat: Any = None,
    **settings: Any,
) -> StageContext:
    """Return the context of an iteration of a run in the folder `path`, with `settings` of the recipe."""
    recipe = Recipe.model_validate({"model": "fake", **settings})
    run = RunFolder(path, path)
    return StageContext(recipe, engine, chat or FakeChat(), run, iteration, seed_tasks)  # type: ignore[arg-type]


def write_killed_stage(context: StageContext, name: str, rows: Sequence[Record]) -> None:
    """Write the rows that a stage had made of the file `name` when it was killed."""
    context.folder.path.mkdir(parents=True, exist_ok=True)
    lines = [row.model_dump_json() + "\n" for row in rows]
    (context.folder.path / f"{name}.part").write_text("".join(lines), encoding="utf-8")
