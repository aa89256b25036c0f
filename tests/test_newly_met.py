"""What a score of form gained is compared with a score of content, in the tables of a run and in its report."""

from pathlib import Path

import pytest

from isheep.benchmarks import Benchmark, EvalContext, Result, Score, register_benchmark
from tests.helpers.command import isheep
from tests.helpers.damage import RECIPE, use_fake_models

# Of four prompts the base meets the form of the first one; iteration 2 meets all, and the content of two new ones.
FORM = {"base": [True, False, False, False], "iter-1": [True, True, False, False], "iter-2": [True] * 4}
CONTENT = {"base": [True, True, True, True], "iter-1": [True, False, True, True], "iter-2": [False, False, True, True]}


def measure(context: EvalContext) -> Result:
    """Return the scores of the model in whose folder the benchmark runs."""
    model = context.folder.path.parent.parent.name
    return Result(scores={"form": Score(items=FORM[model]), "content": Score(items=CONTENT[model])})


def test_the_content_of_newly_met_prompts_is_a_figure_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_models(monkeypatch.setattr)
    register_benchmark(
        Benchmark(
            name="shapes",
            run=measure,
            prompts=lambda settings: list("abcd"),
            score_inputs=lambda settings: 1,
            items_from="package",
            locate_items=lambda settings: {"form": [0, 1, 2, 3], "content": [0, 1, 2, 3]},
            form_and_content=("form", "content"),
        )
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("counting", "shapes"))
    done = isheep("run", tmp_path / "recipe.yaml", "machine.report=false", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    expected = (
        "shapes: of the 3 prompts whose form (form) iteration 2 meets and the base does not, 67 [21,94] % have the "
        "right content (content; base 100 [44,100] %). Of all prompts whose form is met: 50 [15,85] % (base 100 "
        "[21,100] %)"
    )
    assert expected in " ".join(done.out.split())
    assert isheep("report", tmp_path / "run").code == 0
    assert expected.split(",")[0] in (tmp_path / "run" / "report.html").read_text()
