"""The folder of a sweep with random seeds: OUT/SETTING/seed-K is a run, and sweep.json says which runs belong to it."""

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from isheep.errors import UserError, option
from isheep.files.reading import read_small_text
from isheep.recipe.sweeps import SEED_FOLDER, parse_run_name
from isheep.rundir.atomic import write_text
from isheep.rundir.run import list_runs

SWEEP_FILE = "sweep.json"


class DeclaredRuns(BaseModel):
    """The settings and random seeds of a sweep: it has a run for each setting with each seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    settings: list[str]
    seeds: list[int]


def declare_runs(out: Path, names: Iterable[str]) -> None:
    """Write the runs of a sweep with random seeds into its folder, beside those that were declared there before."""
    keys = [parse_run_name(name) for name in names]
    earlier = read_declared_runs(out) or DeclaredRuns(settings=[], seeds=[])
    settings = [*earlier.settings, *(setting for setting, _ in keys)]
    seeds = {*earlier.seeds, *(seed for _, seed in keys if seed is not None)}
    declared = DeclaredRuns(settings=list(dict.fromkeys(settings)), seeds=sorted(seeds))
    if declared != earlier:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / SWEEP_FILE, declared.model_dump_json(indent=1) + "\n")


def read_declared_runs(out: Path) -> DeclaredRuns | None:
    """Return the runs that belong to a sweep with random seeds; None if the folder is not that of such a sweep.

    They are those of sweep.json, and of the folders SETTING/seed-K that are there, which `isheep run --seeds` makes,
    too. Raises UserError if sweep.json is damaged.
    """
    path, settings, seeds = out / SWEEP_FILE, list[str](), set[int]()
    if path.is_file():
        try:
            saved = DeclaredRuns.model_validate_json(read_small_text(path))
        except ValidationError:
            raise UserError(f"{path} is damaged: delete it, and run the sweep again to have it written anew") from None
        settings, seeds = saved.settings, {*saved.seeds}
    elif os.path.isfile(out / "recipe.yaml") or list_runs(out):
        return None
    for run_dir in (run_dir for folder in sorted(out.glob("*/")) for run_dir in list_runs(folder)):
        if match := SEED_FOLDER.fullmatch(run_dir.name):
            settings.append(run_dir.parent.name)
            seeds.add(int(match[1]))
    return DeclaredRuns(settings=list(dict.fromkeys(settings)), seeds=sorted(seeds)) if settings and seeds else None


def check_layout(out: Path, names: Iterable[str]) -> None:
    """Raise UserError if the folder `out` holds runs of the other layout: with random seeds, or without."""
    has_seeds = any(parse_run_name(name)[1] is not None for name in names)
    another = f"give another {option('out')}"
    if has_seeds and list_runs(out):
        raise UserError(f"{out} holds the runs of a sweep without random seeds, such as {list_runs(out)[0]}: {another}")
    if not has_seeds and read_declared_runs(out):
        raise UserError(f"{out} holds the runs of a sweep with random seeds: give {option('seeds')}, or {another}")
