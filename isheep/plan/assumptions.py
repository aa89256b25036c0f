"""What a plan takes for granted: counted with the tokenizer, measured in a run, given, or a stated guess."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from isheep import prompts
from isheep.batching import derive_seed
from isheep.errors import UserError
from isheep.filters.base import FilterSettings
from isheep.models.chat_template import load_chat_template
from isheep.models.checkpoint import load_local_tokenizer
from isheep.prompts.forms import load_answer_form
from isheep.recipe.schema import Recipe
from isheep.records import Record, Task
from isheep.seeds import load_seed_tasks
from isheep.stages import respond, synthesize

GUESSED, COUNTED, MEASURED, GIVEN, RECIPE = "assumed", "counted", "measured", "given", "recipe"
CHARACTERS = 4.0  # of English text in a token, where there is no tokenizer to count with
TURN = 20.0  # tokens of a chat turn around its text, where there is none
BATCHES = 16  # of synthesis prompts that are counted
LABELS = 15  # tokens around a task in a reply: its number, "Instruction:", "Input:", "###"

Positive = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(gt=0, le=1)]


class Assumptions(Record):
    """Means over an iteration; tokens where nothing else is said. `sources` says for each key where it is from."""

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
    kept: Part
    longest: Annotated[float, Field(ge=1)] = 3.0
    reading: Part = 0.4
    writing: Part = 0.5
    training: Part = 0.35
    layer_ms: Annotated[float, Field(ge=0)] = 0.5
    together: Part = 0.8
    usable: Part = 0.9
    sources: dict[str, str] = {}


MEANINGS = {
    "characters": "characters in a token",
    "prompt": "tokens in a synthesis prompt",
    "reply": "tokens written after it",
    "tasks": "new tasks kept of one reply",
    "task": "tokens of a task, its input included",
    "turn": "tokens of the prompt around a task",
    "answer": "tokens of an answer",
    "rating": "tokens of a rating prompt, the pair aside",
    "grade": "tokens of a rating as written",
    "kept": "share of pairs that the filters keep",
    "longest": "longest answer of a batch, in means",
    "reading": "share of the FLOPS used in reading",
    "writing": "share of the bandwidth used in writing",
    "training": "share of the FLOPS used in training",
    "layer_ms": "least milliseconds of a layer's pass",
    "together": "speed left to each of several GPUs",
    "usable": "share of the memory that can be used",
}
KEYS = tuple(MEANINGS)


def parse_assumptions(words: Iterable[str]) -> dict[str, float]:
    """The values of "key=number" words of the command line. Raises UserError for another word, key or number."""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        try:
            found[key] = float(text)
        except ValueError:
            raise UserError(f"--assume {word!r}: write key=number, such as answer=250") from None
        if key not in KEYS or not equals:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            raise UserError(
                f"--assume {word!r}: " + (f"did you mean {near[0]}?" if near else f"take {', '.join(KEYS)}")
            )
    return found


def assume(recipe: Recipe, measured: Mapping[str, float], said: Mapping[str, float]) -> Assumptions:
    """What is assumed of an iteration that does what `recipe` says: `said` over `measured` over counts and guesses.

    Raises UserError where a value makes no sense, and where the seed tasks can't be read.
    """
    values, sources = _counted(recipe, said.get("characters"))
    for some, source in ((measured, MEASURED), (_by_recipe(recipe), RECIPE), (said, GIVEN)):
        values |= some
        sources |= dict.fromkeys(some, source)
    values = _guessed(recipe, values) | values
    try:
        return Assumptions(**values, sources={key: sources.get(key, GUESSED) for key in KEYS})
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        raise UserError(f"--assume {error['loc'][0]}={error['input']}: {error['msg'].lower()}") from None


def counter(model: str) -> tuple[Callable[[str], int], Any]:
    """What counts a text's tokens, and the tokenizer of `model`; None where this machine has none."""
    tokenizer = load_local_tokenizer(model)
    if tokenizer is None:
        return (lambda text: round(len(text) / CHARACTERS)), None
    return (lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)), tokenizer


def _counted(recipe: Recipe, characters: float | None) -> tuple[dict[str, float], dict[str, str]]:
    """What prompts and seed tasks tell, with the tokenizer where it is here, else by their characters."""
    count, tokenizer = counter(recipe.model)
    seeds, settings = load_seed_tasks(recipe.seeds, recipe.synthesis.examples), recipe.synthesis
    chat = load_chat_template(recipe.chat_template, recipe.model) if tokenizer else None
    texts = [seed.content for seed in seeds]

    def mean(some: Sequence[str]) -> float:
        if tokenizer is None:
            return fmean(map(len, some)) / (characters or CHARACTERS)
        return fmean(map(count, some))

    def prompt(batch: int) -> str:
        place = derive_seed(recipe.seed, 1, "synthesis", batch)
        own = settings.model_copy(update={"generated": 0})  # what the iteration will write is not known
        text = synthesize.render_synthesis_prompt(
            synthesize.draw_examples(seeds, [], own, place), settings.inputs, settings.prompt
        )
        return chat.prompt(text) if settings.chat and chat else text

    asked = load_answer_form(recipe.response.prompt)
    bare = (
        respond.render_response_prompt(Task(id="", instruction=""), chat, recipe.response) if chat else asked.template
    )
    values = {
        "characters": characters or (fmean(map(len, texts)) / mean(texts)),
        "prompt": mean([prompt(batch) for batch in range(BATCHES)]),
        "task": mean(texts),
        "turn": mean([bare]) + (TURN if asked.chat and not chat else 0),
        "rating": 0.0,
    }
    if recipe.assessment:
        kinds = recipe.assessment
        values["rating"] = mean([_rating(name, kinds.prompt) for name in kinds.criteria]) + (TURN if kinds.chat else 0)
    return values, dict.fromkeys(values, COUNTED if tokenizer else GUESSED)


def _rating(criterion: str, source: prompts.PromptSource) -> str:
    return prompts.fill_template(prompts.load_prompts(source)[criterion], instruction="", output="")


def _guessed(recipe: Recipe, known: Mapping[str, float]) -> dict[str, float]:
    """A list goes on until it is cut off, and a quarter of what a reply has room for is kept; an answer and a rating
    take a quarter of their bound."""
    rating = recipe.assessment.sampling.max_tokens if recipe.assessment else 4
    found: dict[str, float] = {"reply": recipe.synthesis.sampling.max_tokens, **known}
    return {
        "reply": found["reply"],
        "tasks": found["reply"] / (found["task"] + LABELS) / 4,
        "answer": recipe.response.sampling.max_tokens / 4,
        "grade": rating / 4,
        "kept": _kept(recipe.filters),
    }


def _kept(filters: Sequence[FilterSettings]) -> float:
    """Return the share of pairs that the filters are expected to keep: the strictest of those that read ratings, times
    the strictest of the others."""
    by_rating = [entry.expected_share for entry in filters if "ratings" in entry.needs]
    by_text = [entry.expected_share for entry in filters if "ratings" not in entry.needs]
    return min(by_rating, default=0.95) * min(by_text, default=1.0)


def _by_recipe(recipe: Recipe) -> dict[str, float]:
    """Return the share kept, if a filter names a number of pairs."""
    numbers = [entry.max_kept for entry in recipe.filters if entry.max_kept is not None]
    return {"kept": min(1.0, min(numbers) / recipe.synthesis.tasks)} if numbers else {}
