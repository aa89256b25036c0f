"""The command line: the list of commands, and `main`, which turns errors into one line and an exit code.

Each command is a function in a module of its own; function and module are named like the command. A new command is one
new module here and its name in COMMANDS. The command modules import the rest of the package inside their functions, so
that `isheep --help` is fast and loads nothing heavy.
"""

import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from isheep import __version__
from isheep.cli import error_lines
from isheep.errors import UserError, command_line, is_utf8, quote_path

# The commands in the order in which `isheep --help` lists them.
COMMANDS = (
    "run",
    "redo",
    "sweep",
    "reproduce",
    "plan",
    "recipes",
    "status",
    "verify",
    "show",
    "report",
    "rigor",
    "chat",
    "export",
    "push",
    "eval",
    "compare",
    "contamination",
    "judge-calibration",
    "annotate",
    "scores",
    "judge-prompts",
    "doctor",
    "lamb",
)
INTERRUPTED = 130
"""The exit code of typer after Ctrl-C."""
HELP_OPTIONS = ("-h", "--help")


def _print_version(requested: bool) -> None:
    if requested:
        print(f"isheep {__version__}")
        raise typer.Exit


def isheep(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Align a base language model on data that it writes, rates and filters itself.

    The method is I-SHEEP (Liang et al. 2024). Begin with: isheep run lamb
    """


def build_app() -> typer.Typer:
    """Return the program with all COMMANDS."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": list(HELP_OPTIONS)},
    )
    app.callback()(isheep)
    for name in COMMANDS:
        module_name = name.replace("-", "_")
        command = getattr(import_module(f"isheep.cli.{module_name}"), module_name)
        # A command with commands of its own, such as lamb.
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


app = build_app()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    The exit code is 0 after success, 2 after an error that the user can fix (one line on standard error says how), and
    130 after an interruption. SIGTERM, which a job scheduler sends before it kills, interrupts like Ctrl-C: calls to a
    server that are under way, and may be paid, have some seconds to end, and their answers are saved.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not sys.warnoptions:
        # Libraries address these warnings to each other's authors.
        warnings.simplefilter("ignore", FutureWarning)
    try:
        with command_line():
            arguments = sys.argv[1:] if arguments is None else arguments
            _check_operating_system(arguments)
            _check_encoding(arguments)
            # Not standalone, so that typer raises its errors: they get the same form as ours.
            code = app(args=arguments, prog_name="isheep", standalone_mode=False)
    except typer.Abort:
        _exit("the input ended before a question was answered", 1)
    except Exception as error:
        if error_lines.shows_help(error):
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        if line := error_lines.error_line(error):
            _exit(line, 2)
        raise
    if code == INTERRUPTED:
        _exit("interrupted; everything finished is saved: run the same command again to continue", INTERRUPTED)
    sys.exit(code or 0)


def _check_operating_system(arguments: Sequence[str]) -> None:
    """Raise UserError if this is not Linux, unless only the help or the version is asked for."""
    if not sys.platform.startswith("linux") and arguments and not {*arguments} & {*HELP_OPTIONS, "--version"}:
        raise UserError(
            f"isheep runs on Linux, and this is {sys.platform}: use WSL 2 on Windows, or a Linux container on macOS"
        )


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raise UserError if an argument is not UTF-8, as a file's name may be: recipes, cards and reports are UTF-8."""
    for argument in arguments:
        if not is_utf8(argument):
            raise UserError(f"{quote_path(argument)} is not UTF-8: rename the file or folder, or give another one")


def _exit(line: str, code: int) -> NoReturn:
    # Spaces in a name that is quoted stay as they are.
    print(f"isheep: {line if len(line.splitlines()) < 2 else ' '.join(line.split())}", file=sys.stderr)
    sys.exit(code)
