"""Which library stands behind an engine, a trainer and a judge: what a recipe names. Nothing heavy loads here."""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from isheep.engines import Engine
from isheep.errors import UserError
from isheep.judges.base import Judge, LocalJudge
from isheep.judges.endpoint import EndpointJudge
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.recipe import schema as recipes
from isheep.recipe.schema import BenchmarkSettings, Recipe, needs_perplexity, score_openings
from isheep.records import Model, Pair
from isheep.rundir.folder import open_run


def open_engine(recipe: Recipe, model: Model) -> Engine:
    """The recipe's engine on a model; its weights load at first use."""
    machine = recipe.machine
    if machine.engine != "openai" or (model.adapter and machine.server.adapters == "transformers"):
        return _open(recipe, model, recipe.chat)
    from isheep.engines import openai

    return openai.open_engine(model, machine.server, lambda: load_chat_template(recipe.chat, recipe.model))


def _open(recipe: Recipe, model: Model, chat: str) -> Engine:
    """An engine of ours on a model that is written to in a chat template, or several that share its calls."""
    machine = recipe.machine
    if machine.replicas == 1 and not machine.ray:
        return _here(recipe, model, chat)
    from isheep.engines import ray

    one = recipe.model_copy(update={"machine": machine.model_copy(update={"threads": machine.threads or 1})})
    return ray.open_engine(partial(_here, one, chat=chat), model, machine)


def _here(recipe: Recipe, model: Model, chat: str) -> Engine:
    machine = recipe.machine
    if machine.engine == "vllm":
        from isheep.engines import vllm

        rank = max(one.training.lora.rank for one in recipe.variants)
        return vllm.open_engine(model, machine, rank, lambda: load_chat_template(chat, model.base))
    from isheep.engines import transformers

    return transformers.open_engine(model, threads=machine.threads, device=machine.device, batch=machine.batch)


def check_engine(recipe: Recipe) -> list[str]:
    """Asks a server of the recipe for what the recipe needs; what a user should know of it.

    Raises UserError where it can't do that, where vLLM is not installed, or where Ray is not there for replicas. An
    engine of ours can do everything: nothing is loaded.
    """
    machine = recipe.machine
    if machine.replicas > 1 or machine.ray:
        from isheep.engines import actors

        actors.check(machine)
    if machine.engine == "vllm":
        from isheep.engines import vllm

        vllm.check()
    if machine.engine != "openai":
        return []
    from isheep.engines import openai

    variants, evaluated = recipe.variants, bool(recipe.evaluation or recipe.stop)
    rated = [one.assessment for one in variants if one.assessment]
    drawn = [one.sampling for part in variants for one in (part.synthesis, part.response)]
    needs = openai.ServerRequirements(
        drawn=any(one.temperature > 0 for one in (*drawn, *(one.sampling for one in rated))),
        options=list(dict.fromkeys(text for one in rated if one.read == "expected" for text in score_openings(one))),
        perplexity=any(needs_perplexity(one.filters) for one in variants)
        or any(one.name.startswith(("standard/", "paper/")) for one in recipe.evaluation),
        later=recipe.machine.server.adapters == "server" and (recipe.iterations > 1 or evaluated),
    )
    engine = openai.open_engine(
        Model(recipe.model), recipe.machine.server, lambda: load_chat_template(recipe.chat, recipe.model)
    )
    with closing(engine):
        return engine.check(needs)


def open_judge(recipe: Recipe, benchmark: BenchmarkSettings) -> Judge:
    """Who judges a benchmark's answers. Cheap: a local judge's weights load when it is asked.

    Raises UserError where a local judge is a model that its run does not have.
    """
    given = benchmark.judge or recipes.JudgeSettings()
    if not given.local:
        return EndpointJudge(given.model, recipe.machine.judging, given.parameters)

    model, chat = local_model(given.model or "")

    def open_local() -> tuple[Engine, ChatTemplate]:
        return _open(recipe, model, chat), load_chat_template(chat, model.base)

    return LocalJudge(given.model or "", open_local, recipe.seed, given.parameters, identity=_weights(model))


def _weights(model: Model) -> str:
    """What tells an adapter from another one in the same place; "" for a base, which its name stands for."""
    weights = model.adapter / "adapter_model.safetensors" if model.adapter else None
    if not (model.adapter and weights and weights.exists()):
        return ""
    with weights.open("rb") as file:
        return f" {model.adapter.parent.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def local_model(name: str) -> tuple[Model, str]:
    """A model by a run folder (its newest one), a folder of an iteration in one, or a checkpoint; its chat template.

    Raises UserError where a run folder has no such model.
    """
    given = Path(name)
    run = next((path for path in (given, given.parent) if (path / "recipe.yaml").is_file()), None)
    if run is None:
        return Model(name), "tokenizer"
    recipe, _ = open_run(run)
    made = {path.parent.name: path for path in run.glob("iter-*/adapter")}
    newest = max(made, key=lambda iteration: int(iteration.removeprefix("iter-")), default="base")
    iteration = newest if given == run else given.name
    if iteration != "base" and iteration not in made:
        raise UserError(f"judge {name!r} is no model of that run: give {', '.join(['base', *sorted(made)])} in it")
    return Model(recipe.model, made.get(iteration)), recipe.chat


def check_training(recipe: Recipe) -> None:
    """Raises UserError where this machine can't train as the recipe's `machine` and `training` say."""
    from isheep.trainers import launch

    launch.check_training_machine(recipe)


def train(recipe: Recipe, chat: ChatTemplate, start: Model, data: Sequence[Pair], seed: int, into: Path) -> None:
    """SFT(start, data): the adapter of the next model, in the folder `into`."""
    from isheep.trainers import llamafactory, peft

    trainer = llamafactory if recipe.machine.trainer == "llamafactory" else peft
    trainer.train(start, data, chat, recipe.training, seed, into, recipe.machine)
