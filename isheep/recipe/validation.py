"""What single keys of a recipe can't show: settings that are each right by themselves and can't work together."""

from isheep import extensions, prompts
from isheep.errors import Conflicts
from isheep.filters.base import RecipeFacts
from isheep.filters.custom import CustomFilter
from isheep.prompts import forms
from isheep.recipe.schema import (
    SECTIONS_PER_ITERATION,
    Assessment,
    Recipe,
)

SYNTHESIS_PROMPT = {"meta": [], "block": ["Instruction:", "{instruction}"], "open": ["Instruction:"]}
"""What each text of a synthesis prompt must contain, because replies are read as its blocks."""


def conflicts(recipe: Recipe, t: int = 1) -> Conflicts:
    """All of them, in what the recipe is in iteration t (Recipe.at).

    Raises UserError where a prompt file that it names can't be read, or is not of the form that is needed.
    """
    yield from _iterations(recipe)
    yield from _synthesis(recipe, t)
    yield from _synthesis_prompt(recipe)
    yield from _response(recipe)
    yield from _assessment(recipe)
    yield from _filters(recipe)
    yield from _training(recipe, t)
    yield from _extensions(recipe)


def _iterations(recipe: Recipe) -> Conflicts:
    for t, changes in recipe.iteration.items():
        if t > recipe.iterations:
            yield ("iteration", str(t)), f"this recipe has {recipe.iterations} iterations"
        for key in (key for key in changes if key not in SECTIONS_PER_ITERATION):
            yield (
                ("iteration", str(t), key),
                f"all iterations share it; one may differ in {', '.join(SECTIONS_PER_ITERATION)}",
            )


def _synthesis(recipe: Recipe, t: int) -> Conflicts:
    synthesis = recipe.synthesis
    if synthesis.tasks_of and synthesis.tasks_of >= t:
        yield ("synthesis", "tasks_of"), f"iteration {t} can't have the tasks of iteration {synthesis.tasks_of}"
    if synthesis.topics and synthesis.examples > (kinds := len(forms.load_topic_guide(synthesis.topics.file).kinds)):
        yield ("synthesis", "topics"), f"synthesis.examples is {synthesis.examples}, and the guide has {kinds} kinds"
    if synthesis.generated > synthesis.examples:
        yield ("synthesis", "generated"), f"{synthesis.generated} is more than synthesis.examples, {synthesis.examples}"


def _synthesis_prompt(recipe: Recipe) -> Conflicts:
    """Check a prompt of the user's own: replies are read as its numbered blocks."""
    source = recipe.synthesis.prompt
    if source is None:
        return
    texts = prompts.load_prompts(source)
    for name, parts in SYNTHESIS_PROMPT.items():
        where = prompts.describe_source(source)
        if name not in texts:
            yield ("synthesis", "prompt"), f"{where} has no {name!r}; it needs {', '.join(SYNTHESIS_PROMPT)}"
        elif missing := [part for part in parts if part not in texts[name]]:
            yield ("synthesis", "prompt"), f"{name!r} in {where} has no {' and no '.join(missing)}"
    if not texts.get("open", "Instruction:").endswith("Instruction:"):
        yield ("synthesis", "prompt"), "'open' must end with 'Instruction:', which the model continues"


def _response(recipe: Recipe) -> Conflicts:
    response = recipe.response
    if not isinstance(response.prompt, str) or _is_answer_form(response.prompt):
        forms.load_answer_form(response.prompt)  # for what it raises
    else:
        words = ", ".join(forms.BUILTIN_FORMS)
        wrong = (
            f"{response.prompt!r} is none of {words}, a prompt file of isheep (such as principles) or of yours (.yaml)"
        )
        yield ("response", "prompt"), wrong
    if response.prompt == "instances" and recipe.synthesis.inputs:
        why = "instances writes the inputs, and synthesis does too: set synthesis.inputs: false"
        yield ("response", "prompt"), why
    if response.prompt != "instances" and response.examples:
        yield ("response", "examples"), f"it is for prompt: instances, and prompt is {response.prompt}"


def _is_answer_form(name: str) -> bool:
    return name in forms.BUILTIN_FORMS or prompts.find_prompt_file(name).is_file()


def _assessment(recipe: Recipe) -> Conflicts:
    settings = recipe.assessment
    if not settings:
        return
    known = prompts.load_prompts(settings.prompt)
    for name in settings.criteria:
        if name not in known:
            wrong = f"{_name_of_prompt(settings)} has no criterion {name!r}, only {', '.join(known)}"
            yield ("assessment", "criteria"), wrong
        for hole in ("{instruction}", "{output}"):
            if name in known and hole not in known[name]:
                paper = "; {output_data}, as the paper spells it, is not filled" * ("{output_data}" in known[name])
                yield ("assessment", "prompt"), f"{name!r} in {_name_of_prompt(settings)} has no {hole}{paper}"
    if duplicate := _first_duplicate(settings.criteria):
        yield ("assessment", "criteria"), f"{duplicate!r} is listed twice"
    if settings.opening is not None and settings.read == "generate":
        yield ("assessment", "opening"), "it is for read: expected, and this recipe reads what the judge generates"


def _name_of_prompt(settings: Assessment) -> str:
    return f"prompt {settings.prompt!r}" if isinstance(settings.prompt, str) else "the prompt in the recipe"


def _filters(recipe: Recipe) -> Conflicts:
    criteria = recipe.assessment.criteria if recipe.assessment else None
    facts = RecipeFacts(recipe.synthesis.tasks, criteria, bool(recipe.evaluation or recipe.stop))
    for index, settings in enumerate(recipe.filters):
        for path, why in settings.conflicts(facts):
            yield ("filters", index, *path), why


def _training(recipe: Recipe, t: int) -> Conflicts:
    training, tasks = recipe.training, recipe.synthesis.tasks
    if training.num_rows and training.max_rows and training.num_rows > training.max_rows:
        yield ("training", "num_rows"), f"{training.num_rows} is more than training.max_rows, {training.max_rows}"
    kept = min([tasks, *(entry.max_kept for entry in recipe.filters if entry.max_kept is not None)])
    more = t > 1 and (training.data == "all" or recipe.synthesis.tasks_of)  # than this iteration's own tasks
    if not more and kept < (training.num_rows or 2):
        wrong = f"{training.num_rows or 'two'} rows are more than iteration {t} can have: {tasks} tasks"
        yield ("training", "num_rows"), f"{wrong}, of which the filters keep {kept} at most" if kept < tasks else wrong
    if training.keep == "best" and not training.held_out:
        yield ("training", "keep"), "best is found on held-out rows, and training.held_out is 0: set keep to last"


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
    if recipe.stop and extensions.parse_reference(recipe.stop.benchmark):
        yield ("stop", "benchmark"), extensions.refusal(recipe.stop.benchmark, "benchmark")
    if extensions.parse_reference(recipe.machine.engine):
        yield ("machine", "engine"), extensions.refusal(recipe.machine.engine, "engine")


def _first_duplicate(names: tuple[str, ...] | list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)
