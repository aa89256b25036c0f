"""The openai engine: the recipe's base model on an OpenAI-compatible server, with adapters if the server loads them."""

from collections.abc import Callable
from contextlib import closing

from isheep.engines import Engine, ray, server, transformers
from isheep.engines.openai_check import check_requirements
from isheep.engines.openai_engine import OpenAIEngine
from isheep.errors import Conflicts
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.models.checkpoint import find_checkpoint
from isheep.prompts.forms import load_answer_form
from isheep.recipe.machine import ServerSettings
from isheep.recipe.schema import Recipe
from isheep.records import Model

PACKAGE = None
ONLY_RECIPE_MODEL = True


def open_from_recipe(recipe: Recipe, model: Model) -> Engine:
    """Return an engine on the recipe's server; with machine.server.adapters: transformers, M^1, ... run locally."""
    server_settings = recipe.machine.server
    if model.adapter and server_settings.adapters == "transformers":
        return transformers.open_from_recipe(recipe, model)
    return open_engine(model, server_settings, lambda: load_chat_template(*recipe.chat_arguments))


def check(recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
    """Send the server small requests to find out whether it can do what the recipe needs; return notes for the user.

    Raises UserError if it can't, or if the recipe asks for replicas and there is no Ray.
    """
    ray.check(recipe)
    engine = open_engine(Model(recipe.model), recipe.machine.server, lambda: load_chat_template(*recipe.chat_arguments))
    with closing(engine):
        return check_requirements(engine, server.requirements(recipe, benchmarks_need_logprobs))


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings of the recipe that no OpenAI-compatible server can serve."""
    settings, machine = recipe.machine.server, recipe.machine
    yield from ray.conflicts(recipe)
    if ray.uses_ray(machine) and settings.adapters == "server":
        reason = "replicas can't run engine openai: raise machine.server.max_in_flight instead"
        yield ("machine", "replicas"), reason
    if settings.url and "@" in settings.url:
        yield ("machine", "server", "url"), "a recipe must not contain a password: set the address in OPENAI_BASE_URL"
    for index, entry in enumerate(recipe.filters):
        if "embeddings" in entry.needs:
            reason = f"{entry.label} needs hidden states, which machine.engine openai does not have"
            yield ("filters", index), f"{reason}: take engine transformers"
    if settings.api == "chat":
        yield from _chat_conflicts(recipe)


def _chat_conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings with prompts that are not in the chat template, which a server's chat API does not accept."""
    prompt = recipe.response.prompt
    is_plain = {
        ("synthesis", "chat"): not recipe.synthesis.chat,
        ("response", "prompt"): prompt == "instances" or not load_answer_form(prompt).chat,
        ("assessment", "chat"): recipe.assessment is not None and not recipe.assessment.chat,
    }
    for path, plain in is_plain.items():
        if plain:
            yield path, "these prompts are plain text, and machine.server.api: chat sends only chat turns"
    if recipe.response.turns > 1:
        reason = "machine.server.api: chat sends one user's turn, and can't continue as the user: take completions"
        yield ("response", "turns"), reason
    if recipe.assessment and recipe.assessment.may_constrain and recipe.assessment.explain:
        reason = "machine.server.api: chat can't continue a reply after its score: set explain to false, or take"
        yield ("assessment", "explain"), f"{reason} completions"
    if recipe.evaluation or recipe.stop_rule:
        reason = "benchmarks give the base model plain prompts: take completions, or no evaluation"
        yield ("machine", "server", "api"), reason


def open_engine(model: Model, settings: ServerSettings, load_chat: Callable[[], ChatTemplate]) -> OpenAIEngine:
    """Return an engine on `model`, which the server of `settings` has. The server is contacted at first use.

    `load_chat` returns the chat template of the recipe's prompts, which machine.server.api: chat removes from them.
    Raises UserError if `model` is a path without a checkpoint.
    """
    find_checkpoint(model.base)
    return OpenAIEngine(model, settings, load_chat)
