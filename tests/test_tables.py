"""The tables of a run: the short one of `isheep status`, the full one, and the same numbers as JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from isheep.evaluation.score_rows import load_scores
from isheep.evaluation.statistics import compare, estimate
from isheep.evaluation.tables import short_score_rows
from isheep.rundir.run import open_run
from tests.helpers.command import isheep
from tests.helpers.runs import is_narrow, make_run, write_result

SCORES = ("right", "content", "stopped", "prompt strict", "prompt loose")
HEADLINE = ["right", "content", "prompt strict = loose"]


def items(num_right: int, total: int = 200) -> list[bool]:
    return [index < num_right for index in range(total)]


def lamb_result(iteration: int, **changes: list[bool]) -> dict[str, Any]:
    """A result of lamb: prompt loose equals prompt strict, content falls, everything else rises."""
    values = {name: items(100 + 10 * iteration) for name in SCORES}
    values["content"] = items(180 - 12 * iteration)
    values |= {name.replace("_", " "): value for name, value in changes.items()}
    return {"template": "tokenizer", "scores": {name: {"items": value} for name, value in values.items()}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", iterations=3, evaluation=["lamb"])
    for iteration in range(4):
        write_result(run, f"iter-{iteration}" if iteration else "base", "lamb", lamb_result(iteration))
    return run


def line_of(text: str, start: str) -> str:
    [line] = [line for line in text.splitlines() if re.match(rf"{start} +\d", line)]
    return line


def test_the_short_table_has_headline_scores_and_their_change(run: Path) -> None:
    done = isheep("status", run)
    assert done.code == 0 and is_narrow(done.out)
    assert re.search(r"(?m)^lamb *\n  chat template( +tokenizer){4} *$", done.out)
    scores = [line for line in done.out.splitlines() if line.count("[") == 5]
    assert [re.split(r" +\d", line)[0] for line in scores] == HEADLINE
    change = compare(items(100), items(130))
    assert line_of(done.out, "right").split()[-2:] == ["+15", f"[{100 * change.low:+.0f},{100 * change.high:+.0f}]"]
    score = estimate(items(130))
    assert f"65 [{100 * score.low:.0f},{100 * score.high:.0f}]" in line_of(done.out, "right")
    assert not [
        line for line in done.out.splitlines() if line.startswith("  p over items")
    ] and "isheep status --full" in " ".join(done.out.split())


def test_a_significant_fall_is_yellow(run: Path) -> None:
    rows = {row.label: row for row in short_score_rows(load_scores(open_run(run)[1], [0, 1, 2, 3], "lamb"))}
    fall = rows["content"].cells[-1]
    assert isinstance(fall, Text) and fall.style == "yellow" and fall.plain.startswith("-18 [-")
    assert isinstance(rows["right"].cells[-1], str)


def test_scores_are_merged_only_if_equal_in_every_model(run: Path) -> None:
    write_result(run, "iter-2", "lamb", lamb_result(2, prompt_loose=items(121)))
    text = isheep("status", run).out
    assert "= loose" not in text and line_of(text, "prompt strict") and "prompt loose" not in text


def test_a_benchmark_without_headline_shows_five_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", iterations=1)
    for folder in ("base", "iter-1"):
        scores = {f"score {index}": {"items": items(90 + index)} for index in range(8)}
        write_result(run, folder, "custom", {"template": "qwen", "scores": scores})
    text = isheep("status", run).out
    assert "score 4" in text and "score 5" not in text and "score 7" in isheep("status", run, "--full").out


def test_scores_of_other_items_have_no_change(run: Path) -> None:
    write_result(run, "base", "lamb", {**lamb_result(0), "prompt_fingerprint": "a"})
    write_result(run, "iter-3", "lamb", {**lamb_result(3), "prompt_fingerprint": "b"})
    assert line_of(isheep("status", run).out, "right").count("[") == 4


def test_an_iteration_without_scores_has_no_column_of_scores(tmp_path: Path) -> None:
    """The change is that of the last iteration with scores, and stands beside it."""
    run = make_run(tmp_path / "run", iterations=2, evaluation=["lamb"])
    for iteration in range(2):
        write_result(run, f"iter-{iteration}" if iteration else "base", "lamb", lamb_result(iteration))
    out = isheep("status", run).out
    assert re.search(r"(?m)^ +base +iteration 1 +change *$", out)
    assert re.search(r"(?m)^ +iteration 1 +iteration 2 *$", out) and out.count("iteration 2") == 1


def test_the_full_table_has_all_scores_and_tests(run: Path) -> None:
    text = isheep("status", run, "--full").out
    assert all(line_of(text, name) for name in SCORES) and is_narrow(text)
    change = compare(items(100), items(130))
    line = text.splitlines()[text.splitlines().index(line_of(text, "right")) + 1]
    assert line.startswith("  p over items") and line.endswith(f"({100 * change.detectable:.1f})")
    assert "in brackets: minimum detectable difference at 80% power" in " ".join(text.split())


@pytest.mark.parametrize("option", [(), ("--full",)])
def test_means_unreadable_items_notes_and_many_iterations(tmp_path: Path, option: tuple[str, ...]) -> None:
    run = make_run(tmp_path / "run", iterations=5)
    for t in range(6):
        values = [None if n == t else 5 + (n + t) % 4 for n in range(20)]
        result = {"template": "[plain]" if t == 0 else "llama3", "scores": {"turn 1": {"items": values}}}
        result["notes"] = ["not checked"]
        write_result(run, f"iter-{t}" if t else "base", "mt_bench", result)
    text = isheep("status", run, *option).out
    # The base is in every table, and "unreadable" also names a row of counts.
    num_tables = text.count("[plain]")
    assert num_tables >= 2 and text.count("llama3") == 5 and text.count("  unreadable") == num_tables
    assert "6.58 [6.0,7.1]" in text and "iteration 5" in text and text.count("mt_bench: not checked") == 1
    assert is_narrow("\n".join(line for line in text.splitlines() if str(tmp_path) not in line))


@pytest.mark.parametrize(
    ("name", "counts"), [("standard/commonsense_qa", [3, 3]), ("benchmark_with_a_very_long_name", [2, 2, 1, 1])]
)
def test_no_line_of_the_table_is_broken(tmp_path: Path, name: str, counts: list[int]) -> None:
    """A p value and its detectable difference are on one line, also beside a long name of a benchmark."""
    run = make_run(tmp_path / "run", iterations=3)
    for t in range(4):
        values = {"stopped": [True] * 199 + [t == 1], "right": [(n + t) % 3 == 0 for n in range(50)]}
        scores = {score: {"items": value} for score, value in values.items()}
        write_result(run, f"iter-{t}" if t else "base", name, {"template": "qwen", "scores": scores})
    text = isheep("status", run, "--full").out
    assert is_narrow(text) and "100 [98,100]" in text
    rows = [line for line in text.splitlines() if line.startswith("  p over items")]
    assert [line.count(" (") for line in rows] == counts
    assert not any(line.lstrip().startswith(("(", "[")) for line in text.splitlines())


# --- JSON


def test_status_as_json(run: Path) -> None:
    values = json.loads(isheep("status", run, "--json").out)
    lamb = values["benchmarks"]["lamb"]
    assert lamb["headline"] == ["right", "content", "prompt strict"]
    last, change = lamb["scores"]["content"][-1], compare(items(180), items(144))
    assert (last["iteration"], last["value"], last["num_items"], last["kind"]) == (3, 0.72, 200, "share")
    assert last["change"]["difference"] == change.difference and last["change"]["p"] == change.p
    assert "change" not in lamb["scores"]["content"][0]
    assert values["num_trained_iterations"] == 3 and values["is_finished"]
    assert [iteration["generated"] for iteration in values["iterations"]] == [None] * 3


def test_compare_as_json(run: Path) -> None:
    values = json.loads(isheep("compare", run, "--iteration", "1", "--iteration", "3", "--json").out)
    [content] = [score for score in values["scores"] if score["score"] == "content"]
    result = compare(items(168), items(144))
    assert content["b_minus_a"]["difference"] == result.difference and content["b_minus_a"]["p"] == result.p
    assert content["b_minus_a"]["p_holm"] > result.p and values["seeds"] is None
    assert content["a"]["value"] == 0.84 and content["b"]["low"] == estimate(items(144)).low
