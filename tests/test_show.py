"""isheep show and isheep status on a run folder made by hand: what they select, and what they escape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isheep.recipe.schema import Recipe
from isheep.records import Pair, Reply
from isheep.rundir.manifest import accept_files
from isheep.rundir.run import open_run_for_writing
from tests.helpers.command import ROOT, Done, isheep, refused
from tests.helpers.graded_run import ATTACK, SCORES


def ids(done: Done) -> list[str]:
    assert done.code == 0, done.err
    return [line.split()[0] for line in done.out.splitlines() if line.startswith("t1-")]


def test_status_of_a_run_that_is_not_done(graded: Path) -> None:
    output = isheep("status", graded).out
    assert "1 (20%)" in output and "unreadable ratings" in output
    assert "in progress: iter-1/adapter, saved at step 3, last written" in output
    assert "in progress: iter-2/pairs.jsonl, 1 of 1 rows, last written" in output
    assert output.count("all 5 prompts of synthesis.budget are used") == 1
    assert f"0 of 2 iterations are trained; to continue: isheep run {graded}" in output


def test_status_says_where_time_is_of_the_last_try(graded: Path) -> None:
    with (graded / "run.jsonl").open("a") as log:
        for file, num_made in (
            ("iter-1/pairs.jsonl", 2),
            ("iter-1/eval/lamb.json", None),
            ("base/eval/lamb.json", None),
        ):
            counts = {"rows": 5, "made": num_made} if num_made else {}
            log.write(json.dumps({"file": file, "seconds": 12.34, **counts}) + "\n")
        log.write('3\nnull\n{"file": "torn')
    assert "12.3" not in isheep("status", graded).out
    output = isheep("status", graded, "--full").out
    assert "> 12.3" in output and "only its last try is counted" in output and "evaluation" in output


def test_status_counts_the_seconds_of_an_evaluation_once(graded: Path) -> None:
    """A benchmark's result takes as long as all that it is made of; what an earlier try made comes on top."""
    with (graded / "run.jsonl").open("a") as log:
        for time, file, seconds in (
            (100, "base/eval/mt_bench/turn-1.jsonl", 40), (300, "base/eval/mt_bench/turn-2.jsonl", 20),
            (310, "base/eval/mt_bench.json", 30), (400, "base/eval/paper/piqa/losses.jsonl", 3),
            (401, "base/eval/paper/piqa.json", 4), (500, "base/eval/ifeval/answers.jsonl", 1),
        ):  # fmt: skip
            log.write(json.dumps({"time": time, "file": file, "seconds": seconds}) + "\n")
    # 40 of a try that was stopped; 30; 4; and 1 of one in progress.
    assert "75.0" in isheep("status", graded, "--full").out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "01234"),
        ("--quality low --following high", "1"),
        ("--quality high --following low", "2"),
        ("--quality high --following high", "0"),
        ("--quality low --following low", "3"),
        ("--quality unreadable", "4"),
        ("--following high", "014"),
        ("--following high --at 8.6", "04"),
        ("--quality low --at 1", ""),
        ("--dropped --quality low", "13"),
        ("--rows 2", "01"),
        ("--rows 2 --page 3", "4"),
    ],
)
def test_show_finds_the_quadrants(graded: Path, words: str, expected: str) -> None:
    assert ids(isheep("show", graded, "1", *words.split())) == [f"t1-0000{n}" for n in expected]


def test_show_says_how_to_see_the_next_page(graded: Path) -> None:
    last_lines = [isheep("show", graded, "1", "--rows", "2", "--page", n).out.splitlines()[-1] for n in "123"]
    assert last_lines[:2] == ["next: --page 2", "next: --page 3"] and not last_lines[2].startswith("next")


def test_show_dropped_says_who_and_why(graded: Path) -> None:
    done = isheep("show", graded, "1", "--dropped")
    assert ids(done) == [*list(SCORES)[1:], "t1-b0001-00.2"]
    assert done.out.startswith("5 rows, page 1 of 1; dropped by score: 4; rejected by parse: 1\n")
    assert "t1-00001  dropped by score: quality 3 < 8\n" in done.out
    assert "t1-00004  dropped by score: quality unreadable\n" in done.out
    assert "t1-b0001-00.2  rejected by parse: cut off\n" in done.out


def test_show_dropped_says_so_if_every_pair_was_kept(graded: Path) -> None:
    (graded / "iter-1" / "dropped.jsonl").write_text("")
    accept_files(graded, ["iter-1/dropped.jsonl"])
    done = isheep("show", graded, "1", "--dropped")
    assert done.out.startswith("no pair was dropped\n1 row, page 1 of 1; rejected by parse: 1\n")


def test_show_as_json(graded: Path) -> None:
    page = json.loads(isheep("show", graded, "1", "--dropped", "--rows", "2", "--page", "3", "--json").out)
    assert (page["num_rows"], page["page"], page["num_pages"]) == (5, 3, 3)
    [row] = page["rows"]
    assert row["id"] == "t1-b0001-00.2" and row["outcome"] == "rejected" and row["why"] == "cut off"
    rows = json.loads(isheep("show", graded, "1", "--json").out)["rows"]
    assert [row["outcome"] for row in rows] == ["kept", *["dropped"] * 4] and rows[1]["why"] == "quality 3 < 8"
    assert rows[0]["output"] == ATTACK and rows[4]["grades"]["quality"]["score"] is None
    assert "there is no page 2" in refused("show", graded, "1", "--json", "--page", "2")


def test_show_dropped_shows_the_replies_of_a_synthesis_that_failed(graded: Path) -> None:
    """None of the replies held a task: the file is not complete, and the last line of it is torn."""
    replies = [
        Reply(id="t2-b0000-00", text=" I can't\x1b[2J", finish="stop", tokens=3),
        Reply(id="t2-b0000-01", text="", finish="stop", tokens=1),
        Reply(
            id="t2-b0000-02",
            text=" Draw a large house for me\nInput: <noinput>\n###\n7. Instr",
            finish="length",
            tokens=9,
        ),
    ]
    for name in ("tasks.jsonl", "pairs.jsonl.part"):
        (graded / "iter-2" / name).unlink()
    content = "".join(f"{reply.model_dump_json()}\n" for reply in replies)
    (graded / "iter-2" / "replies.jsonl.part").write_text(f"{content}{{")
    done = isheep("show", graded, "2", "--dropped")
    assert "I can't\\x1b[2J" in done.out and "t2-b0000-01  rejected by parse: empty\n" in done.out
    assert "Draw a large house" in done.out and "rejected by rules: 2; rejected by parse: 2" in done.out
    assert "has no answers of iteration 2 yet" in refused("show", graded, "2")


def test_long_output_goes_through_a_pager_on_a_terminal(graded: Path, tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {tmp_path}/seen\n")
    pager.chmod(0o755)
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    command = [
        sys.executable,
        "-c",
        code,
        sys.executable,
        "-c",
        "from isheep.cli import main; main()",
        "show",
        graded,
        "1",
    ]
    environment = {**os.environ, "PAGER": str(pager), "LINES": "10", "TERM": "xterm", "PYTHONPATH": str(ROOT)}

    def show(*words: str) -> str:
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0
        return done.stdout

    assert "t1-00000" not in show() and "t1-00000" in (tmp_path / "seen").read_text()
    (tmp_path / "seen").unlink()
    # A short page, and --no-pager.
    assert "t1-00000" in show("--rows", "1") and "t1-00003" in show("--no-pager")
    assert not (tmp_path / "seen").exists()


def test_model_text_cannot_touch_the_terminal(graded: Path) -> None:
    for words in ((), ("--dropped",)):
        output = isheep("show", graded, "1", *words).out
        assert r"[bold red]x[/bold red] [/nope] \x1b[2J\x1b]0;title\x07 \u202egnorw\r 🐑 :smile: end" in output
        assert all(char.isprintable() or char in "\n" for char in output)


def test_show_says_what_was_cut_off_and_kept(graded: Path) -> None:
    output = isheep("show", graded, "1", "--quality", "high", "--following", "high").out
    assert "t1-00000  kept\n  instruction: Do t1-00000\n  output (cut off): [bold" in output
    assert "  following 9: fine\n" in output


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("show", "2"), "has no answers of iteration 2 yet: see isheep status"),
        (("show", "0"), "has no answers of iteration 0 yet"),
        (("show", "1", "--page", "4"), "there is no page 4: 5 rows make 1 page"),
        (("chat", "--iteration", "1"), "has no model of iteration 1: give 0 (the base)"),
    ],
)
def test_what_is_not_there_is_said(graded: Path, words: tuple[str, ...], wrong: str) -> None:
    assert wrong in refused(words[0], graded, *words[1:])


def test_show_without_ratings_or_threshold(tmp_path: Path) -> None:
    fields = {"id": "t1-00000", "instruction": "Do it", "output": "", "finish": "stop", "tokens": 1, "seed": 1}
    for name, more in (("unrated", {"assessment": None, "filters": []}), ("unfiltered", {"filters": []})):
        with open_run_for_writing(tmp_path / name, Recipe.model_validate({"model": "fake", **more})) as run:
            (run / "iter-1").write("pairs.jsonl", Pair, [Pair.model_validate(fields)])
    assert "t1-00000  not filtered yet\n" in isheep("show", tmp_path / "unrated", "1").out
    words = ("1", "--quality", "low")
    assert "quality is not rated in this run: its criteria are none" in refused("show", tmp_path / "unrated", *words)
    assert "no filter of this run has a threshold for quality" in refused("show", tmp_path / "unfiltered", *words)


def test_a_closed_pipe_is_no_error(graded: Path) -> None:
    command = f"{sys.executable} -c 'from isheep.cli import main; main()' show {graded} 1 | true"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
