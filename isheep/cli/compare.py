"""isheep compare: compare two models, or two settings over random seeds."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import Json
from isheep.cli.output import print_json, print_parts
from isheep.errors import UserError

Baseline = Annotated[
    str | None, typer.Option(metavar="SETTING", help="Setting of a sweep that every other one is compared with.")
]
Contrasts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A:B",
        help="Two models of a sweep, such as one-base@1:one-base@3; may be repeated.",
        show_default=False,
    ),
]
Within = Annotated[
    bool,
    typer.Option(
        "--within",
        help="Compare each setting of a sweep with its base and its iteration 1 (done without --baseline and "
        "--contrast).",
    ),
]


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="DIR_A",
            help="Run folder, a folder of runs with a random seed each, or that of a sweep with random seeds.",
            show_default=False,
        ),
    ],
    b: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR_B",
            help="The same (default: DIR_A; base against newest iteration).",
            show_default=False,
        ),
    ] = None,
    iteration: Annotated[
        list[int] | None,
        typer.Option(
            help="Iteration of both sides, or, given twice, of each; 0 is the base (default: the newest, or the best "
            "by the recipe's stop rule). In a sweep: an iteration at which settings are compared; may be repeated.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this score; may be repeated. The p values are corrected for the number of scores printed.",
            show_default=False,
        ),
    ] = None,
    baseline: Baseline = None,
    contrast: Contrasts = None,
    within: Within = False,
    as_json: Json = False,
) -> None:
    """Compare two models, or settings over random seeds.

    Two models are compared on the same items. Two folders of runs are compared over the random seeds that both have. Of
    a sweep with random seeds (isheep sweep --seeds), all contrasts are one family: p is corrected across settings.
    """
    from isheep.evaluation.compare import compare_models, comparison_table
    from isheep.evaluation.json_views import comparison_json
    from isheep.evaluation.seed_runs import is_seed_sweep

    if b is None and is_seed_sweep(a):
        return compare_settings(a, iteration or [], score or [], baseline, contrast or [], within, as_json)
    if baseline or contrast or within:
        raise UserError(
            "--baseline, --contrast and --within are for a sweep with random seeds: give the folder that isheep sweep "
            "--seeds has made, and no second one"
        )
    comparison = compare_models(a, b, iteration or [], score or [])
    if as_json:
        return print_json(comparison_json(comparison))
    print_parts([comparison_table(comparison)])


def compare_settings(
    sweep_dir: Path,
    iterations: list[int],
    score_names: list[str],
    baseline: str | None,
    declared: list[str],
    is_within: bool,
    as_json: bool,
) -> None:
    """Print the contrasts of a sweep with random seeds."""
    from isheep.evaluation.contrast_table import contrast_tables
    from isheep.evaluation.contrasts import baseline_contrasts, compare_contrasts, parse_contrast, within_contrasts
    from isheep.evaluation.json_views import contrasts_json
    from isheep.evaluation.seed_runs import load_seed_sweep

    sweep = load_seed_sweep(sweep_dir)
    contrasts = [parse_contrast(text, sweep) for text in declared]
    if baseline:
        contrasts += baseline_contrasts(sweep, baseline, iterations)
    if is_within or not (baseline or declared):
        contrasts += within_contrasts(sweep, iterations)
    family = compare_contrasts(sweep, contrasts, score_names)
    if as_json:
        return print_json(contrasts_json(family))
    print_parts(contrast_tables(family))
