"""Damage to the files of a run: every file, in every way, in every state, under every command that uses a run.

A command must name the damage in one line and end with an exit code that is not 0, or give what it gives without the
damage. As a program it walks over the whole matrix and prints it as a table in Markdown:

python -m tests.helpers.damage [FOLDER]
"""

import json
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import isheep.sweep
from isheep.backends import DEFAULT_BACKEND
from isheep.batching import derive_seed
from isheep.benchmarks import Benchmark, EvalContext, Result, Score, register_benchmark
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.recipe.schema import Recipe
from isheep.records import Model, Sampling
from isheep.rundir.training_file import read_training_file, training_file_sha256
from tests.helpers.command import Done
from tests.helpers.command import isheep as command
from tests.helpers.fakes import FakeChat
from tests.helpers.function_model import write_text
from tests.helpers.hashes import hash_files

RECIPE = """
model: fake
iterations: 2
synthesis: {tasks: 8, batch_size: 4, novelty: null}
response: {batch_size: 4}
assessment: {batch_size: 4, criteria: [quality]}
filters: [{kind: score, at_least: 8}, {kind: perplexity}]
evaluation: [counting]
"""
# Files in which no result is looked for: a run writes them again, or they only say how it went.
NO_RESULTS = ("lock", "run.jsonl", "progress.json", "report.html")
CHAT_LINE = b"Name a city.\n"

MEASURES = ("perplexity.jsonl", "embeddings.jsonl")
Damage = Callable[[Path, Path], bool]
"""Damages a file, given the same file of another run; returns False if it can't be damaged in this way."""


# --- ways of damage


def remove(path: Path, foreign: Path) -> bool:
    path.unlink()
    return True


def empty(path: Path, foreign: Path) -> bool:
    return _replace(path, b"")


def truncate(path: Path, foreign: Path) -> bool:
    content = path.read_bytes()
    return _replace(path, content[: len(content) * 2 // 3])


def flip_bit(path: Path, foreign: Path) -> bool:
    """Flip the lowest bit of a letter or digit in the middle: in most files the content stays well formed."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    indices = [*range(middle, len(content)), *range(middle)]
    index = next((index for index in indices if chr(content[index]).isalnum()), None)
    if index is None:
        return False
    content[index] ^= 1
    return _replace(path, bytes(content))


def edit(path: Path, foreign: Path) -> bool:
    """Change one value, so that the file stays valid."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if path.suffix == ".jsonl" and text:
        lines = text.split("\n")
        lines[0] = _edited_json(lines[0])
        return _replace(path, "\n".join(lines).encode(errors="surrogateescape"))
    if path.suffix == ".json":
        return _replace(path, _edited_json(text, indent=1).encode())
    if path.suffix == ".yaml":
        return _replace(path, text.replace("seed: 0", "seed: 1").replace("perplexity", "density").encode())
    return flip_bit(path, foreign)


def swap_rows(path: Path, foreign: Path) -> bool:
    lines = path.read_bytes().split(b"\n")
    indices = [index for index, line in enumerate(lines) if line.strip()]
    if len(indices) < 2:
        return False
    first, last = indices[0], indices[-1]
    lines[first], lines[last] = lines[last], lines[first]
    return _replace(path, b"\n".join(lines))


def take_foreign(path: Path, foreign: Path) -> bool:
    return foreign.is_file() and _replace(path, foreign.read_bytes())


DAMAGES: Mapping[str, Damage] = {
    "missing": remove,
    "empty": empty,
    "truncated": truncate,
    "one bit": flip_bit,
    "valid edit": edit,
    "rows swapped": swap_rows,
    "foreign": take_foreign,
}


def _replace(path: Path, content: bytes) -> bool:
    if content == path.read_bytes():
        return False
    path.write_bytes(content)
    return True


def _edited_json(text: str, indent: int | None = None) -> str:
    """Return JSON with its last text or number changed."""

    def change(value: Any) -> Any:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return value + 1
        if isinstance(value, str):
            return f"{value} changed"
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, item in reversed(items):
            # Only two values of finish are valid.
            if item is not None and item not in ({}, []) and key != "finish":
                value[key] = change(item)
                break
        return value

    return json.dumps(change(json.loads(text)), indent=indent, ensure_ascii=False)


# --- a run on fake models


class Interrupted(UserError):
    """Ends a run before its second training."""


class FakeModels:
    """An engine and a trainer whose results depend on the adapter, the prompt and the seed."""

    stops_before_training: int | None = None

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        learned = (model.adapter / "adapter_model.safetensors").read_text() if model.adapter else ""

        def write(prompt: str, seed: int) -> str:
            number = derive_seed(prompt, seed, learned)
            # One rating in four lies below the threshold.
            return f"{7 + number % 4}||good" if "Please rate" in prompt else write_text(prompt, str(number))

        return SeededFunctionEngine(write)

    def train(self, recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
        if self.stops_before_training == int(training_file.parent.name.removeprefix("iter-")):
            raise Interrupted("stopped before the training")
        learned = json.dumps([row.model_dump() for row in read_training_file(training_file).rows])
        (into / "adapter_model.safetensors").write_text(f"{derive_seed(learned, seed)}")
        (into / "adapter_config.json").write_text(recipe.training.lora.model_dump_json())
        record = {"training_file_sha256": training_file_sha256(training_file), "rows": {"trained": 8, "held_out": 0}}
        (into / "training.json").write_text(json.dumps(record))


def count_answers(context: EvalContext) -> Result:
    prompts = [context.prompt(f"What is {number} plus one?") for number in range(4)]
    answers = context.answers(prompts, Sampling())
    return Result(scores={"even": Score(items=[len(answer.output) % 2 == 0 for answer in answers])})


def use_fake_models(set_attribute: Callable[[object, str, object], None] = setattr) -> FakeModels:
    """Let the commands use fake models, and know the benchmarks "counting" and "later"."""
    models = FakeModels()
    set_attribute(DEFAULT_BACKEND, "open_engine", models.open_engine)
    set_attribute(DEFAULT_BACKEND, "train", models.train)
    set_attribute(DEFAULT_BACKEND, "load_chat_template", lambda name, model, date=None: FakeChat())
    set_attribute(isheep.sweep, "check_prompt_fits", lambda recipe, chat: None)
    for name in ("counting", "later"):
        register_benchmark(
            Benchmark(
                name=name,
                run=count_answers,
                prompts=lambda settings: ["What is 0 plus one?"],
                score_inputs=lambda settings: 1,
                items_from="package",
            )
        )
    return models


# --- the walk


class Tried(NamedTuple):
    """A file that was damaged, and what a command did."""

    state: str
    file: str
    damage: str
    command: str
    outcome: str
    text: str

    @property
    def is_wrong(self) -> bool:
        return self.outcome not in ("detected", "harmless", "said", "another card")


Commands = Mapping[str, tuple[str, ...]]
COMMANDS: Commands = {
    # The report has a command of its own.
    "run": ("run", "RUN", "iterations=2", "machine.report=false"),
    "status": ("status", "RUN"),
    "verify": ("verify", "RUN"),
    "export": ("export", "RUN", "--as", "paper", "--iteration", "1"),
    "export model": ("export", "RUN", "--adapter", "--iteration", "1"),
    "eval": ("eval", "RUN", "later"),
    "chat": ("chat", "RUN", "--iteration", "1"),
    "show": ("show", "RUN", "1", "--no-pager"),
    "show dropped": ("show", "RUN", "1", "--dropped", "--no-pager"),
    "report": ("report", "RUN"),
}


class Matrix:
    """Runs in several states in a folder, and what each command does with them when nothing is damaged."""

    def __init__(self, folder: Path, models: FakeModels) -> None:
        self.folder, self.run = folder, folder / "run"
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE)
        self._make("other", models, str(recipe), "seed=7", "synthesis.tasks=9")
        self.states = {
            "finished": self._make("finished", models, str(recipe)),
            "iteration 2 owed": self._make("owed", models, str(recipe), "iterations=1"),
            "training 2 owed": self._make("training", models, str(recipe), stops_before_training=2),
        }
        self.expected: dict[tuple[str, str], tuple[Done, dict[str, str]]] = {}

    def _make(self, name: str, models: FakeModels, *words: str, stops_before_training: int | None = None) -> Path:
        models.stops_before_training = stops_before_training
        done = command("run", *words, "machine.report=false", "--out", self.run)
        models.stops_before_training = None
        assert done.code == 0 or stops_before_training, done.err
        assert command("report", self.run).code == 0
        return self.run.rename(self.folder / name)

    def files(self, state: str) -> list[str]:
        """Return all files of a run."""
        root = self.states[state]
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def walk(self, selected: Callable[[str, str, str, str], bool] = lambda *names: True) -> Iterator[Tried]:
        """Damage each file in each way, and try each command; `selected` gets state, file, damage and command."""
        for state in self.states:
            for file in self.files(state):
                for damage in DAMAGES:
                    for name in COMMANDS:
                        if selected(state, file, damage, name) and (tried := self.attempt(state, file, damage, name)):
                            yield tried

    def attempt(self, state: str, file: str, damage: str, name: str) -> Tried | None:
        """Damage a file of a run and execute a command; None if the file can't be damaged in this way."""
        expected, expected_files = self._undamaged(state, name)
        self._restore(state)
        if not DAMAGES[damage](self.run / file, self.folder / "other" / file):
            return None
        try:
            done = self._execute(name)
        except Exception:
            return Tried(state, file, damage, name, "traceback", traceback.format_exc())
        after = hash_files(self.run)
        if done.code:
            return Tried(state, file, damage, name, _refusal(done), done.err)
        # A command that makes no results leaves the damaged file as it is; a run has to end with the same bytes.
        compared = {*after, *expected_files} - {*NO_RESULTS, *([] if name == "run" else [file])}
        if damage == "missing" and Path(file).name in MEASURES:
            # Filters that have chosen do not measure again, and nothing else reads their measures.
            compared.discard(file)
        is_same = all(after.get(path) == expected_files.get(path) for path in compared)
        if is_same and (done.out == expected.out or file in NO_RESULTS):
            return Tried(state, file, damage, name, "harmless", done.err)
        text = done.out + done.err
        if file == "run.jsonl" and name == "export model":
            # The card takes versions and times from it. It grows line by line, and no digest is kept of it.
            return Tried(state, file, damage, name, "another card", text)
        # A foreign manifest makes every other file look changed.
        is_foreign_manifest = file == "manifest.json" and "has changed since the run made it" in text
        is_said = name != "run" and (str(self.run / file) in text or is_foreign_manifest)
        return Tried(state, file, damage, name, "said" if is_said else "used in silence", text)

    def _undamaged(self, state: str, name: str) -> tuple[Done, dict[str, str]]:
        if (state, name) not in self.expected:
            self._restore(state)
            done = self._execute(name)
            assert done.code == 0, done.err
            self.expected[state, name] = done, hash_files(self.run)
        return self.expected[state, name]

    def _restore(self, state: str) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.states[state], self.run)

    def _execute(self, name: str) -> Done:
        words = [str(self.run) if word == "RUN" else word for word in COMMANDS[name]]
        done = command(*words, typed=CHAT_LINE)
        return done._replace(out=re.sub(r"\d+ s ago", "some time ago", done.out))


def _refusal(done: Done) -> str:
    """Return "detected" if the last line on standard error names the damage and there is no traceback."""
    lines = done.err.splitlines()
    if "Traceback" in done.err or not lines or not lines[-1].startswith("isheep: "):
        return "traceback"
    return "detected"


def table(tries: Iterable[Tried]) -> str:
    """Return a Markdown table: a row for each file, a column for each damage, and how many commands did what."""
    tries = list(tries)
    cells: dict[tuple[str, str], Counter[str]] = {}
    for tried in tries:
        cells.setdefault((tried.file, tried.damage), Counter())[tried.outcome] += 1
    lines = [f"| file | {' | '.join(DAMAGES)} |", "|---" * (len(DAMAGES) + 1) + "|"]
    for file in sorted({tried.file for tried in tries}):
        texts = (_cell(cells.get((file, damage), Counter())) for damage in DAMAGES)
        lines.append(f"| `{file}` | {' | '.join(texts)} |")
    total = Counter(tried.outcome for tried in tries)
    lines += ["", f"{len(tries)} commands on damaged runs: {', '.join(f'{n} {name}' for name, n in total.items())}"]
    return "\n".join(lines) + "\n"


def _cell(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "-"


def main() -> None:
    """Print the whole matrix, and end with 1 if a damage was used in silence or raised a traceback."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        tries = list(Matrix(folder, use_fake_models()).walk())
    print(table(tries))
    wrong = [tried for tried in tries if tried.is_wrong]
    for tried in wrong:
        print(f"{tried.state}: {tried.file}, {tried.damage}, {tried.command}: {tried.outcome}: {tried.text[-300:]}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()


def copy_of(matrix: Matrix, state: str, out: Path) -> Path:
    """Return a copy of a run in a state."""
    return Path(shutil.copytree(matrix.states[state], out))
