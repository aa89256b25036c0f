"""The run folder: a name without `.part` is complete. Append, fsync, rename; one writer; events on the side."""

import contextlib
import fcntl
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml

from isheep import prompts
from isheep.batching import chunks, ordered_map
from isheep.errors import UserError
from isheep.recipe import loading
from isheep.recipe.schema import Recipe
from isheep.records import Record
from isheep.rundir import atomic, jsonl
from isheep.rundir.atomic import commit_file, commit_folder, copy_atomically, write_json, write_text
from isheep.rundir.jsonl import JsonlRows
from isheep.rundir.progress import console, progress
from isheep.seeds import load_seed_tasks

R = TypeVar("R", bound=Record)
Batches = Callable[[Sequence[R]], Iterator[Sequence[R]]]
"""A function from the existing rows (whole batches) of a file to its missing batches, in order."""

AT_ONCE = 1000  # computed rows between two fsyncs
PACKAGES = ("isheep", "torch", "transformers", "peft", "trl", "datasets", "numpy", "rapidfuzz")


@dataclass(frozen=True)
class RunFolder:
    """A folder of a run, such as iter-1. `root` is the run folder, where the events go.

    `reuse_from` is a sweep's: where another of its runs has a file ("iter-1/pairs.jsonl") that this run would only make
    again, None where none has.
    """

    path: Path
    root: Path
    reuse_from: Callable[[str], Path | None] = lambda label: None

    def __truediv__(self, name: str) -> "RunFolder":
        return replace(self, path=self.path / name)

    def has(self, name: str) -> bool:
        """Whether a file or folder is there, complete."""
        return (self.path / name).exists()

    def ensure(self, name: str) -> bool:
        """Whether a file or folder need not be made: it is there, or it is copied from another run of a sweep."""
        if not self.has(name) and (found := self.reuse_from(self._relative_path(name))):
            if (kept := found.with_suffix("")) != found and kept.is_dir():  # eval/NAME, beside eval/NAME.json
                copy_atomically(kept, (self.path / name).with_suffix(""))
            copy_atomically(found, self.path / name)
            self.event(file=self._relative_path(name), shared_from=os.path.relpath(found, self.root))
            source = os.path.relpath(found, self.root.parent)
            console.print(f"{self._relative_path(name)}: shared from {source}", markup=False)
        return self.has(name)

    def read(self, name: str, kind: type[R]) -> JsonlRows[R]:
        """The rows of a finished file. Raises UserError, naming the line, where one is not a row of this kind."""
        return jsonl.read_rows(self.path / name, kind)

    def map_batches(
        self,
        name: str,
        row_type: type[R],
        make_batch: Callable[[int], Sequence[R]],
        num_rows: int,
        batch_size: int,
        max_in_flight: int = 1,
        check: Callable[[Sequence[R]], None] = lambda existing: None,
    ) -> JsonlRows[R]:
        """Return the rows of `name`; if the file is not complete, make its missing batches in order first.

        `make_batch(start)` returns the rows from index `start` to `start + batch_size` (fewer at the end). Its result
        must depend on `start` alone, because a killed run resumes after the whole batches that exist. Up to
        `max_in_flight` calls run at a time, in threads. `check` gets the rows that exist before any is made, and raises
        UserError if they do not belong to this call. Raises UserError if a finished file has not `num_rows` rows.
        """

        def missing_batches(existing: Sequence[R]) -> Iterator[Sequence[R]]:
            check(existing)
            return ordered_map(make_batch, range(len(existing), num_rows, batch_size), max_in_flight)

        rows = self.records(name, row_type, missing_batches, batch_size, num_rows)
        check(rows)
        return rows

    def records(
        self, name: str, kind: type[R], batches: Batches[R], size: int, total: int | None = None, asked: bool = True
    ) -> JsonlRows[R]:
        """The rows of `name`, made first where it is not complete: each batch is appended to NAME.part, then renamed.

        A NAME.part keeps its whole batches of `size` rows, what follows is made again. So a run that was killed
        anywhere gives the same file as one that was not. `total` is how many rows there must be, where that is known:
        a finished file with another number raises UserError. `asked` says that a model wrote the rows, so that their
        tokens count among the events.
        """
        if self.ensure(name):
            rows = self.read(name, kind)
            if total is not None and len(rows) != total:
                raise UserError(
                    f"{self.path / name}: {len(rows)} rows found, {total} expected; "
                    "put it back as it was, or delete the file to have it made again"
                )
            return rows
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)  # as in standard/nq.jsonl
        part = self.path / f"{name}.part"
        done, length = jsonl.whole_batches(part, kind, size)
        started, before, tokens = time.monotonic(), len(done), 0
        rows = JsonlRows(self.path / name, kind, done.starts[:])
        with part.open("ab") as file, progress(self._relative_path(name), total, before) as advance:
            file.truncate(length)
            for batch in batches(done):
                for row in batch:
                    line = row.model_dump_json().encode() + b"\n"
                    file.write(line)
                    rows.starts.append(length)
                    length += len(line)
                    tokens += getattr(row, "tokens", 0)
                file.flush()
                os.fsync(file.fileno())
                advance(len(batch))
            os.fsync(file.fileno())
        commit_file(part)
        cost = {"tokens": tokens} if asked and "tokens" in kind.__annotations__ else {}
        self._report_file(name, started, rows=len(rows), made=len(rows) - before, **cost)
        return rows

    def write(self, name: str, kind: type[R], rows: Sequence[R]) -> JsonlRows[R]:
        """`records` for rows that are computed at once and without a model."""
        return self.records(name, kind, lambda done: chunks(rows, AT_ONCE, len(done)), size=1, asked=False)

    def write_json_list(self, name: str, rows: Iterable[Any]) -> None:
        """Values as a JSON list, one after the other, written where the file is not there."""
        if not self.ensure(name):
            started = time.monotonic()
            atomic.write_json_list(self.path / name, rows)
            self._report_file(name, started)

    def json(self, name: str, make: Callable[[], Any]) -> Any:
        """The content of a JSON file (`name` may hold a folder: eval/lamb.json), made first where it is not there."""
        path = self.path / name
        if not self.ensure(name):
            started = time.monotonic()
            write_json(path, make())
            self._report_file(name, started)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); delete the file to have it made again") from None

    def artifact(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder of files, made first where it is not complete. `make` writes into NAME.part, a folder that may
        hold the checkpoints of a try that was killed; it is synced and renamed when `make` returns."""
        if not self.ensure(name):
            started = time.monotonic()
            part = self.path / f"{name}.part"
            part.mkdir(parents=True, exist_ok=True)
            make(part)
            commit_folder(part)
            self._report_file(name, started)
        return self.path / name

    def event(self, **fields: Any) -> None:
        """One line in run.jsonl: what happened, when, at what cost. Never read to decide anything."""
        with (self.root / "run.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **fields}) + "\n")

    def notify(self, text: str) -> None:
        """A line that people should see, kept among the events too."""
        self.event(note=text)
        console.print(text, markup=False, soft_wrap=True)

    def _relative_path(self, name: str) -> str:
        return str((self.path / name).relative_to(self.root))

    def _report_file(self, name: str, started: float, **fields: Any) -> None:
        seconds = round(time.monotonic() - started, 3)
        self.event(file=self._relative_path(name), seconds=seconds, **fields, peak_memory=_peak_memory())
        made = f"{fields['rows']} rows, " if "rows" in fields else ""
        rate = f", {fields['made'] / seconds:.1f} rows/s" if fields.get("made") and seconds > 1 else ""
        console.print(f"{self._relative_path(name)}: {made}{seconds:.1f} s{rate}", markup=False)


# --- the run as a whole


@contextlib.contextmanager
def open_run_for_writing(path: Path, recipe: Recipe) -> Iterator[RunFolder]:
    """The run folder of a recipe, begun or taken up again, with its lock held.

    Raises UserError where another process writes it, and as `check` does.
    """
    check_run_dir(path, recipe)
    path.mkdir(parents=True, exist_ok=True)
    with lock_run(path) as folder:
        check_run_dir(path, recipe)  # another process may have begun a run between
        _keep(path / "recipe.yaml", loading.dump_recipe(recipe))
        if own := _own_prompts(recipe):
            _keep(path / "prompts.yaml", yaml.safe_dump(own, allow_unicode=True))
        if not folder.has("seeds.jsonl"):
            seeds = load_seed_tasks(recipe.seeds)
            write_text(path / "seeds.jsonl", "".join(seed.model_dump_json() + "\n" for seed in seeds))
        _end_line(path / "run.jsonl")
        folder.event(started=_versions(), machine=recipe.machine.model_dump())
        yield folder


def check_run_dir(path: Path, recipe: Recipe) -> None:
    """Raises UserError where a run of this recipe can't begin, or go on, in the folder `path`. Writes nothing.

    That is where the folder holds another recipe's run (the keys that differ are named; `machine` may differ and
    `iterations` may grow) or other prompts or something else, and where the seed tasks can't be read or are too
    few.
    """
    _refuse_foreign(path)
    if not (path / "seeds.jsonl").exists():
        examples = max(one.synthesis.examples for one in recipe.variants)
        load_seed_tasks(recipe.seeds, examples, max(one.response.shown for one in recipe.variants))
    if (path / "recipe.yaml").exists():
        _agree(path / "recipe.yaml", recipe)
    if (path / "prompts.yaml").exists():
        _agree_prompts(path, recipe)


@contextlib.contextmanager
def lock_run(path: Path) -> Iterator[RunFolder]:
    """A run folder that this process alone writes. Raises UserError where another does."""
    with (path / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"run folder {path} is in use by another process; wait for it or give another --out"
            ) from None
        yield RunFolder(path, path)


def open_run(path: Path) -> tuple[Recipe, RunFolder]:
    """A run folder to look at: no lock, nothing written. Raises UserError where it is not one."""
    if not (path / "recipe.yaml").is_file():
        raise UserError(f"{path} is not a run folder: it has no recipe.yaml; give the --out of an isheep run")
    return loading.load_saved_recipe(path / "recipe.yaml"), RunFolder(path, path)


def read_events(root: Path) -> list[dict[str, Any]]:
    """The lines of run.jsonl; a torn one is passed over."""
    found = []
    if (root / "run.jsonl").exists():
        for line in (root / "run.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give a folder as --out")
    begun = {"lock", "recipe.yaml.part"}
    if path.is_dir() and not (path / "recipe.yaml").exists() and {inner.name for inner in path.iterdir()} - begun:
        raise UserError(f"{path} holds files and no recipe.yaml: it is not a run folder; give another --out")


def _agree(path: Path, recipe: Recipe) -> None:
    """See that the recipe that the run was begun with says the same."""
    old = loading.load_saved_recipe(path)
    now = recipe.model_copy(update={"machine": old.machine, "iterations": max(recipe.iterations, old.iterations)})
    grown = old.model_copy(update={"iterations": now.iterations})
    differ = loading.differences(grown, now) or loading.differences(now, recipe)
    differ = [line for line in differ if not line.startswith("machine.")]
    if differ:
        raise UserError(
            f"run folder {path.parent} was made with another recipe ({'; '.join(differ)}); "
            "give another --out, or the same settings (only machine may change, and iterations grow)"
        )


def _own_prompts(recipe: Recipe) -> dict[str, str]:
    """The prompt files of the user's own, by their names in the recipe: they are kept with the run, which goes on with
    the same ones only."""
    names = [name for one in recipe.variants for name in one.own_prompts()]
    return {name: prompts.find_prompt_file(name).read_text(encoding="utf-8") for name in names}


def _agree_prompts(path: Path, recipe: Recipe) -> None:
    kept = saved_prompts(path)
    for name, text in _own_prompts(recipe).items():
        if kept.get(name) != text:
            raise UserError(
                f"prompt file {name} is not what run folder {path} was made with (prompts.yaml in it); "
                "put it back, or give another --out"
            )


def saved_prompts(run: Path) -> dict[str, str]:
    """The texts of the prompt files of the user's own that a run was begun with, by their names in the recipe."""
    path = run / "prompts.yaml"
    found: dict[str, str] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _keep(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _end_line(path: Path) -> None:
    """A line that a kill tore gets its end, so that the next one is whole."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


# --- what people see, and what it cost


def _peak_memory() -> dict[str, int]:
    """Bytes: this process's largest resident set so far, and CUDA's largest allocation where torch is loaded."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak
