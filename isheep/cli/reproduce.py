"""isheep reproduce: test every claim of the paper again on lamb, and write the findings."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import Seeds
from isheep.cli.output import print_line

# --quick tests these claims, which need three settings, with few tasks, so that it ends in minutes.
QUICK_CLAIMS = ("iterating", "base", "random-keep", "kept-share", "content")
QUICK_OVERRIDES = ("synthesis.tasks=150", "synthesis.budget=450")
QUICK_SEEDS, FULL_SEEDS = "2", "6"


def reproduce(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the runs and of findings.md (default: runs/reproduce, or runs/reproduce-quick).",
            show_default=False,
        ),
    ] = None,
    seeds: Seeds = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(help="Only this claim, such as threshold; may be repeated (default: all).", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of random seeds at a time (default: one for each core).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small part: five claims, two random seeds, and 150 tasks instead of 300.")
    ] = False,
    findings: Annotated[
        Path | None, typer.Option(help="Write the findings to this file, too, such as docs/findings.md.")
    ] = None,
) -> None:
    """Test every claim of the paper again, on lamb.

    Runs the settings and controls that the claims compare, each with several random seeds, and writes findings.md: for
    each claim a verdict, the effect with its interval over random seeds, and the difference that could have been found.
    Started again, it continues.
    """
    from isheep.cli.seed_processes import run_seeds
    from isheep.errors import UserError
    from isheep.recipe.sweeps import parse_seeds
    from isheep.report.claims.declared import load_laboratory
    from isheep.report.claims.findings import make_findings, save_findings

    if out is None:
        out = Path("runs/reproduce-quick") if quick else Path("runs/reproduce")
    laboratory = load_laboratory(claim or (QUICK_CLAIMS if quick else ()))
    choice = parse_seeds(seeds or (QUICK_SEEDS if quick else FULL_SEEDS))
    overrides = QUICK_OVERRIDES if quick else ()
    failures = run_seeds(laboratory.sweep, laboratory.settings, overrides, out, choice, jobs)
    page = make_findings(laboratory, out)
    for path in dict.fromkeys((out / "findings.md", *([findings] if findings else []))):
        save_findings(page, path)
        print_line(f"findings {path}")
    if failures:
        raise UserError("; ".join(failures))
