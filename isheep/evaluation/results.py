"""Results of benchmarks in a run folder: base/eval/NAME.json, iter-1/eval/NAME.json, ..."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from isheep.benchmarks import Result
from isheep.errors import UserError
from isheep.records import Answer
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir

# The files in eval/NAME/ that hold a model's answers to the items, in the order in which they are looked for.
ANSWER_FILES = ("answers.jsonl", "greedy.jsonl", "sampled.jsonl")


def has_result(run: RunFolder, iteration: int, benchmark: str) -> bool:
    """Return whether M^iteration was evaluated on a benchmark."""
    return (iteration_dir(run, iteration).path / "eval" / f"{benchmark}.json").exists()


def load_result(run: RunFolder, iteration: int, benchmark: str, part: str = "eval") -> Result | None:
    """Return the result of M^iteration on a benchmark, or None if it was not evaluated.

    `part` is "validation" for the items of a stop rule. Raises UserError if the file is not a result of this version.
    """
    folder, name = iteration_dir(run, iteration), f"{part}/{benchmark}.json"
    return read_result(folder.checked(name)) if folder.has(name) else None


def read_result(path: Path) -> Result:
    """Read a result file. Raises UserError if it is not a result of this version."""
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path}: not a result of this version of isheep ({key}: {first['msg'].lower()}); delete it and "
            f"{path.with_suffix('')} to have the model scored again"
        ) from None


def load_answers(run: RunFolder, iteration: int, benchmark: str) -> Sequence[Answer]:
    """Return the answers of M^iteration to a benchmark's prompts; none if it has no file of them in the usual form."""
    folder = iteration_dir(run, iteration) / "eval"
    for name in ANSWER_FILES:
        if folder.has(f"{benchmark}/{name}"):
            try:
                return list(folder.read(f"{benchmark}/{name}", Answer))
            # A benchmark of the user's may keep rows of another form.
            except UserError:
                return []
    return []
