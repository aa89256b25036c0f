"""The parts that a model card and a dataset card have in common: results, rows, limits, licence, recipe."""

import html
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from isheep import __version__
from isheep.diagnostics.diversity import read_diversity
from isheep.errors import UserError, one_line
from isheep.evaluation import formatting
from isheep.evaluation.counts import count_rows
from isheep.evaluation.score_rows import ModelScore, evaluated_benchmarks, load_scores
from isheep.recipe.loading import dump_settings
from isheep.recipe.packaged import PACKAGED_MODELS
from isheep.recipe.public import public_name, public_settings
from isheep.recipe.schema import Recipe
from isheep.rundir.events import read_events
from isheep.rundir.findings import read_findings
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir

UNKNOWN = "unknown"
"""The Hub's word for a licence that the user has not given."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
MARKDOWN = re.compile(r"[\\`*_\[\]|~#]")
SIGNIFICANT = 0.05
VERSIONS = ("torch", "transformers", "peft", "trl")


class CardOptions(NamedTuple):
    """What a card can't know by itself: the licence, and names on the Hub (of the base model, dataset, repository)."""

    license: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    repo: str | None = None


NO_OPTIONS = CardOptions()


class CardScore(NamedTuple):
    """A score of the exported model in a card, beside the base's. `before` is None if they can't be compared."""

    benchmark: str
    title: str
    name: str
    after: ModelScore
    before: ModelScore | None

    @property
    def is_lower(self) -> bool:
        return self.after.change is not None and self.after.change.difference < 0


class CardSubject(NamedTuple):
    """What a card is about: the model or the data of an iteration of a run."""

    recipe: Recipe
    run: RunFolder
    iteration: int
    options: CardOptions

    @property
    def name(self) -> str:
        """The name of the repository, or one from the run folder, whose path belongs to the machine."""
        if self.options.repo:
            return self.options.repo.rpartition("/")[2]
        return f"{self.run.path.resolve().name}-iteration-{self.iteration}"

    @property
    def base_on_hub(self) -> str | None:
        """The name of the base model on the Hub; None if it is a folder, or lamb, and the user gave no name."""
        model = self.recipe.model
        is_local = model in PACKAGED_MODELS or public_name(model) != model or not HUB_NAME.fullmatch(model)
        return self.options.base_model or (None if is_local else model)

    @property
    def base_title(self) -> str:
        """The base model as text: a link to the Hub, or the name of a folder."""
        if name := self.base_on_hub:
            return f"[{markdown_text(name)}](https://huggingface.co/{name})"
        if self.recipe.model in PACKAGED_MODELS:
            return f"{self.recipe.model} (the model that comes with isheep)"
        return f"{markdown_text(public_name(self.recipe.model))} (a local folder)"


def check_options(options: CardOptions) -> None:
    """Raise UserError if a name can't be one on the Hub, or a licence is not an identifier such as apache-2.0."""
    for option_name, name in (("--base-model", options.base_model), ("--dataset-name", options.dataset)):
        if name is not None and not HUB_NAME.fullmatch(name):
            raise UserError(f"{option_name} {name} is no name on the Hub: give OWNER/NAME")
    if options.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", options.license):
        raise UserError(f"--license {options.license!r} is no identifier of a licence: give one such as apache-2.0")


def markdown_text(text: object) -> str:
    """Return a text in one line, in which no character has a meaning in Markdown or HTML."""
    return MARKDOWN.sub(r"\\\g<0>", html.escape(one_line(text), quote=False))


def fenced(text: str, language: str = "") -> str:
    """Return a text as a code block that nothing in it can end."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


# --- sections


def card_scores(subject: CardSubject) -> list[CardScore]:
    """Return all scores of M^iteration beside the base's."""
    recipe, run, iteration, _ = subject
    scores = []
    for benchmark in evaluated_benchmarks(recipe, run, [0, iteration]):
        loaded = load_scores(run, [0, iteration], benchmark)
        for row in loaded.rows:
            base, model = row.models
            if model:
                scores.append(CardScore(benchmark, loaded.title, row.name, model, base if model.base else None))
    return scores


def results_section(scores: Sequence[CardScore], title: str) -> Iterator[str]:
    """Yield the scores of the model beside the base's, and what got worse."""
    yield f"## {title}"
    if not scores:
        yield "The model was not evaluated."
        return
    lines = ["| benchmark | score | base | model | difference | p |", "|---|---|---|---|---|---|"]
    for score in scores:
        change = score.after.change
        before = formatting.format_estimate(score.before.estimate, score.before.is_share) if score.before else "-"
        after = formatting.format_estimate(score.after.estimate, score.after.is_share)
        difference = formatting.format_rounded_change(change, score.after.is_share) if change else "-"
        p_value = formatting.format_p_value(change.p) if change else "-"
        cells = [markdown_text(score.title), markdown_text(score.name), before, after, difference, p_value]
        lines.append(f"| {' | '.join(cells)} |")
    yield "\n".join(lines)
    yield (
        "Shares are in % and means as they are, with 95% intervals in brackets; p is over the items of this one model, "
        "two-sided and uncorrected for the number of scores."
    )
    yield "### What got worse"
    lower = [score for score in scores if score.is_lower]
    if not lower:
        yield "No score is lower than the base's."
    else:
        yield "\n".join(map(_lower_line, lower))


def _lower_line(score: CardScore) -> str:
    change = score.after.change
    assert change
    verdict = "significantly" if change.p < SIGNIFICANT else "not significantly"
    difference = formatting.format_rounded_change(change, score.after.is_share)
    return f"- {markdown_text(score.title)}, {markdown_text(score.name)}: {difference} ({verdict})"


def rows_table(subject: CardSubject) -> str:
    """Return the rows of each iteration up to this one: generated, kept, with unreadable ratings, trained on."""
    run = subject.run
    lines = ["| iteration | generated | kept | unreadable ratings | trained on |", "|---|---|---|---|---|"]
    for t in range(1, subject.iteration + 1):
        if iteration_dir(run, t).path.exists():
            counts = count_rows(run, t)
            kept = formatting.format_part(counts.kept, counts.generated)
            cells = [str(t), *map(formatting.format_number, (counts.generated,))]
            cells += [kept, *map(formatting.format_number, (counts.unreadable, counts.trained))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def limits_section(subject: CardSubject) -> Iterator[str]:
    """Yield what the figures and the data do not say."""
    recipe, run, iteration, _ = subject
    yield "## Limits"
    limits = [
        "The instructions, answers and ratings are a language model's. No person has checked them: they may be wrong, "
        "biased or unsafe.",
        f"The figures are those of one run with one random seed ({recipe.seed}). They say nothing about another seed.",
        "Whether the data overlap with the prompts of benchmarks is not part of this card (`isheep contamination`).",
    ]
    if recipe.judge_note:
        limits.append(f"The pairs are {markdown_text(recipe.judge_note)}.")
    elif recipe.assessment:
        limits.append("The model rated its own answers. Such ratings are often too high (`isheep judge-calibration`).")
    diversity = read_diversity(run, iteration) or {}
    limits += [f"The data of iteration {iteration} are narrower: {line}." for line in diversity.get("narrower", [])]
    limits += [f"{markdown_text(text)}." for (t, _), text in read_findings(run).items() if t <= iteration]
    yield "\n".join(f"- {line}" for line in limits)


def license_section(subject: CardSubject, published: str) -> Iterator[str]:
    """Yield the licence of what is published that the user gave, or that it is unknown."""
    yield "## Licence"
    rule = f"The licence of the base model, {subject.base_title}, may restrict what is derived from it."
    if subject.options.license:
        yield f"The licence of {published} is `{subject.options.license}`, as its publisher says. {rule}"
    else:
        yield f"The licence of {published} is unknown: its publisher gave none. {rule}"


def recipe_section(subject: CardSubject) -> Iterator[str]:
    """Yield the versions, the command that makes the run again, and the recipe without paths of the machine."""
    recipe, run, iteration, _ = subject
    yield "## Make it again"
    starts = [event["started"] for event in read_events(run.root) if isinstance(event.get("started"), dict)]
    started: dict[str, str] = starts[0] if starts else {}
    versions = [f"{name} {started[name]}" for name in VERSIONS if name in started]
    made_with = f"isheep {started.get('isheep', __version__)}{' with ' if versions else ''}{', '.join(versions)}"
    command = ["isheep", "run", "recipe.yaml", "--out", f"runs/{run.path.resolve().name}"]
    last = f"; this is iteration {iteration}" if iteration < recipe.iterations else ""
    yield (
        f"The run was made with {made_with}, random seed {recipe.seed}{last}. Save the recipe below as recipe.yaml and "
        "run the command. On the same kind of CPU with the same number of threads it makes the same files, byte for "
        "byte; other machines round differently."
    )
    yield fenced(shlex.join(command), "bash")
    yield fenced(dump_settings(public_settings(recipe)), "yaml")
    yield "Files and folders of the machine are named by their last component: put your own in their place."
