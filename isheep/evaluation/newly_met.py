"""Whether what a benchmark's score of form gained is also right in content.

A score of form, such as IFEval's accuracies, says that an answer has the required form. It can rise while contents get
worse. Where a benchmark has a score of content for the same prompts (`Benchmark.form_and_content`), each run says how
many of the prompts that newly meet the form have the right content.
"""

from typing import NamedTuple

from isheep.benchmarks import Result, is_readable, load_benchmark
from isheep.evaluation.formatting import format_rounded
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import Estimate, estimate
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import model_words


class NewlyMet(NamedTuple):
    """The prompts whose form an iteration meets and the base does not: the shares with the right content, now and then.

    `among_met` are the shares of right content among all prompts whose form is met, of the base and of the iteration.
    """

    benchmark: str
    iteration: int
    form: str
    content: str
    content_now: Estimate
    content_before: Estimate
    among_met: tuple[Estimate, Estimate]

    def __str__(self) -> str:
        shares = (self.content_now, self.content_before, *reversed(self.among_met))
        now, before, met, base_met = (f"{format_rounded(share, share=True)} %" for share in shares)
        return (
            f"{self.benchmark}: of the {self.content_now.num_items} prompts whose form ({self.form}) "
            f"{model_words(self.iteration)} meets and the base does not, {now} have the right content ({self.content}; "
            f"base {before}). Of all prompts whose form is met: {met} (base {base_met})"
        )


def newly_met(recipe: Recipe, run: RunFolder, iteration: int) -> list[NewlyMet]:
    """Return what is known about the content of newly met prompts, for each benchmark that has both scores."""
    return [
        measured
        for settings in recipe.evaluation
        if is_readable(settings.name) and (measured := _newly_met(settings, run, iteration))
    ]


def _newly_met(settings: BenchmarkSettings, run: RunFolder, iteration: int) -> NewlyMet | None:
    benchmark = load_benchmark(settings.name)
    base, model = (load_result(run, number, settings.label) for number in (0, iteration))
    if not (benchmark.form_and_content and benchmark.locate_items and base and model):
        return None
    form, content = benchmark.form_and_content
    indices = benchmark.locate_items(settings)
    if not all(_has_items(result, name, indices[name]) for result in (base, model) for name in (form, content)):
        # The result of an earlier version of the benchmark.
        return None
    base_form, base_content, new_form, new_content = (
        _by_prompt(result, name, indices[name]) for result in (base, model) for name in (form, content)
    )
    new_prompts = [prompt for prompt in new_form if new_form[prompt] and not base_form[prompt]]
    if not new_prompts:
        return None
    among_met = tuple(
        estimate([content_of[prompt] for prompt in form_of if form_of[prompt]])
        for form_of, content_of in ((base_form, base_content), (new_form, new_content))
    )
    return NewlyMet(
        settings.label,
        iteration,
        form,
        content,
        estimate([new_content[prompt] for prompt in new_prompts]),
        estimate([base_content[prompt] for prompt in new_prompts]),
        (among_met[0], among_met[1]),
    )


def _has_items(result: Result, score: str, prompts: list[int]) -> bool:
    return score in result.scores and len(result.scores[score].items) == len(prompts)


def _by_prompt(result: Result, score: str, prompts: list[int]) -> dict[int, bool]:
    """Return a score's truth values by the index of the prompt."""
    return {prompt: bool(value) for prompt, value in zip(prompts, result.scores[score].items, strict=True)}
