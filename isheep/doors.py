"""Which library stands behind an engine, a trainer and a judge: what a recipe names. Nothing heavy loads here."""

from collections.abc import Sequence
from pathlib import Path

from isheep import recipe as recipes
from isheep.chat import Chat, load_chat
from isheep.endpoint import Endpoint
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.judges import Judge, Local
from isheep.recipe import Benchmark, Machine, Recipe
from isheep.records import Model, Pair
from isheep.run import reading


def open_engine(recipe: Recipe, model: Model) -> Engine:
    """The recipe's engine on a model; its weights load at first use."""
    return _open(recipe.machine, model)


def _open(machine: Machine, model: Model) -> Engine:
    from isheep.engines import transformers

    return transformers.open_engine(model, threads=machine.threads, device=machine.device, batch=machine.batch)


def open_judge(recipe: Recipe, benchmark: Benchmark) -> Judge:
    """Who judges a benchmark's answers. Cheap: a local judge's weights load when it is asked."""
    given = benchmark.judge or recipes.Judge()
    if not given.local:
        return Endpoint(given.model, recipe.machine.judging, given.parameters)

    def open_local(name: str = given.model or "") -> tuple[Engine, Chat]:
        model, chat = local_model(name)
        return _open(recipe.machine, model), load_chat(chat, model.base)

    return Local(given.model or "", open_local, recipe.seed, given.parameters)


def local_model(name: str) -> tuple[Model, str]:
    """A model by a run folder (its newest one), a folder of an iteration in one, or a checkpoint; its chat template.

    Raises UserError where a run folder has no such model.
    """
    given = Path(name)
    run = next((path for path in (given, given.parent) if (path / "recipe.yaml").is_file()), None)
    if run is None:
        return Model(name), "tokenizer"
    recipe, _ = reading(run)
    made = {path.parent.name: path for path in run.glob("iter-*/adapter")}
    newest = max(made, key=lambda iteration: int(iteration.removeprefix("iter-")), default="base")
    iteration = newest if given == run else given.name
    if iteration != "base" and iteration not in made:
        raise UserError(f"judge {name!r} is no model of that run: give {', '.join(['base', *sorted(made)])} in it")
    return Model(recipe.model, made.get(iteration)), recipe.chat


def check_training(recipe: Recipe) -> None:
    """Raises UserError where this machine can't train as the recipe's `machine` and `training` say."""
    from isheep.trainers import launch

    launch.check(recipe)


def train(recipe: Recipe, chat: Chat, start: Model, data: Sequence[Pair], seed: int, into: Path) -> None:
    """SFT(start, data): the adapter of the next model, in the folder `into`."""
    from isheep.trainers import llamafactory, peft

    trainer = llamafactory if recipe.machine.trainer == "llamafactory" else peft
    trainer.train(start, data, chat, recipe.training, seed, into, recipe.machine)
