"""Run folders for tests of the report: one whose texts try to break out of the page, and the parts of a page."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

from isheep.recipe.schema import Recipe
from isheep.records import Answer, AssessedPair, Drop, Grade, Pair, Rejected, Reply
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing
from tests.helpers.rows import make_pair

TAKEN = "document.title = 'taken'"
ATTACKS = (
    f"</script><script>{TAKEN}</script>",
    f'<img src=x onerror="{TAKEN}"> <svg onload="{TAKEN}">',
    "&lt;script&gt; &amp;amp; &#60;b&#62; a & b",
    "</td></table></div><b><table><tr",
    "\u202eright to left\u202c \u200f مرحبا",
    "nul \x00 bell \x07 escape \x1b[31m",
    "long " + "x" * 6000,
    "{{ 7 * 7 }} {% raw %} ${7 * 7} `",
    f"<!-- <script> {TAKEN} --> ]]> javascript:{TAKEN}",
)
NAME = "run <b>&amp; 'x'"
# Scores of the attacking pairs, by quality and following: each quadrant, and a rating that can't be read.
SCORES: tuple[tuple[float | None, float], ...] = ((9, 9), (9, 2), (3, 9), (1, 1), (None, 9))
NUM_ITEMS = 40


def attacking_run(folder: Path, **settings: Any) -> Path:
    """Make a finished run of two iterations whose texts, reasons, answers and notes hold markup; return its folder."""
    recipe = {"model": "/home/someone/models/tiny", "iterations": 2, "evaluation": ["lamb"], **settings}
    with open_run_for_writing(folder / NAME, Recipe.model_validate(recipe)) as run:
        write_scores(run, "base", num_right=10)
        for t in (1, 2):
            write_iteration(run, t)
            write_scores(run, f"iter-{t}", num_right=20 + 10 * t)
        run.event(note=f"{ATTACKS[0]} /home/someone/secret/file.yaml")
    return folder / NAME


def write_iteration(run: RunFolder, t: int) -> None:
    iteration = run / f"iter-{t}"
    pairs = [
        make_pair(n, f"Do {n}: {text}", f"Did in {t}: {text}", id=f"t{t}-{n}", input="" if n % 2 else text)
        for n, text in enumerate(ATTACKS)
    ]
    assessed = [rate(pair, *SCORES[n % len(SCORES)]) for n, pair in enumerate(pairs)]
    iteration.write("replies.jsonl", Reply, [Reply(id=f"t{t}-b", text=ATTACKS[0], finish="stop", tokens=50)])
    rejected = [Rejected(id=f"t{t}-r{n}", text=text, by="novelty", why=text) for n, text in enumerate(ATTACKS)]
    iteration.write("rejected.jsonl", Rejected, rejected)
    iteration.write("pairs.jsonl", Pair, pairs)
    iteration.write("assessed.jsonl", AssessedPair, assessed)
    drops = [Drop(row=pair.id, by="score", why=f"quality 1 < 8 {ATTACKS[1]}") for pair in assessed if is_low(pair)]
    iteration.write("dropped.jsonl", Drop, drops)
    losses = {"loss": [[1, 2.0], [2, 1.0]], "eval_loss": [[2, 1.5]], "rows": {"trained": 4, "held_out": 1}}
    iteration.json("adapter/training.json", lambda: losses)
    diversity = {"near_duplicates": 0.1 * t, "first_words": {ATTACKS[0]: 0.5}, "narrower": [f"answers {ATTACKS[1]}"]}
    iteration.json("diversity.json", lambda: diversity)


def rate(pair: Pair, quality: float | None, following: float) -> AssessedPair:
    grades = {
        name: Grade(score=score, reply=f"{score}||{ATTACKS[0]}")
        for name, score in (("quality", quality), ("following", following))
    }
    return AssessedPair(**pair.model_dump(), grades=grades)


def is_low(pair: AssessedPair) -> bool:
    return any(grade.score is None or grade.score < 8 for grade in pair.grades.values())


def write_scores(run: RunFolder, name: str, num_right: int) -> None:
    """Write a result on a benchmark of a user, with answers, of which the first ones are right; content gets worse."""
    items, content = ([n < number for n in range(NUM_ITEMS)] for number in (num_right, NUM_ITEMS - num_right))
    scores = {"right": {"items": items}, "content": {"items": content}}
    (run / name).json("eval/own.json", lambda: {"scores": scores, "notes": [f"A note {ATTACKS[0]}"]})
    answers = [
        Answer(prompt=f"Item {n} {ATTACKS[n % 9]}", output=f"{name} {ATTACKS[n % 9]}", finish="stop", tokens=3)
        for n in range(NUM_ITEMS)
    ]
    (run / name).write("eval/own/answers.jsonl", Answer, answers)


# --- parts of a page


def page_data(page: str) -> dict[str, Any]:
    """Return the data of a page's script: figures, colours, whether the run is under way."""
    data: dict[str, Any] = json.loads(element_text(page, "data"))
    return data


def page_rows(page: str) -> dict[str, Any]:
    """Return the rows of a page's browser of examples."""
    rows: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(element_text(page, "rows"))))
    return rows


def element_text(page: str, name: str) -> str:
    match = re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert match
    return match[1]
