"""Checks of a recipe's own keys: settings that are each valid by themselves and can't work together."""

import math
import os
from collections.abc import Sequence

from isheep import extensions, prompts
from isheep.errors import Conflicts, quote_path
from isheep.files.yaml_files import dump_yaml
from isheep.filters.base import FilterSettings, RecipeFacts
from isheep.filters.custom import CustomFilter
from isheep.prompts import forms
from isheep.prompts.jinja_syntax import find_syntax_error
from isheep.recipe.evaluation import StopRule
from isheep.recipe.packaged import PACKAGED_SEEDS
from isheep.recipe.schema import SECTIONS_PER_ITERATION, Assessment, Recipe, TopicSettings

SYNTHESIS_PROMPT = {"meta": [], "block": ["Instruction:", "{instruction}"], "open": ["Instruction:"]}
"""What each text of a synthesis prompt must contain, because replies are read as its blocks."""


def conflicts(recipe: Recipe, iteration: int = 1) -> Conflicts:
    """Yield the keys of the recipe that contradict each other, in the recipe as an iteration has it (Recipe.at).

    Raises UserError if a prompt file that the recipe names can't be read, or has another form than is needed.
    """
    yield from _iterations(recipe)
    yield from _chat_template(recipe)
    yield from _synthesis(recipe, iteration)
    yield from _language(recipe)
    yield from _synthesis_prompt(recipe)
    yield from _response(recipe)
    yield from _assessment(recipe)
    yield from _filters(recipe)
    yield from _training(recipe, iteration)
    yield from _stop(recipe)
    yield from _extensions(recipe)


def _iterations(recipe: Recipe) -> Conflicts:
    sections = ", ".join(SECTIONS_PER_ITERATION)
    for number, changes in recipe.iteration.items():
        if number > recipe.iterations:
            yield ("iteration", str(number)), f"this recipe has {recipe.iterations} iterations"
        for key in changes:
            if key not in SECTIONS_PER_ITERATION:
                yield ("iteration", str(number), key), f"all iterations share it; one may differ in {sections}"
        if isinstance(training := changes.get("training"), dict) and training.get("steps_of"):
            yield (
                ("iteration", str(number), "training", "steps_of"),
                "it is for the recipe as a whole: set it in training",
            )


def _chat_template(recipe: Recipe) -> Conflicts:
    """Check that a template of the user's own is Jinja; what it renders is checked with the model's tokenizer."""
    if prompts.is_jinja_text(recipe.chat_template) and (problem := find_syntax_error(recipe.chat_template)):
        yield ("chat_template",), f"the template is not Jinja: {problem}"


def _synthesis(recipe: Recipe, iteration: int) -> Conflicts:
    synthesis = recipe.synthesis
    if synthesis.tasks_of and synthesis.tasks_of >= iteration:
        why = f"iteration {iteration} can't have the tasks of iteration {synthesis.tasks_of}"
        yield ("synthesis", "tasks_of"), why
    if synthesis.topics:
        num_kinds = len(forms.load_topic_guide(synthesis.topics.file).kinds)
        if synthesis.examples > num_kinds:
            why = f"synthesis.examples is {synthesis.examples}, and the guide has {num_kinds} kinds"
            yield ("synthesis", "topics"), why
    if synthesis.generated > synthesis.examples:
        yield ("synthesis", "generated"), f"{synthesis.generated} is more than synthesis.examples, {synthesis.examples}"
    if synthesis.novelty_chunk and synthesis.novelty is None:
        why = f"it is {synthesis.novelty_chunk}, and synthesis.novelty is null: set novelty, or novelty_chunk: null"
        yield ("synthesis", "novelty_chunk"), why


def _language(recipe: Recipe) -> Conflicts:
    """Check that no English text is packaged for what a recipe in another language leaves open."""
    language = recipe.language
    if language in ("en", "any"):
        return
    if recipe.seed_tasks in ("isheep", "lamb"):
        own = f"isheep-{language}" if f"isheep-{language}" in PACKAGED_SEEDS else "a file of your own"
        yield ("seed_tasks",), f"{recipe.seed_tasks} has English tasks, and the language is {language}: take {own}"
    if not recipe.synthesis.inputs and recipe.synthesis.prompt is None:
        why = f"the packaged prompt without inputs is English, and the language is {language}: give synthesis.prompt"
        yield ("synthesis", "inputs"), why
    if recipe.synthesis.topics and recipe.synthesis.topics.file == TopicSettings().file:
        why = f"the packaged guide is English, and the language is {language}: give a topics.file of your own"
        yield ("synthesis", "topics"), why


def _synthesis_prompt(recipe: Recipe) -> Conflicts:
    """Check a prompt of the user's own: replies are read as its numbered blocks."""
    source = recipe.synthesis.prompt
    if source is None:
        return
    texts = prompts.load_prompts(source)
    for name, parts in SYNTHESIS_PROMPT.items():
        prompt = prompts.describe_source(source)
        if name not in texts:
            yield ("synthesis", "prompt"), f"{prompt} has no {name!r}; it needs {', '.join(SYNTHESIS_PROMPT)}"
        elif missing := [part for part in parts if part not in texts[name]]:
            yield ("synthesis", "prompt"), f"{name!r} in {prompt} has no {' and no '.join(missing)}"
    if not texts.get("open", "Instruction:").endswith("Instruction:"):
        yield ("synthesis", "prompt"), "'open' must end with 'Instruction:', which the model continues"


def _response(recipe: Recipe) -> Conflicts:
    prompt = recipe.response.prompt
    is_name = isinstance(prompt, str) and prompt not in forms.BUILTIN_FORMS
    if is_name and not os.path.isfile(prompts.find_prompt_file(str(prompt))):
        names = ", ".join(forms.BUILTIN_FORMS)
        choices = f"{names}, a packaged prompt (such as principles), or a .yaml file of yours"
        why = f"{quote_path(prompt)} is none of {choices}"
        yield ("response", "prompt"), why
    else:
        # Raises UserError if the prompt has another form.
        forms.load_answer_form(prompt)
    if prompt == "instances" and recipe.synthesis.inputs:
        why = "instances writes the inputs, and synthesis does too: set synthesis.inputs: false"
        yield ("response", "prompt"), why
    if recipe.response.turns > 1 and not forms.load_answer_form(prompt).chat:
        why = f"{recipe.response.turns} turns need prompt: chat, and this recipe has {_prompt_name(prompt)}"
        yield ("response", "turns"), why
    if prompt != "instances" and recipe.response.examples:
        yield ("response", "examples"), f"it is for prompt: instances, and this recipe has {_prompt_name(prompt)}"


def _assessment(recipe: Recipe) -> Conflicts:
    settings = recipe.assessment
    if not settings:
        return
    templates = prompts.load_prompts(settings.prompt)
    for criterion in settings.criteria:
        if criterion in templates:
            yield from _rating_prompt(criterion, templates[criterion], settings.prompt)
        else:
            why = f"{_prompt_name(settings.prompt)} has no criterion {criterion!r}, only {', '.join(templates)}"
            yield ("assessment", "criteria"), why
    if duplicate := _first_duplicate(settings.criteria):
        yield ("assessment", "criteria"), f"{duplicate!r} is listed twice"
    yield from _rating_judge(settings)
    if settings.opening is not None and not settings.reads_options:
        why = "it is for read: expected or constrained, and this recipe reads what the judge generates"
        yield ("assessment", "opening"), why
    if not settings.explain and not settings.may_constrain:
        yield ("assessment", "explain"), f"it is for read: constrained, and this recipe has read: {settings.read}"


def _rating_judge(settings: Assessment) -> Conflicts:
    """Yield what a judge that is no model of the run can't do: an endpoint answers questions with texts."""
    judge = settings.judge
    if isinstance(judge, str):
        return
    if judge.local:
        if judge.parameters:
            why = "they are for a judge at an endpoint: assessment.sampling says how one on this machine draws"
            yield ("assessment", "judge", "parameters"), why
        return
    if settings.read != "generate":
        why = "a judge at an endpoint gives texts and no probabilities: take read: generate, or a local judge"
        yield ("assessment", "read"), why
    if settings.on_unreadable == "constrain":
        yield ("assessment", "on_unreadable"), "a judge at an endpoint can't be constrained: take continue or stop"
    if settings.chat:
        yield ("assessment", "chat"), "a judge at an endpoint has a chat template of its own: set it to false"


def _rating_prompt(criterion: str, template: str, source: prompts.PromptSource) -> Conflicts:
    for field in ("{instruction}", "{output}"):
        if field not in template:
            why = f"{criterion!r} in {_prompt_name(source)} has no {field}"
            if "{output_data}" in template:
                why += "; {output_data}, as the paper spells it, is not filled"
            yield ("assessment", "prompt"), why


def _prompt_name(source: prompts.PromptSource) -> str:
    return f"prompt {quote_path(source)}" if isinstance(source, str) else "the prompt in the recipe"


def _filters(recipe: Recipe) -> Conflicts:
    criteria = recipe.assessment.criteria if recipe.assessment else None
    writes_instances = recipe.response.prompt == "instances"
    facts = RecipeFacts(
        recipe.synthesis.tasks,
        criteria,
        has_benchmark=bool(recipe.evaluation or recipe.stop_rule),
        writes_instances=writes_instances,
        turns=recipe.response.turns,
    )
    for index, settings in enumerate(recipe.filters):
        remaining = [*recipe.filters[:index], *recipe.filters[index + 1 :]]
        for path, why in settings.conflicts(facts._replace(other_filters=_filters_as_yaml(remaining))):
            yield ("filters", index, *path), why


def _filters_as_yaml(filters: Sequence[FilterSettings]) -> str:
    """Return filters as a recipe lists them, in one line and without their defaults."""
    entries = [{"kind": entry.kind, **entry.model_dump(mode="json", exclude_defaults=True)} for entry in filters]
    return dump_yaml(entries, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def _training(recipe: Recipe, iteration: int) -> Conflicts:
    training, max_pairs = recipe.training, recipe.max_pairs
    if training.steps_of and recipe.iterations > 1:
        why = f"it is for a recipe of one iteration, and this one has {recipe.iterations}: set iterations to 1"
        yield ("training", "steps_of"), why
    if training.steps_of and training.max_steps:
        yield (
            ("training", "steps_of"),
            f"the number of steps is training.max_steps, {training.max_steps}: give one of them",
        )
    if training.num_rows and training.max_rows and training.num_rows > training.max_rows:
        yield ("training", "num_rows"), f"{training.num_rows} is more than training.max_rows, {training.max_rows}"
    max_kept = min([max_pairs, *(entry.max_kept for entry in recipe.filters if entry.max_kept is not None)])
    has_other_tasks = iteration > 1 and (training.data == "all" or recipe.synthesis.tasks_of)
    if not has_other_tasks and max_kept < (training.num_rows or 2):
        num_rows = training.num_rows or "two"
        why = f"{num_rows} rows are more than iteration {iteration} can have: {recipe.synthesis.tasks} tasks"
        if recipe.response.turns > 1:
            why += f" of {recipe.response.turns} turns"
        if max_kept < max_pairs:
            why += f", of which the filters keep {max_kept} at most"
        yield ("training", "num_rows"), why
    if training.keep == "best" and not training.held_out:
        yield ("training", "keep"), "best is found on held-out rows, and training.held_out is 0: set keep to last"


def _stop(recipe: Recipe) -> Conflicts:
    """Check that `stop` has something to stop by: a benchmark, or signs of degenerate learning."""
    stop = recipe.stop
    if stop is None or stop.benchmark:
        return
    for key, default in StopRule._field_defaults.items():
        if getattr(stop, key) != default:
            yield ("stop", key), "it is for the gains on a benchmark, and stop.benchmark is null"
    if not stop.on:
        yield ("stop",), "it has nothing to stop by: give stop.benchmark or stop.on, or set stop to null"


def _extensions(recipe: Recipe) -> Conflicts:
    """Yield the code of the user's own that the recipe names, unless the user has allowed it."""
    if extensions.is_code_allowed():
        return
    for index, settings in enumerate(recipe.filters):
        if isinstance(settings, CustomFilter):
            yield ("filters", index, "function"), extensions.refusal(settings.function, "filter")
    for index, benchmark in enumerate(recipe.evaluation):
        if extensions.parse_reference(benchmark.name):
            yield ("evaluation", index), extensions.refusal(benchmark.name, "benchmark")
    if recipe.stop_rule and extensions.parse_reference(recipe.stop_rule.benchmark):
        yield ("stop", "benchmark"), extensions.refusal(recipe.stop_rule.benchmark, "benchmark")
    if extensions.parse_reference(recipe.machine.engine):
        yield ("machine", "engine"), extensions.refusal(recipe.machine.engine, "engine")


def _first_duplicate(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)
