"""What `isheep status` prints of a folder of runs, such as that of a sweep: scores, plan and reality, progress."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from isheep.cli.seed_tables import seed_tables
from isheep.cli.status_tables import progress_line, reality_of, reality_table, status_values
from isheep.evaluation.formatting import escape_unprintable
from isheep.evaluation.json_views import sweep_json
from isheep.evaluation.seed_runs import is_seed_sweep, load_seed_sweep
from isheep.evaluation.sweep_table import sweep_table
from isheep.plan.reality import StageReality, add_up
from isheep.plan.tables import clock
from isheep.rundir.run import open_run


def sweep_status(path: Path, runs: list[Path]) -> Iterator[RenderableType]:
    """Yield the scores of all runs, their plan and reality in sum, and the time and the progress of each.

    Of a sweep with random seeds, the scores are those over the seeds, and runs that are missing or damaged are named.
    """
    if is_seed_sweep(path):
        sweep = load_seed_sweep(path)
        opened = {run.name: run.opened for run in sweep.runs if run.opened}
        yield from seed_tables(sweep)
    else:
        opened = {_name_in(path, run_dir): open_run(run_dir) for run_dir in runs}
        yield sweep_table({name: recipe for name, (recipe, _) in opened.items()}, path)
    compared = {name: reality_of(*pair) for name, pair in opened.items()}
    yield from reality_table(add_up(compared.values()), "plan, all runs")
    yield from times_table({name: rows for name, rows in compared.items() if rows})
    for name, (recipe, run) in opened.items():
        yield Text(f"{escape_unprintable(name)}: {progress_line(recipe, run)}")


def times_table(compared: Mapping[str, list[StageReality]]) -> Iterator[RenderableType]:
    """Yield the time of each run beside the planned one, without the files that it has copied from another run."""
    if not compared:
        return
    columns = [Column("run", overflow="fold"), *(Column(name, justify="right") for name in ("time", "planned"))]
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for name, rows in compared.items():
        seconds, planned = sum(row.seconds for row in rows), sum(row.planned_seconds for row in rows)
        table.add_row(Text(escape_unprintable(name)), clock(seconds), clock(planned))
    yield table


def sweep_values(path: Path, runs: list[Path]) -> dict[str, Any]:
    """Return what `isheep status --json` prints of a folder of runs: the values of each run, and the sum of plans.

    Of a sweep with random seeds, it has the scores of each setting over the seeds and the state of each run, too.
    """
    over_seeds = {}
    if is_seed_sweep(path):
        sweep = load_seed_sweep(path)
        over_seeds = sweep_json(sweep)
        runs = [run.path for run in sweep.runs if run.opened]
    compared = (reality_of(*open_run(run_dir)) for run_dir in runs)
    return {
        "folder": str(path),
        **over_seeds,
        "runs": {_name_in(path, run_dir): status_values(run_dir) for run_dir in runs},
        "plan_and_reality": [row._asdict() for row in add_up(compared)],
    }


def _name_in(path: Path, run_dir: Path) -> str:
    """Return the name of a run in a folder of runs, with the folder between them if there is one."""
    return str(run_dir.relative_to(path))
