"""The command line: one function for each verb; our errors become one line here and nowhere else."""

import errno
import json
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from isheep.cli.evaluation import Dir, console
from isheep.cli.evaluation import app as evaluation
from isheep.cli.show import Band
from isheep.errors import UserError
from isheep.export.iteration import ExportFormat
from isheep.recipe import loading
from isheep.recipe.schema import Recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
lamb = typer.Typer(no_args_is_help=True, help="The embedded base model: pretrain it, probe it.")
app.add_typer(evaluation)
app.add_typer(lamb, name="lamb")
DEFAULT, DEFAULT_REAL = "lamb", "qwen2.5-0.5b"
INTERRUPTED = 130  # what typer exits with after Ctrl-C
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)  # paths not to write to
FULL = ("No space left", "PytorchStreamWriter failed", "unexpected pos")  # safetensors says it so, torch.save so


@app.callback()
def isheep() -> None:
    """I-SHEEP (Liang et al. 2024): a base language model aligns itself, with nothing but its own words."""


@app.command()
def run(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/RECIPE or runs/MODEL where it is not given.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A base model: a folder, or a name on the Hub.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Run it so many times, with seed, seed + 1, ..., each in --out/seed-N.")
    ] = None,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run model-written code (HumanEval, MBPP) where no sandbox holds too.")
    ] = False,
) -> None:
    """Run a recipe, or go on with it where it stopped.

    RECIPE is a file or a name from `isheep recipes`: lamb where none is given, or qwen2.5-0.5b with --model. KEY=VALUE
    sets a key of it, such as training.epochs=1 or filters.0.at_least=7.
    """
    from isheep.evaluation.tables import run_table
    from isheep.sweep import check_recipe_ready, run_recipe

    path, overrides = _chosen(words, model)
    recipe = loading.load_recipe(path, ["machine.unsafe_code=true"] * unsafe_code + overrides)
    out = out or Path("runs") / (Path(model).resolve().name if model else path.stem)
    if seeds:
        numbers = range(recipe.seed, recipe.seed + seeds)
        return _sweep({f"seed-{n}": recipe.model_copy(update={"seed": n}) for n in numbers}, out)
    check_recipe_ready(recipe, out)
    folder, t = run_recipe(recipe, out)
    console.print(run_table(recipe, folder))
    last = folder.path / f"iter-{t}"
    for name, where in (("adapter", last / "adapter"), ("dataset", last / "train.json"), ("run", folder.path)):
        console.print(f"{name:<9}{where}", soft_wrap=True, markup=False)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A file with settings or a grid, or a name.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of its run folders; runs/SWEEP without it.")] = None,
) -> None:
    """Run every setting of a sweep, or go on with it. What comes out the same in two settings is made once.

    KEY=VALUE sets a key for all settings but those that the sweep itself sets it for.
    """
    path = loading.find_recipe(name)
    _sweep(loading.load_sweep(path, words or []), out or Path("runs") / path.stem)


def _sweep(recipes: Mapping[str, Recipe], out: Path) -> None:
    from isheep.evaluation.tables import sweep_table
    from isheep.sweep import run_sweep

    try:
        run_sweep(recipes, out)
    finally:
        if any((out / name).exists() for name in recipes):
            console.print(sweep_table(recipes, out))
            console.print(f"runs     {out}", soft_wrap=True, markup=False)


@app.command()
def plan(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="As isheep run has it.")] = None,
    gpu: Annotated[str | None, typer.Option(help="A GPU by name, such as H100; this machine without it.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="So many; without it the fewest that hold it.")] = None,
    like: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="A run folder: means, and speed on this machine.")
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option(metavar="KEY=NUMBER", help="A number in the place of one that is assumed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All digits, as JSON.")] = False,
) -> None:
    """Say what a recipe or a sweep will take: tokens, FLOPs, time, memory, disk, and what that rests on.

    No weights are loaded. RECIPE and KEY=VALUE are as isheep run has them.
    """
    from isheep import plan as plans
    from isheep.plan import assumptions, tables

    path, overrides = _chosen(words, model)
    several = loading.is_sweep(path)
    recipes = loading.load_sweep(path, overrides) if several else {"": loading.load_recipe(path, overrides)}
    said, told = assumptions.parse_assumptions(assume or []), plans.past_of(like)
    device = plans.device_of(next(iter(recipes.values())).machine, gpu, gpus)
    found = {name: plans.plan(recipe, device, gpus, said, told) for name, recipe in recipes.items()}
    if as_json:
        shown = {name: one.model_dump(mode="json") for name, one in found.items()}
        return print(json.dumps(shown if several else shown[""], indent=1))
    for part in tables.sweep(found) if several else tables.tables(found[""]):
        console.print(part)


@app.command()
def recipes() -> None:
    """List the recipes that come with isheep, and the sweeps, which are many recipes in one file."""
    names = loading.recipe_names()
    sweeps = {name for name in names if loading.is_sweep(loading.find_recipe(name))}
    for verb, some in (("run", [name for name in names if name not in sweeps]), ("sweep", sorted(sweeps))):
        shown = Table(f"isheep {verb}", "", box=None, padding=(0, 2, 0, 0), header_style="bold")
        shown.columns[0].no_wrap, shown.columns[0].min_width = True, max(map(len, names))
        for name in some:
            shown.add_row(name, loading.recipe_title(loading.find_recipe(name)))
        console.print(shown)


@app.command()
def status(folder: Dir) -> None:
    """Show where a run stands: rows, scores, seconds by stage, what is being made."""
    from isheep.cli.status import status

    for part in status(folder):
        console.print(part, soft_wrap=isinstance(part, Text))


@app.command()
def show(
    folder: Dir,
    iteration: Annotated[int, typer.Argument(help="1 or more.")],
    quality: Annotated[Band | None, typer.Option(help="Only pairs on this side of the threshold.")] = None,
    following: Annotated[Band | None, typer.Option(help="The same for instruction-following.")] = None,
    at: Annotated[float | None, typer.Option(help="The lowest score that is high; the recipe's without it.")] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="What was left out, and why.")] = False,
    page: Annotated[int, typer.Option(min=1)] = 1,
    rows: Annotated[int, typer.Option(min=1, help="Rows on a page.")] = 10,
) -> None:
    """Page through an iteration's pairs with their ratings. --quality and --following together: Table 6's quadrants."""
    from isheep.cli.show import show

    for text in show(folder, iteration, {"quality": quality, "following": following}, at, dropped, page, rows):
        console.print(text, soft_wrap=True)


@app.command()
def chat(
    folder: Dir,
    iteration: Annotated[int | None, typer.Option(help="0 is the base; the newest model without it.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
) -> None:
    """Talk to a run's model: at a prompt, or an answer to each line of standard input."""
    from isheep.cli.chat import chat_with_run

    chat_with_run(folder, iteration, temperature, console)


@app.command()
def export(
    folder: Dir,
    form: Annotated[
        ExportFormat | None, typer.Option("--as", help="The data that were trained on, in this form.")
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="The checkpoint, with the adapter in its weights.")] = False,
    iteration: Annotated[int | None, typer.Option(help="The newest one without it.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file, or with --merged a folder; else DIR/export/...")] = None,
) -> None:
    """Take an iteration's data or its model out of a run.

    --as paper: the keys of Appendix B, with the scores. --as llamafactory: a folder to train in, with its YAML.
    """
    from isheep.export.iteration import export_iteration

    if (form is None) != merged:
        raise UserError("give one of --as alpaca|sharegpt|messages|paper|llamafactory and --merged")
    console.print(export_iteration(folder, form, iteration, out), soft_wrap=True, markup=False)


@app.command()
def doctor() -> None:
    """Print versions, device, memory, and what the installed extras allow."""
    from isheep.cli.doctor import complete, doctor

    for name, value in doctor():
        console.print(f"{name:<14} {value}", soft_wrap=True, markup=False)
    if not complete():
        raise UserError("a package that every run needs is missing: pip install isheep, or make setup in a clone")


@lamb.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="The checkpoint's folder; what is there is gone on with.")],
    tokens: Annotated[float, typer.Option(min=1, help="Tokens in all, such as 40e6.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 2,
) -> None:
    """Pretrain lamb from scratch on pages of its micro-world."""
    from isheep.lamb.pretrain import pretrain

    pretrain(out, int(tokens), workers=workers)


@lamb.command()
def probe(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint's folder; the committed one without it.")] = "lamb",
) -> None:
    """Print what a lamb checkpoint can do before any loop: answer validation tasks, and judge."""
    from isheep.lamb.probe import probe
    from isheep.models.checkpoint import find_checkpoint

    found = probe(Path(find_checkpoint(checkpoint)))
    for group, values in found.items():
        for name, value in values.items():
            console.print(f"{group:<9}{name:<36}{value:.3f}", soft_wrap=True, markup=False)


def _chosen(words: Sequence[str] | None, model: str | None) -> tuple[Path, list[str]]:
    """The recipe's file and what goes over it; the recipe comes first and has no "="."""
    words = words or []
    named = bool(words) and "=" not in words[0]
    name = words[0] if named else DEFAULT_REAL if model else DEFAULT
    return loading.find_recipe(name), [f"model={json.dumps(model)}"] * bool(model) + list(words[named:])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, or 2 after one line for what the user can mend, or 130 when interrupted.

    SIGTERM, which a scheduler sends before it kills, interrupts like Ctrl-C: calls to a judge that are under way, and
    may be paid, are waited for and kept.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # what libraries say to each other's authors
    try:
        app(args=arguments)
    except UserError as error:
        _exit(str(error), 2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _exit("stopped; what a run has made so far is kept: the same command goes on from there", INTERRUPTED)
        raise
    except Exception as error:
        if full := _full(error):
            where = getattr(full, "filename", None)
            _exit(
                f"no space left on the device{f' for {where}' if where else ''}; nothing that was finished is lost: "
                "make room and give the same command again",
                2,
            )
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not loaded for the sake of a name
            _exit(
                f"out of memory on the device ({str(error).splitlines()[0]}); nothing that was finished is lost: "
                "give the same command with a lower machine.batch (prompts at once) or machine.rows (rows in training)",
                2,
            )
        if isinstance(error, OSError) and error.errno in REFUSED and error.filename:
            _exit(f"{error.filename}: {error.strerror}", 2)
        raise
    sys.exit(0)


def _full(error: BaseException) -> BaseException | None:
    """What says that a disk is full, among an error and those that led to it; None where nothing does."""
    chain: BaseException | None = error
    while chain:
        if getattr(chain, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(word in str(chain) for word in FULL):
            return chain
        chain = chain.__cause__ or chain.__context__
    return None


def _exit(line: str, status: int) -> NoReturn:
    print(f"isheep: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)
