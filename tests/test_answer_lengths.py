"""A benchmark's answers that become much shorter are said in the table of a run and in its report."""

from pathlib import Path

import pytest

from isheep.benchmarks import Benchmark, EvalContext, Result, Score, register_benchmark
from isheep.records import Answer
from tests.helpers.command import isheep
from tests.helpers.damage import RECIPE, use_fake_models

PROMPTS = [f"Prompt {number}" for number in range(8)]


def register_lengths(lengths: dict[str, list[int]], templates: dict[str, str]) -> None:
    """Register a benchmark "lengths" whose answers have so many tokens for each model."""

    def measure(context: EvalContext) -> Result:
        answers = [
            Answer(prompt=prompt, output="word " * num_tokens, finish="stop", tokens=num_tokens)
            for prompt, num_tokens in zip(PROMPTS, lengths[context.model_name], strict=True)
        ]
        context.folder.write("answers.jsonl", Answer, answers)
        return Result(template=templates.get(context.model_name, "chat"), scores={"right": Score(items=[True] * 8)})

    register_benchmark(
        Benchmark(
            name="lengths",
            run=measure,
            prompts=lambda settings: PROMPTS,
            score_inputs=lambda settings: 1,
            items_from="package",
        )
    )


# Half as long on average, and shorter for all prompts but one.
SHORTER = {"base": [10] * 8, "iter-1": [9, 10] * 4, "iter-2": [5, 4, 5, 4, 5, 4, 3, 10]}
# As long as the others on average.
SAME = {"base": [10] * 8, "iter-1": [11, 9] * 4, "iter-2": [2, 18] * 4}


@pytest.mark.parametrize(
    ("lengths", "templates", "expected"),
    [
        (
            SHORTER,
            {},
            "lengths: iteration 2 answers the same prompts with 5.0 tokens on average, 50% fewer than the base (10.0; "
            "change -5.0 [-6.8,-3.2]). See whether its scores changed because of that",
        ),
        # The base was not asked in the chat template.
        (
            SHORTER,
            {"base": "plain"},
            "lengths: iteration 2 answers the same prompts with 5.0 tokens on average, 47% fewer than iteration 1 ",
        ),
        (SAME, {}, ""),
        # The base answers nothing.
        (SHORTER | {"base": [0] * 8}, {}, ""),
    ],
)
def test_answers_that_become_shorter_are_said(
    lengths: dict[str, list[int]],
    templates: dict[str, str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_fake_models(monkeypatch.setattr)
    register_lengths(lengths, templates)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("counting", "lengths"))
    done = isheep("run", tmp_path / "recipe.yaml", "machine.report=false", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    printed = " ".join(done.out.split())
    assert expected in printed and ("answers the same prompts" in printed) is bool(expected)
    assert isheep("report", tmp_path / "run").code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("answers the same prompts" in page) is bool(expected)
