"""Rated pairs in every quadrant of the scores, one with text that attacks a terminal."""

from pathlib import Path

from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Grade, Pair, Rejected, Task
from isheep.rundir.run import open_run_for_writing
from isheep.stages.filters import find_drops

ATTACK = "[bold red]x[/bold red] [/nope] \x1b[2J\x1b]0;title\x07 \u202egnorw\r \ud83d\udc11 :smile: end".encode(
    "utf-16", "surrogatepass"
).decode("utf-16")
SCORES: dict[str, tuple[float | None, float | None]] = {
    "t1-00000": (9, 9), "t1-00001": (3, 8.5), "t1-00002": (8, 2), "t1-00003": (1, 1), "t1-00004": (None, 9),
}  # fmt: skip


def assessed(name: str) -> AssessedPair:
    quality, following = SCORES[name]
    grades = {
        "quality": Grade(score=quality, reply=f"{quality}||{ATTACK}"),
        "following": Grade(score=following, reply=f"{following}||fine"),
    }
    return AssessedPair(
        id=name, instruction=f"Do {name}", output=ATTACK, finish="length", tokens=3, seed=1, grades=grades
    )


def make_graded_run(path: Path) -> Path:
    """Make a run folder that is not finished, with these pairs rated and filtered in iteration 1; return its path."""
    recipe = Recipe.model_validate({"model": "fake", "iterations": 2})
    with open_run_for_writing(path, recipe) as root:
        rows = [assessed(name) for name in SCORES]
        first, second = root / "iter-1", root / "iter-2"
        first.write("tasks.jsonl", Task, [Task(id=row.id, instruction=row.instruction) for row in rows])
        first.write("rejected.jsonl", Rejected, [Rejected(id="t1-b0001-00.2", text=ATTACK, by="parse", why="cut off")])
        first.write("pairs.jsonl", Pair, [Pair(**row.model_dump(exclude={"grades"})) for row in rows])
        first.write("assessed.jsonl", AssessedPair, rows)
        # As a run of an earlier version, which kept texts with control characters: they must be escaped all the same.
        harmless_rows = [row.model_copy(update={"output": "fine"}) for row in rows]
        first.write("dropped.jsonl", Drop, find_drops(harmless_rows, recipe.filters, True, ["<|end|>"]))
        root.notify("iteration 1: all 5 prompts of synthesis.budget are used")
        (first.path / "adapter.part" / "checkpoint-3").mkdir(parents=True)
        second.write("tasks.jsonl", Task, [Task(id="t2-00000", instruction="Go on")])
        (second.path / "pairs.jsonl.part").write_bytes(b'{"whole": 1}\n{"to')
    return path
