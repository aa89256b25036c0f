"""isheep eval: score a run's models on benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import AllowCode, Benchmarks, Data, Json, UnsafeCode
from isheep.cli.output import print_json, print_line, print_parts
from isheep.errors import UserError


def eval(
    run_dir: Annotated[str | None, typer.Argument(metavar="DIR", help="Run folder.", show_default=False)] = None,
    benchmarks: Benchmarks = None,
    data: Data = None,
    iteration: Annotated[int | None, typer.Option(help="Only this iteration; 0 is the base (default: all).")] = None,
    kinds: Annotated[bool, typer.Option("--kinds", help="Print the accuracy for each kind of item too.")] = False,
    responses: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score this file of answers instead of a run: isheep eval --responses FILE BENCHMARK. JSON lines or a "
            "JSON list, also gzipped, of rows {prompt, response} for ifeval; {task_id, completion} for humaneval and "
            "mbpp; {question, response} for nq and triviaqa; {id, response} for squad2; lm-eval's samples for these "
            "three and ifeval; model_answer for mt_bench; model_outputs for alpaca_eval.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --responses: output directory of the verdicts.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="JUDGE",
            help="Judge of MT-Bench and AlpacaEval: the name of a model at the endpoint, or a mapping as in a recipe's "
            "evaluation, such as '{model: runs/other, local: true}'.",
        ),
    ] = None,
    unsafe_code: UnsafeCode = False,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Score a run's models on benchmarks.

    Scores the base and every iteration on the benchmarks named, or on those of the recipe. Existing results are kept;
    results are in DIR/iter-1/eval/BENCHMARK.json. Missing prerequisites of a benchmark (data, a judge, a sandbox) are
    reported before anything is generated.
    """
    from isheep.cli.live_view import live_view
    from isheep.evaluation import evaluate_run, json_views, tables
    from isheep.recipe import loading
    from isheep.recipe.benchmark_names import benchmark_label
    from isheep.report.hook import refresh_report

    names = benchmarks or []
    if responses:
        if iteration is not None:
            raise UserError("--iteration is for a run, and --responses scores a file: leave one of them out")
        return _score_responses([run_dir, *names] if run_dir else [], responses, data, out, judge, unsafe_code, as_json)
    if not run_dir or out:
        raise UserError("give a run folder: isheep eval DIR; --out is for --responses")
    settings = loading.parse_judge(judge) if judge is not None else None
    with live_view():
        recipe, run = evaluate_run.evaluate_run(Path(run_dir), names, data, iteration, settings, unsafe_code)
        refresh_report(run.path)
    labels = [benchmark_label(name) for name in names]
    if as_json:
        return print_json(json_views.scores_json(recipe, run, labels))
    print_parts([tables.run_table(recipe, run, labels, full=True)])
    if kinds:
        print_parts([tables.breakdowns(recipe, run, labels)])


def _score_responses(
    names: list[str],
    responses: Path,
    data: Path | None,
    out: Path | None,
    judge: str | None,
    unsafe_code: bool,
    as_json: bool,
) -> None:
    from isheep.cli.live_view import live_view
    from isheep.evaluation import evaluate_run, json_views, tables
    from isheep.recipe import loading

    if len(names) != 1:
        raise UserError("with --responses give one benchmark and no run: isheep eval --responses FILE ifeval")
    settings = loading.parse_judge(judge) if judge is not None else None
    with live_view():
        result, folder = evaluate_run.score_responses(names[0], responses, data, out, settings, unsafe_code)
    if as_json:
        return print_json(json_views.result_json(result))
    print_parts([tables.result_table(names[0], result)])
    print_line(f"verdicts {folder}")
