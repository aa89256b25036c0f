"""The agreement filter: a pair is kept if the model gives its answer again."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from isheep.engines.function import SeededFunctionEngine
from isheep.filters import Filter
from isheep.filters.agreement import agreement, mean_agreement
from isheep.filters.base import FilterContext
from isheep.records import PairSamples
from isheep.stages.filters import find_drops
from isheep.stages.measure import draw_samples
from tests.helpers.command import isheep, refused
from tests.helpers.rows import make_pair
from tests.helpers.stages import stage_context, write_killed_stage

SETTINGS = ("synthesis.tasks=12", "iterations=1", "evaluation=[]", "assessment=null", "machine.report=false")


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ("Tokyo", "The capital of Japan is TOKYO.", 1.0),
        ("Rome", "The capital of Japan is Tokyo.", 0.0),
        ("red, blue, green", "green, blue, red", 1 / 3),
        ("The sum is 7.", "The sum is 8.", 0.75),
        ("東京", "首都は東京です", 1.0),
        ("!", "!", 1.0),
        ("!", "?", 0.0),
        ("", "Tokyo", 0.0),
    ],
)
def test_agreement_of_two_answers(first: str, second: str, share: float) -> None:
    assert agreement(first, second) == agreement(second, first) == pytest.approx(share)


def test_a_pair_is_dropped_below_the_limit_and_only_its_own_samples_count() -> None:
    pairs = [make_pair(number, output="Tokyo") for number in range(3)]
    outputs = (("Tokyo", "Rome"), ("Rome", "Rome"), ("It is Tokyo.", "tokyo"))
    samples = [PairSamples(id=pair.id, outputs=row, tokens=2) for pair, row in zip(pairs, outputs, strict=True)]
    kind: TypeAdapter[Filter] = TypeAdapter(Filter)
    entry = kind.validate_python({"kind": "agreement", "samples": 2, "at_least": 0.6})
    drops = find_drops(pairs, [entry], False, [], FilterContext(samples=samples))
    assert {drop.row: drop.why for drop in drops} == {
        pairs[0].id: "agreement 0.50 < 0.6 with 2 further answers",
        pairs[1].id: "agreement 0.00 < 0.6 with 2 further answers",
    }
    assert mean_agreement("Tokyo", ()) == 0


def test_further_answers_are_drawn_anew_and_a_resume_draws_the_missing_ones(tmp_path: Path) -> None:
    pairs = [make_pair(number, f"Name thing {number}") for number in range(5)]
    engine = SeededFunctionEngine(lambda prompt, seed: f"{prompt} {seed}")
    whole = stage_context(tmp_path / "whole", engine, response={"batch_size": 4})
    rows = draw_samples(whole, pairs, 2)
    assert [row.id for row in rows] == [pair.id for pair in pairs]
    assert all(len({*row.outputs}) == 2 and row.tokens for row in rows)
    assert all(f"Name thing {number}" in rows[number].outputs[0] for number in range(5))
    resumed = stage_context(tmp_path / "resumed", engine, response={"batch_size": 4})
    write_killed_stage(resumed, "samples.jsonl", rows[:3])
    assert draw_samples(resumed, pairs, 2) == rows


def test_a_run_keeps_what_lamb_answers_twice(tmp_path: Path) -> None:
    words = ("run", "lamb", *SETTINGS, "machine.threads=1", "filters=[{kind: agreement, samples: 2}]")
    done = isheep(*words, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "run/iter-1/samples.jsonl").read_text().splitlines()]
    dropped = (tmp_path / "run/iter-1/dropped.jsonl").read_text().splitlines()
    assert len(rows) == 12 and all(len(row["outputs"]) == 2 for row in rows)
    assert 0 < len([line for line in dropped if '"by":"agreement"' in line]) < 12
    assert isheep("verify", tmp_path / "run").code == 0


def test_a_recipe_whose_answers_have_no_prompt_is_refused(tmp_path: Path) -> None:
    words = ("response.prompt=instances", "synthesis.inputs=false", "filters=[{kind: agreement}]")
    line = refused("run", "lamb", *words, "--out", tmp_path / "run")
    assert "filters" in line and "response.prompt: instances" in line and not (tmp_path / "run").exists()
