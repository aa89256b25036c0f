"""`isheep contamination`: rows that touch lamb's exam, and scores on its clean and touched part, counted by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import Result, Score, lamb
from isheep.diagnostics.contamination import locate_items
from isheep.filters.base import FilterContext
from isheep.filters.contamination import ContaminationFilter
from isheep.lamb.pages import task_text
from isheep.lamb.suite import suite
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Pair
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing
from isheep.stages.filters import find_drops
from tests.helpers.backends import add_benchmark
from tests.helpers.command import isheep, refused
from tests.helpers.hashes import hash_files
from tests.helpers.rows import make_pair

EXAM = suite()
TOUCHED = [5, 8, 9]  # exam quests that iteration 1 wrote; iteration 2 wrote 3 more


def generated_pairs(t: int) -> list[Pair]:
    indices = TOUCHED if t == 1 else [20, 21, 22]
    rows = [make_pair(n, EXAM[n].instruction, input=EXAM[n].input, id=f"t{t}-{n}") for n in indices]
    output = f"So: {task_text(EXAM[30])} Right, and nothing else at all."
    answer = make_pair(30, "Say it", output, id=f"t{t}-answer")
    return [*rows, answer, make_pair(40, "Tell me about [bold]nothing[/bold] \x1b[2J", id=f"t{t}-clean")]


def result(right: Sequence[int]) -> dict[str, Any]:
    """lamb's result of a model that gets these quests right, all constraints of theirs included."""
    is_right = [n in right for n in range(len(EXAM))]
    is_met = [n in right for n, quest in enumerate(EXAM) for _ in quest.constraints]
    items = {"right": is_right, "instruction strict": is_met, "odd": [True, False]}
    return {"scores": {name: {"items": values} for name, values in items.items()}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {})


def make_run(path: Path, changes: dict[str, Any]) -> Path:
    rule = {"kind": "contamination", "ngram": None, "rouge": None}
    settings = {"model": "lamb", "iterations": 3, "assessment": None, "filters": [rule], "evaluation": ["lamb"]}
    with open_run_for_writing(path, Recipe.model_validate({**settings, **changes})) as root:
        for t, right in ((0, [5]), (1, [5, 8, 0, 1]), (2, [20, 21, 22])):
            folder = root / (f"iter-{t}" if t else "base")
            if t:
                folder.write("pairs.jsonl", Pair, generated_pairs(t))
                folder.write("dropped.jsonl", Drop, [Drop(row="t1-8", by="contamination", why="")] if t == 1 else [])
            folder.json("eval/lamb.json", lambda right=right: result(right))
    return path


def cells(text: str, *start: str) -> list[str]:
    """Return the words after `start` in the line that starts with it."""
    [line] = [line.split() for line in text.splitlines() if line.split()[: len(start)] == list(start)]
    return line[len(start) :]


def test_counts_and_scores_of_both_parts(run: Path) -> None:
    before, done = hash_files(run), isheep("contamination", run)
    assert done.code == 0 and hash_files(run) == before
    counts, scores = done.out.split("scores on the clean")
    assert "overlap with one of its 1000 prompts" in counts
    # Pairs, touched, exact, kept, prompts.
    assert cells(counts, "1") == ["5", "3", "3", "2", "3"]
    assert cells(counts, "2") == ["5", "3", "3", "3", "3"]
    assert cells(scores, "right", "1") == ["997", "0", "0.201", "[0,1]", "3", "33.3", "66.7", "[21,94]"]
    assert cells(scores, "right", "2") == ["997", "0.1", "0", "[0,0]", "3", "0", "100", "[44,100]"]
    num_constraints = sum(len(EXAM[n].constraints) for n in TOUCHED)
    assert cells(scores, "instruction", "strict", "1")[4:5] == [str(num_constraints)]
    assert "not split because the prompts of their items are not known: odd" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_model_that_learned_from_all_data_is_touched_by_all_of_them(tmp_path: Path) -> None:
    done = isheep("contamination", make_run(tmp_path / "run", {"training": {"data": "all"}}))
    assert cells(done.out.split("scores on the clean")[1], "right", "2")[3:4] == ["[0,0]"]
    assert cells(done.out.split("scores on the clean")[1], "right", "2")[4:] == ["6", "16.7", "50", "[19,81]"]


def test_options_override_the_rule_of_the_recipe_and_rows_are_shown(run: Path) -> None:
    done = isheep("contamination", run, "--ngram", "8", "--rows")
    assert cells(done.out.split("scores on the clean")[0], "1")[:4] == ["5", "4", "3", "1"]
    assert "t1-8 (dropped)  a benchmark's prompt" in done.out and "t1-5  a benchmark's prompt" in done.out
    assert "t1-answer  " in done.out and "words of a benchmark's prompt: " in done.out
    assert "t1-clean" not in done.out and "\x1b" not in done.out
    loose = isheep("contamination", run, "--rouge", "0.7", "--ngram", "0")
    assert "ROUGE-L>0.7" in loose.out and "words" not in loose.out.split("scores on")[0]


def test_the_default_rule_if_the_recipe_has_none(tmp_path: Path) -> None:
    done = isheep("contamination", make_run(tmp_path / "run", {"filters": []}), "lamb")
    assert "13 words" in done.out and "ROUGE-L>0.7" in done.out


def test_errors_are_one_line(run: Path, tmp_path: Path) -> None:
    assert "found 'lamp'" in refused("contamination", run, "lamp")
    assert "--data x is for one benchmark" in refused("contamination", run, "--data", "x")
    assert "not a run folder" in refused("contamination", tmp_path)
    with open_run_for_writing(tmp_path / "new", Recipe.model_validate({"model": "lamb", "evaluation": ["lamb"]})):
        pass
    assert "has no pairs yet" in refused("contamination", tmp_path / "new")


def test_lamb_locates_its_items() -> None:
    """The indices have as many entries as the items that an examination gives."""
    from isheep.records import Completion

    items = lamb.score_answers(EXAM, [Completion("It is.", 3, "stop") for _ in EXAM])
    settings = BenchmarkSettings(name="lamb")
    indices, prompts = lamb.locate_items(settings), lamb.prompts(settings)
    assert {score: len(row) for score, row in items.items()} == {score: len(row) for score, row in indices.items()}
    strict = [EXAM[index].followed("It is.") for index in dict.fromkeys(indices["instruction strict"])]
    assert [met for row in strict for met in row] == items["instruction strict"]
    assert all(prompts[n] == task_text(EXAM[n]) for n in indices["prompt strict"])


def test_items_by_order_and_by_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that says nothing itself: an item for each prompt, or a cluster for each."""
    add_benchmark(monkeypatch, replace(lamb.BENCHMARK, name="own", locate_items=None))
    scores = {
        "each": Score(items=[True, False, True]),
        "some": Score(items=[1.0, 0.0, 1.0, 1.0], clusters=["x", "x", "q7", "b"]),
        "unknown": Score(items=[1.0] * 5, clusters=["x", "x", "b", "b", "b"]),
    }
    located = locate_items(BenchmarkSettings(name="own"), Result(scores=scores), 3)
    assert located == {"each": [0, 1, 2], "some": [0, 0, 1, 2]}


def test_after_the_filter_no_kept_pair_is_touched(run: Path) -> None:
    rule = ContaminationFilter(kind="contamination")
    pairs = RunFolder(run / "iter-1", run).read("pairs.jsonl", Pair)
    dropped = find_drops(pairs, [rule], False, [], FilterContext(lamb.prompts(BenchmarkSettings(name="lamb"))))
    (run / "manifest.json").unlink()
    (run / "iter-1" / "dropped.jsonl").write_text("".join(drop.model_dump_json() + "\n" for drop in dropped))
    text = isheep("contamination", run, "--ngram", "13", "--rouge", "0.7").out
    counts = cells(text.split("scores on")[0], "1")
    num_touched = sum(drop.by == "contamination" for drop in dropped)
    assert int(counts[1]) == num_touched >= 4 and counts[-2] == "0"
