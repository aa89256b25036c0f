"""isheep judge-calibration: measure how reliable a run's self-assessment is."""

from typing import Annotated

import typer

from isheep.cli.options import AllowCode, RunDir
from isheep.cli.output import print_parts


def judge_calibration(
    run_dir: RunDir,
    pairs: Annotated[int, typer.Option(min=1, help="Number of pairs of an iteration to rate again.")] = 200,
    iteration: Annotated[int | None, typer.Option(min=1, help="Only this iteration (default: all).")] = None,
    allow_code: AllowCode = False,
) -> None:
    """Measure how reliable a run's self-assessment is.

    Compares its ratings with a second rating of the same pairs, with another judge, with the length of the answers,
    with the truth if it is known, and with ratings by people. The figures are saved in the folder of each iteration.
    """
    from isheep.diagnostics.judge_calibration import calibrate_judge
    from isheep.diagnostics.judge_tables import calibration_tables
    from isheep.report.hook import refresh_report

    print_parts(calibration_tables(calibrate_judge(run_dir, pairs, iteration)))
    refresh_report(run_dir)
