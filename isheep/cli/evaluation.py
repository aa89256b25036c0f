"""The verbs of evaluation: score, compare, and ask whether the figures can be believed. cli.py has the others."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from isheep.errors import UserError
from isheep.recipe import loading

app = typer.Typer(rich_markup_mode=None)
console = Console(highlight=False)
Dir = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]


@app.command("eval")
def evaluate(
    words: Annotated[list[str] | None, typer.Argument(metavar="RUN [BENCHMARK]...", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="Your copy of the benchmark's files, where it needs one.")] = None,
    iteration: Annotated[int | None, typer.Option(help="Only this one; 0 is the base.")] = None,
    kinds: Annotated[bool, typer.Option("--kinds", help="Print how often each kind of item is right, too.")] = False,
    responses: Annotated[
        Path | None, typer.Option(help="Score this file of answers instead of a run: then give the benchmark alone.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --responses: the folder of verdicts.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="JUDGE",
            help="Who judges MT-Bench and AlpacaEval: a model's name at the endpoint, or what a recipe's evaluation "
            "has as judge, such as '{model: runs/other, local: true}'.",
        ),
    ] = None,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run model-written code (HumanEval, MBPP) where no sandbox holds too.")
    ] = False,
) -> None:
    """Score the base and every iteration of a run on the recipe's benchmarks, or on those named.

    What is scored already is kept; results are in RUN/iter-1/eval/BENCHMARK.json. What a benchmark lacks (data, a
    judge, a sandbox) is said before anything is generated.
    """
    from isheep.evaluation import evaluate_run, tables

    if responses:
        if not words or len(words) > 1 or iteration is not None:
            raise UserError("with --responses give one benchmark and no run: isheep eval --responses FILE ifeval")
        if judge or unsafe_code:
            raise UserError("--responses is for benchmarks that ask no judge and run no code: leave these options out")
        into = out or responses.with_suffix(f".{words[0]}")
        console.print(tables.scores(words[0], evaluate_run.score_responses(words[0], responses, data, into)))
        return console.print(f"verdicts {into}", soft_wrap=True, markup=False)
    if not words or out:
        raise UserError("give a run folder: isheep eval RUN; --out is for --responses")
    asked = loading.parse_judge(judge) if judge is not None else None
    recipe, run = evaluate_run.evaluate_run(Path(words[0]), words[1:], data, iteration, asked, unsafe_code)
    console.print(tables.run_table(recipe, run, words[1:]))
    if kinds:
        console.print(tables.breakdowns(recipe, run, words[1:]))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder, or a folder of runs with a seed each.")],
    b: Annotated[Path | None, typer.Argument(metavar="RUN_B", help="Without it: RUN_A's base and iteration.")] = None,
    iteration: Annotated[
        list[int] | None, typer.Option(help="Of both, or given twice, of each; 0 is the base; the newest without it.")
    ] = None,
    score: Annotated[
        list[str] | None, typer.Option(help="Only this one; those given are the family that p is corrected for.")
    ] = None,
) -> None:
    """Compare two models on the same items, or two settings over the same seeds."""
    from isheep.evaluation.compare import comparison_tables

    console.print(comparison_tables(a, b, iteration or [], score or []))


@app.command()
def contamination(
    folder: Dir,
    names: Annotated[list[str] | None, typer.Argument(metavar="[BENCHMARK]...", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="Your copy of the benchmark's files, where it needs one.")] = None,
    ngram: Annotated[
        int | None, typer.Option(min=0, help="Words in a row; 0: not looked at. The recipe's, or 13.")
    ] = None,
    rouge: Annotated[
        float | None, typer.Option(min=0, max=1, help="ROUGE-L above this; 0: not looked at. The recipe's, or 0.7.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Print the rows, and how they touch a prompt.")] = False,
) -> None:
    """Show which generated rows touch the benchmarks' prompts, and scores on the clean and the touched items."""
    from isheep.diagnostics.contamination import contamination_report

    for part in contamination_report(folder, names or [], data, ngram, rouge, rows):
        console.print(part, soft_wrap=isinstance(part, Text))


@app.command()
def judge_health(
    folder: Dir,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of an iteration that are rated anew.")] = 200,
    iteration: Annotated[int | None, typer.Option(min=1, help="Only this one.")] = None,
) -> None:
    """Hold a run's self-assessment against itself, another judge, the answers' length, the truth and people.

    Figures are in DIR/iter-1/health.json, new ratings in DIR/iter-1/health/.
    """
    from isheep.diagnostics.judge_calibration import calibrate_judge
    from isheep.diagnostics.judge_tables import tables

    for part in tables(calibrate_judge(folder, pairs, iteration)):
        console.print(part, soft_wrap=isinstance(part, Text))


@app.command()
def annotate(
    folder: Dir,
    iteration: Annotated[int | None, typer.Option(min=1, help="Rate pairs of this one; of all without it.")] = None,
    compare: Annotated[
        tuple[int, int] | None, typer.Option(metavar="A B", help="Choose between these two models; 0 is the base.")
    ] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="With --compare: tasks in a form of seed tasks; the run's seeds without it.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Questions.")] = 50,
    name: Annotated[str, typer.Option(help="Who answers: each has answers of their own.")] = "me",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
) -> None:
    """Serve a page on this machine on which a person rates pairs blind, or chooses between two models' answers.

    Answers are in DIR/annotations/; judge-health uses them.
    """
    from isheep.annotation.annotate import annotate

    if compare and iteration is not None or tasks and not compare:
        raise UserError("--iteration is for rating, --tasks for --compare")
    annotate(folder, name, iteration, compare, tasks, pairs, port, console)


@app.command()
def scores(
    file: Annotated[Path, typer.Argument(help="A model_judgment file of MT-Bench, or an annotations.json.")],
    data: Annotated[Path | None, typer.Option(help="MT-Bench's files, for its categories; or AlpacaEval's.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this one of the file's models.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All digits, as JSON.")] = False,
) -> None:
    """Print the scores of a file of judgments, as FastChat or AlpacaEval compute them, and what they leave out."""
    from isheep.evaluation.judgment_files import figures, scores

    if as_json:
        return print(json.dumps(figures(file, data, model or []), indent=1))
    for part in scores(file, data, model or []):
        console.print(part)


@app.command()
def judge_prompts(
    answers: Annotated[Path, typer.Argument(help="A model_answer file of MT-Bench.")],
    data: Annotated[Path, typer.Option(help="FastChat's data/mt_bench.")],
    judge: Annotated[str, typer.Option(help="The judge, whose reference answers are taken.")] = "gpt-4",
    out: Annotated[Path | None, typer.Option(help="A file; printed without it.")] = None,
) -> None:
    """Write what MT-Bench's judge is asked about a model's answers, without asking it."""
    from isheep.evaluation.judgment_files import judge_prompts

    if text := judge_prompts(answers, data, judge, out):
        print(text)
