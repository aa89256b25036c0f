"""Measure the report of a large run: how long it takes to write, how large it is, and how fast its page works.

    python -m benchmarks.report [--rows 50000] [--iterations 4] [--out FOLDER]

The run is made up: its pairs, ratings, reasons and scores are drawn at random, and no model is loaded. Writing is
measured in CPU seconds, of the first report of a process, with the time to load libraries. With Chromium, its driver
and selenium the page is opened from the disk; its times are taken in the page, and "filter" is the longest of a
search, a choice, a range and a sorting. The last column is the time or size divided by its limit.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import best_time, make_parser, run_script
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Grade, Pair, Rejected, Reply
from isheep.report import write_report
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing

SETTINGS = {"model": "made-up", "filters": [{"kind": "score", "at_least": 8}], "evaluation": ["lamb"]}
# Of the made-up texts: words, and how many an instruction and an answer have.
NUM_WORDS, INSTRUCTION_WORDS, ANSWER_WORDS = 5000, (6, 25), (10, 120)
NUM_ITEMS = 1000
# Generated rows that never became a pair, beside each pair.
REJECTED_SHARE = 0.2
# Seconds that the page may take, and milliseconds between two looks at it.
PAGE_SECONDS, LOOK_SECONDS = 60, 0.02
# The longest of a few operations in the page, in milliseconds.
FILTERS = """
const browser = window.isheepReport.browsers.generated, form = document.querySelector("form[data-kind=generated]");
const times = [], timed = (work) => { const start = performance.now(); work(); times.push(performance.now() - start); };
const set = (input, value, event) => { input.value = value; input.dispatchEvent(new Event(event)); };
const search = form.querySelector("[type=search]"), select = form.querySelector("select");
for (const words of ["ba", "baba ce", ""]) timed(() => set(search, words, "input"));
timed(() => set(select, select.options[1].value, "change")); timed(() => set(select, "", "change"));
timed(() => set(form.querySelector("[type=number]"), "7", "input"));
timed(() => document.querySelector("#table-generated thead th:nth-child(4)").click());
return Math.max(...times);
"""


class Measurement(NamedTuple):
    """A quantity with its limit."""

    name: str
    value: float
    limit: float
    unit: str


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="generated rows of all iterations together")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--out", type=Path, help="a new folder that keeps the made-up run")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = options.out or Path(folder) / "run"
        make_run(path, options.rows, options.iterations)
        cpu_seconds, page = best_time(lambda: write_report(path))
        size = page.stat().st_size / 1e6
        measurements = [
            Measurement("write the report", cpu_seconds, 20, "s"),
            Measurement("size of the page", size, 10, "MB"),
        ]
        measurements += page_measurements(page)
    print(f"{options.rows} made-up rows in {options.iterations} iterations")
    for name, value, limit, unit in measurements:
        print(f"{name:<20} {value:8.2f} {unit:<3} limit {limit:g} {unit:<3} ratio {value / limit:.2f}")


# --- a made-up run


def make_run(path: Path, num_rows: int, num_iterations: int) -> None:
    """Make a run folder with about `num_rows` generated rows, as a finished run has it."""
    draw = random.Random(0)
    recipe = Recipe.model_validate({**SETTINGS, "iterations": num_iterations})
    words = [made_up_word(draw) for _ in range(NUM_WORDS)]
    num_pairs = int(num_rows / num_iterations / (1 + REJECTED_SHARE))
    with open_run_for_writing(path, recipe) as run:
        write_scores(run, "base", 0.3, draw)
        for t in range(1, num_iterations + 1):
            folder = run / f"iter-{t}"
            pairs = [made_up_pair(draw, words, t, index) for index in range(num_pairs)]
            folder.write("replies.jsonl", Reply, [Reply(id=f"t{t}-0", text="", finish="stop", tokens=100 * num_pairs)])
            rejected = [
                Rejected(
                    id=f"t{t}-r{index}", text=text(draw, words, ANSWER_WORDS), by="novelty", why="near a known task"
                )
                for index in range(int(REJECTED_SHARE * num_pairs))
            ]
            folder.write("rejected.jsonl", Rejected, rejected)
            folder.write("pairs.jsonl", Pair, [Pair(**pair.model_dump(exclude={"grades"})) for pair in pairs])
            folder.write("assessed.jsonl", AssessedPair, pairs)
            folder.write("dropped.jsonl", Drop, list(drops_of(pairs)))
            training = {
                "rows": {"trained": num_pairs // 3},
                "loss": [[n, 2 / n] for n in range(1, 40)],
                "eval_loss": [],
            }
            folder.json("adapter/training.json", partial(dict, training))
            write_scores(run, f"iter-{t}", 0.3 + 0.1 * t, draw)


def made_up_word(draw: random.Random) -> str:
    return "".join(draw.choice("bcdfgklmnprst") + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))


def text(draw: random.Random, words: list[str], length: tuple[int, int]) -> str:
    return " ".join(draw.choices(words, k=draw.randint(*length))).capitalize() + "."


def made_up_pair(draw: random.Random, words: list[str], t: int, index: int) -> AssessedPair:
    grades = {
        name: Grade(score=score, reply=f"{score}||{text(draw, words, (3, 12))}")
        for name in ("quality", "following")
        for score in [draw.randint(1, 10)]
    }
    instruction, output = text(draw, words, INSTRUCTION_WORDS), text(draw, words, ANSWER_WORDS)
    fields: dict[str, Any] = {"id": f"t{t}-{index:06d}", "instruction": instruction, "output": output}
    return AssessedPair(**fields, finish="stop", tokens=len(output) // 4, seed=1, grades=grades)


def drops_of(pairs: list[AssessedPair]) -> Iterator[Drop]:
    for pair in pairs:
        low = next((name for name, grade in pair.grades.items() if (grade.score or 0) < 8), None)
        if low:
            yield Drop(row=pair.id, by="score", why=f"{low} {pair.grades[low].score:g} < 8")


def write_scores(run: RunFolder, name: str, right: float, draw: random.Random) -> None:
    """Write a result on lamb's suite with such a share of right answers."""
    items = [draw.random() < right for _ in range(NUM_ITEMS)]
    (run / name).json("eval/lamb.json", lambda: {"template": "made up", "scores": {"right": {"items": items}}})


# --- in a browser


def page_measurements(page: Path) -> Iterator[Measurement]:
    """Yield how long the page takes to open and to filter; nothing without a browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from selenium import webdriver
    except ImportError:
        chromium = None
    if not chromium or not shutil.which("chromedriver"):
        print("no browser, so the page is not opened: it needs chromium, chromedriver and selenium")
        return
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        start = time.perf_counter()
        browser.get(page.absolute().as_uri())
        while not browser.execute_script("return window.isheepReport?.isReady"):
            if time.perf_counter() - start > PAGE_SECONDS:
                raise SystemExit(f"the page is not ready after {PAGE_SECONDS} s")
            time.sleep(LOOK_SECONDS)
        seconds = browser.execute_script("return window.isheepReport.readyMilliseconds") / 1000
        yield Measurement("open the page", seconds, 2, "s")
        yield Measurement("filter", browser.execute_script(FILTERS), 200, "ms")
    finally:
        browser.quit()


if __name__ == "__main__":
    run_script(main)
