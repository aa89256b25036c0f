"""The assumptions of a plan: counted with the tokenizer, measured in a run, given by the user, or guessed."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from isheep import prompts
from isheep.batching import derive_seed
from isheep.errors import UserError
from isheep.filters.base import FilterSettings
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.models.checkpoint import load_local_tokenizer
from isheep.prompts.forms import load_answer_form
from isheep.recipe.schema import Recipe
from isheep.records import Record, Task
from isheep.seeds import SeedTask, load_seed_file
from isheep.stages import respond, synthesize
from isheep.trainers.rows import check_rows

GUESSED, COUNTED, MEASURED, GIVEN, RECIPE = "assumed", "counted", "measured", "given", "recipe"
# Characters of English text in a token, if there is no tokenizer to count with.
CHARACTERS_PER_TOKEN = 4.0
# Tokens of a chat turn around its text, if there is no tokenizer.
TURN_TOKENS = 20.0
# The number of synthesis prompts whose tokens are counted.
NUM_COUNTED_PROMPTS = 16
# Tokens around a task in a reply: its number, "Instruction:", "Input:", "###".
LABEL_TOKENS = 15

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Assumptions(Record):
    """Means over an iteration, as MEANINGS describes them. `sources` says for each key where its value comes from."""

    model_config = ConfigDict(allow_inf_nan=False)

    characters: Positive
    prompt: Positive
    reply: Positive
    tasks: Positive
    task: Positive
    turn: Annotated[float, Field(ge=0)]
    answer: Positive
    rating: Annotated[float, Field(ge=0)]
    grade: Annotated[float, Field(ge=0)]
    kept: Share
    longest: Annotated[float, Field(ge=1)] = 3.0
    reading: Share = 0.4
    writing: Share = 0.5
    training: Share = 0.35
    layer_ms: Annotated[float, Field(ge=0)] = 0.5
    together: Share = 0.8
    usable: Share = 0.9
    sources: dict[str, str] = {}


MEANINGS = {
    "characters": "characters per token",
    "prompt": "tokens of a synthesis prompt",
    "reply": "tokens of the reply to it",
    "tasks": "tasks accepted per reply",
    "task": "tokens of a task, its input included",
    "turn": "tokens of the prompt around a task",
    "answer": "tokens of an answer",
    "rating": "tokens of a rating prompt without the pair",
    "grade": "tokens of a rating reply",
    "kept": "share of pairs that the filters keep",
    "longest": "longest answer of a batch / the mean",
    "reading": "share of peak FLOPS, reading prompts",
    "writing": "share of bandwidth, generating",
    "training": "share of peak FLOPS, training",
    "layer_ms": "least milliseconds of a layer's pass",
    "together": "speed of each of several GPUs / of one",
    "usable": "share of the memory that can be used",
}
KEYS = tuple(MEANINGS)


def parse_assumptions(words: Iterable[str]) -> dict[str, float]:
    """Return the values of "key=number" arguments. Raises UserError if one is malformed or its key is not known."""
    values = {}
    for word in words:
        key, equals, text = word.partition("=")
        try:
            values[key] = float(text)
        except ValueError:
            raise UserError(f"--assume {word!r}: write key=number, such as answer=250") from None
        if key not in KEYS or not equals:
            similar = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            hint = f"did you mean {similar[0]}?" if similar else f"take {', '.join(KEYS)}"
            raise UserError(f"--assume {word!r}: {hint}")
    return values


def assume(recipe: Recipe, measured: Mapping[str, float], given_means: Mapping[str, float]) -> Assumptions:
    """Return the assumptions for an iteration with the settings of `recipe`.

    Values that the user gives replace those that the recipe determines, these replace measured ones, and these replace
    counts and guesses. Raises UserError if a value is out of range, or if the seed tasks can't be read.
    """
    values, sources = _count(recipe, given_means.get("characters"))
    for more, source in ((measured, MEASURED), (_determined(recipe), RECIPE), (given_means, GIVEN)):
        values |= more
        sources |= dict.fromkeys(more, source)
    values = _guess(recipe, values) | values
    try:
        return Assumptions(**values, sources={key: sources.get(key, GUESSED) for key in KEYS})
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        raise UserError(f"--assume {error['loc'][0]}={error['input']}: {error['msg'].lower()}") from None


def token_counter(model: str) -> tuple[Callable[[str], int], Any]:
    """Return a function that counts a text's tokens, and the tokenizer of `model`, None if this machine has none."""
    tokenizer = load_local_tokenizer(model)
    if tokenizer is None:
        return (lambda text: round(len(text) / CHARACTERS_PER_TOKEN)), None
    return (lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)), tokenizer


def _count(recipe: Recipe, characters: float | None) -> tuple[dict[str, float], dict[str, str]]:
    """Return the lengths of prompts and seed tasks, counted with the tokenizer, or by characters if there is none.

    Returns the values and their sources.
    """
    count, tokenizer = token_counter(recipe.model)
    seed_tasks = load_seed_file(
        recipe.seeds, recipe.synthesis.examples, recipe.response.num_instance_examples, recipe.language
    ).tasks
    chat = load_chat_template(*recipe.chat_arguments) if tokenizer else None
    if chat:
        check_rows(chat, recipe.training)
    task_texts = [task.content for task in seed_tasks]

    def mean_tokens(texts: Sequence[str]) -> float:
        if tokenizer is None:
            return fmean(map(len, texts)) / (characters or CHARACTERS_PER_TOKEN)
        return fmean(map(count, texts))

    form = load_answer_form(recipe.response.prompt)
    empty = form.template
    if chat:
        empty = respond.render_response_prompt(Task(id="", instruction=""), chat, recipe.response)
    values = {
        "characters": characters or (fmean(map(len, task_texts)) / mean_tokens(task_texts)),
        "prompt": mean_tokens(_synthesis_prompts(recipe, seed_tasks, chat)),
        "task": mean_tokens(task_texts),
        "turn": mean_tokens([empty]) + (TURN_TOKENS if form.chat and not chat else 0),
        "rating": 0.0,
    }
    if assessment := recipe.assessment:
        prompts_without_pair = [_rating_prompt(name, assessment.prompt) for name in assessment.criteria]
        values["rating"] = mean_tokens(prompts_without_pair) + (TURN_TOKENS if assessment.chat else 0)
    return values, dict.fromkeys(values, COUNTED if tokenizer else GUESSED)


def _synthesis_prompts(recipe: Recipe, seed_tasks: Sequence[SeedTask], chat: ChatTemplate | None) -> list[str]:
    """Return the first synthesis prompts of a run, with seed tasks only: generated tasks are not known yet."""
    settings = recipe.synthesis.model_copy(update={"generated": 0})
    texts = []
    for batch in range(NUM_COUNTED_PROMPTS):
        seed = derive_seed(recipe.seed, 1, "synthesis", batch)
        examples = synthesize.draw_examples(seed_tasks, [], settings, seed)
        text = synthesize.render_synthesis_prompt(examples, settings.inputs, recipe.synthesis_prompt)
        texts.append(chat.prompt(text) if settings.chat and chat else text)
    return texts


def _rating_prompt(criterion: str, source: prompts.PromptSource) -> str:
    return prompts.fill_template(prompts.load_prompts(source)[criterion], instruction="", output="")


def _guess(recipe: Recipe, values: Mapping[str, float]) -> dict[str, float]:
    """Return guesses that depend on other values and on the recipe's limits.

    A list of tasks continues until it is cut off, and a quarter of the tasks that a reply has room for are accepted.
    Answers and ratings have a quarter of their largest length.
    """
    rating_tokens = recipe.assessment.sampling.max_tokens if recipe.assessment else 4
    reply = values.get("reply", recipe.synthesis.sampling.max_tokens)
    return {
        "reply": reply,
        "tasks": reply / (values["task"] + LABEL_TOKENS) / 4,
        "answer": recipe.response.sampling.max_tokens / 4,
        "grade": rating_tokens / 4,
        "kept": _expected_share(recipe.filters),
    }


def _expected_share(filters: Sequence[FilterSettings]) -> float:
    """Return the share of pairs that the filters are expected to keep: the strictest of those that read ratings, times
    the strictest of the others."""
    by_rating = [entry.expected_share for entry in filters if "ratings" in entry.needs]
    by_text = [entry.expected_share for entry in filters if "ratings" not in entry.needs]
    return min(by_rating, default=0.95) * min(by_text, default=1.0)


def _determined(recipe: Recipe) -> dict[str, float]:
    """Return the share kept, if a filter names a number of pairs."""
    numbers = [entry.max_kept for entry in recipe.filters if entry.max_kept is not None]
    return {"kept": min(1.0, min(numbers) / recipe.max_pairs)} if numbers else {}
