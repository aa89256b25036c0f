"""Build the engine, trainer and judge that a recipe asks for. Heavy libraries load at their first use."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from isheep.engines import Engine, check_engine_object
from isheep.engines.function import FunctionEngine
from isheep.engines.user_engine import UserEngine
from isheep.errors import Conflicts, UserError, unknown_name
from isheep.extensions import check_callable, import_registered, load_object, name_of, parse_reference, user_code
from isheep.judges.base import Judge, LocalJudge
from isheep.judges.endpoint import EndpointJudge
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.recipe.evaluation import BenchmarkSettings, JudgeSettings
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe, Training
from isheep.records import Model
from isheep.rundir.artifacts import BASE_DIR, iteration_name
from isheep.rundir.iterations import adapters_by_folder, find_run_result
from isheep.rundir.run import open_run

PromptsToTexts = Callable[[list[str]], Sequence[str]]
"""A function that takes a list of prompts and returns one text for each, in their order."""

ENGINES = {
    "transformers": "isheep.engines.transformers",
    "vllm": "isheep.engines.vllm",
    "openai": "isheep.engines.openai",
}
"""The engines by the name that a recipe gives as machine.engine: the module of each one (docs/extending.md)."""


FUNCTION_NOTE = (
    "engine {name} is a function, which can't be constrained: assessment.read: constrained takes the score that its "
    "text begins with, and a text that begins with none is unreadable"
)

ENGINE_PARTS = ("PACKAGE", "ONLY_RECIPE_MODEL", "open_from_recipe", "check", "conflicts")
"""The names that each module of ENGINES defines: those of EngineModule."""


class EngineModule(Protocol):
    """What each module of ENGINES defines."""

    PACKAGE: str | None
    """The package that the engine needs beside isheep's own, installed by the extra of the engine's name."""

    ONLY_RECIPE_MODEL: bool
    """Whether the engine can open no other model than the recipe's, such as a local judge."""

    def open_from_recipe(self, recipe: Recipe, model: Model) -> Engine:
        """Return an engine on a model. Weights load at first use."""

    def check(self, recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
        """Check before a run that the engine can do what the recipe needs; return notes for the user.

        `benchmarks_need_logprobs` is whether a benchmark of the recipe reads the log-probabilities of given texts.
        Raises UserError if the engine can't.
        """

    def conflicts(self, recipe: Recipe) -> Conflicts:
        """Yield the settings of the recipe that the engine can't serve: (path of the key, the reason)."""


def open_engine(recipe: Recipe, model: Model) -> Engine:
    """Return the recipe's engine on a model. Its weights load at first use."""
    engine = engine_module(recipe.machine.engine).open_from_recipe(recipe, model)
    if isinstance(engine, FunctionEngine):
        engine.name = recipe.machine.engine
    return engine


def open_local_engine(recipe: Recipe, model: Model, chat: str) -> Engine:
    """Return the recipe's engine on a model that is not the recipe's, with its own chat template.

    A server has only the recipe's model: if the recipe's engine is a server, transformers opens the model.
    """
    name = recipe.machine.engine
    if engine_module(name).ONLY_RECIPE_MODEL:
        name = "transformers"
    return engine_module(name).open_from_recipe(
        recipe.model_copy(update={"model": model.base, "chat_template": chat}), model
    )


def check_engine(recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
    """Check that the recipe's engine can do what the recipe and its benchmarks need, and return notes for the user.

    Raises UserError if it can't, or if a package is missing. No weights are loaded.
    """
    return engine_module(recipe.machine.engine).check(recipe, benchmarks_need_logprobs)


def engine_module(name: str) -> EngineModule:
    """Import the module of an engine by its name in ENGINES, or load an engine of the user's own ("file.py:name")."""
    if parse_reference(name):
        return CustomEngine(load_object(name, "engine"), name)
    return cast(EngineModule, _import_part("ENGINES", name, ENGINES[name], ENGINE_PARTS))


def _import_part(table: str, name: str, module_name: str, parts: Sequence[str]) -> ModuleType:
    """Import the module that a table of this file names. Raises UserError if there is none, or it lacks a part."""
    entry = f"{name!r} of {table} in isheep/backends.py"
    module = import_registered(module_name, entry)
    if missing := [part for part in parts if not hasattr(module, part)]:
        raise UserError(f"{entry}: {module_name} has no {', '.join(missing)} (docs/extending.md)")
    return module


class CustomEngine:
    """An engine of the user's own: a function that takes the recipe and a model and returns an Engine."""

    PACKAGE: str | None = None
    ONLY_RECIPE_MODEL = False

    def __init__(self, open_function: Callable[[Recipe, Model], Engine], name: str) -> None:
        way_out = (
            "machine.engine names a function (recipe, model) that returns an engine; if this one takes prompts and "
            f"returns texts, return FunctionEngine({name_of(open_function)}) from such a function (docs/extending.md)"
        )
        check_callable(open_function, f"engine {name}", ("recipe", "model"), way_out)
        self.open_function, self.name = open_function, name

    def open_from_recipe(self, recipe: Recipe, model: Model) -> Engine:
        """Return what the function returns. Raises UserError if the function fails, or returns no engine."""
        with user_code(f"engine {self.name}", self.open_function):
            engine = self.open_function(recipe, model)
        if engine is None:
            raise UserError(f"engine {self.name} returned None: return an engine (docs/extending.md)")
        check_engine_object(engine, self.name)
        if isinstance(engine, FunctionEngine):
            engine.name = self.name
        return UserEngine(engine, self.name)

    def check(self, recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
        """Return no notes: what a user's engine can do is not known."""
        return []

    def conflicts(self, recipe: Recipe) -> Conflicts:
        """Yield a conflict for replicas: they run in processes that do not execute the user's code."""
        if recipe.machine.replicas > 1 or recipe.machine.ray:
            yield ("machine", "replicas"), "an engine of your own has no replicas: set it to 1, and machine.ray to null"


def open_judge(recipe: Recipe, benchmark: BenchmarkSettings) -> Judge:
    """Return the judge of a benchmark's answers. The weights of a local judge load at their first use.

    Raises UserError if a local judge is a model that its run does not have.
    """
    settings = benchmark.judge or JudgeSettings()
    if not settings.local:
        return EndpointJudge(settings.model, recipe.machine.judging, settings.parameters)

    name = settings.model or ""
    identity = _weights_identity(local_model(name)[0])
    return LocalJudge(name, partial(open_local, recipe, name), recipe.seed, settings.parameters, identity=identity)


def open_local(recipe: Recipe, name: str) -> tuple[Engine, ChatTemplate]:
    """Return an engine on the model that `name` is (local_model), and its chat template. Weights load at first use."""
    (model, chat), day = local_model(name), _date_of_run(name)
    return open_local_engine(recipe, model, chat), load_chat_template(chat, model.base, day)


def _weights_identity(model: Model) -> str:
    """Return a text that differs between adapters in the same place; "" for a base model, which its name identifies."""
    if model.adapter is None:
        return ""
    weights = model.adapter / "adapter_model.safetensors"
    if not weights.exists():
        return ""
    with weights.open("rb") as file:
        return f" {model.adapter.parent.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def local_model(name: str) -> tuple[Model, str]:
    """Return a model and the name of its chat template.

    `name` is a run folder (its newest model, or the best by its recipe's stop rule), the folder of an iteration in one,
    or a checkpoint. Raises UserError if a run folder has no such model.
    """
    path, run_dir = Path(name), _run_of_model(name)
    if run_dir is None:
        return Model(name), "tokenizer"
    recipe, run = open_run(run_dir)
    adapters = adapters_by_folder(run_dir)
    iteration = iteration_name(find_run_result(recipe, run).iteration) if path == run_dir else path.name
    if iteration != BASE_DIR and iteration not in adapters:
        models = ", ".join([BASE_DIR, *sorted(adapters)])
        raise UserError(f"judge {name!r} is no model of that run: give {models} in it")
    adapter = run / iteration
    return Model(recipe.model, adapter.checked("adapter") if iteration in adapters else None), recipe.chat_template


def _run_of_model(name: str) -> Path | None:
    """Return the run folder that `name` is, or whose iteration it is."""
    path = Path(name)
    return next((folder for folder in (path, path.parent) if (folder / "recipe.yaml").is_file()), None)


def _date_of_run(name: str) -> date | None:
    """Return the date that the chat template of a model in a run folder sees."""
    run_dir = _run_of_model(name)
    return open_run(run_dir)[0].date if run_dir else None


TRAINERS = {
    "peft": "isheep.trainers.peft",
    "llamafactory": "isheep.trainers.llamafactory",
}
"""The trainers by the name that a recipe gives as machine.trainer: the module of each one (docs/extending.md)."""


TRAINER_PARTS = ("train", "check", "conflicts")
"""The names that each module of TRAINERS defines: those of TrainerModule."""


class TrainerModule(Protocol):
    """What each module of TRAINERS defines."""

    def train(
        self,
        start_model: Model,
        training_file: Path,
        chat_template: ChatTemplate,
        training: Training,
        seed: int,
        output_dir: Path,
        machine: Machine,
    ) -> None:
        """Train a LoRA adapter on the rows of a training file and write it into `output_dir`.

        A call with the same arguments after a killed one resumes from the checkpoints in `output_dir`. Raises UserError
        if the training file has changed in between.
        """

    def check(self, recipe: Recipe) -> None:
        """Raise UserError if this machine can't train as the recipe says."""

    def conflicts(self, recipe: Recipe) -> Conflicts:
        """Yield the settings of the recipe that exclude each other with this trainer: (path of the key, the reason)."""


def trainer_module(name: str) -> TrainerModule:
    """Import the module of a trainer by its name in TRAINERS."""
    return cast(TrainerModule, _import_part("TRAINERS", name, TRAINERS[name], TRAINER_PARTS))


def check_training(recipe: Recipe) -> None:
    """Raise UserError if this machine can't train as the recipe's `machine` and `training` say."""
    trainer_module(recipe.machine.trainer).check(recipe)


def train(recipe: Recipe, chat: ChatTemplate, start: Model, training_file: Path, seed: int, output_dir: Path) -> None:
    """Train the next model's adapter with the recipe's trainer and write it into `output_dir`: SFT(start, data)."""
    trainer = trainer_module(recipe.machine.trainer)
    trainer.train(start, training_file, chat, recipe.training, seed, output_dir, recipe.machine)


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings that the recipe's engine and trainer can't work with, and names of unknown ones."""
    engine, trainer = recipe.machine.engine, recipe.machine.trainer
    if engine in ENGINES or parse_reference(engine):
        yield from engine_module(engine).conflicts(recipe)
    else:
        yield ("machine", "engine"), unknown_name("engine", engine, ENGINES)
    if trainer in TRAINERS:
        yield from trainer_module(trainer).conflicts(recipe)
    else:
        yield ("machine", "trainer"), unknown_name("trainer", trainer, TRAINERS)


@dataclass(eq=False)
class Backend:
    """The functions that open and train models. Callers replace them, for example by a fake in a test.

    `check_engine` and `check_training` are called before a run, as the functions of these names in this module.
    `engine_name` is the name of an engine of the user's own: a run is continued only with an engine of the same name.
    """

    open_engine: Callable[[Recipe, Model], Engine] = open_engine
    train: Callable[[Recipe, ChatTemplate, Model, Path, int, Path], None] = train
    load_chat_template: Callable[..., ChatTemplate] = load_chat_template
    check_engine: Callable[[Recipe, bool], list[str]] = check_engine
    check_training: Callable[[Recipe], None] = check_training
    engine_name: str | None = None

    def check_code(self, recipe: Recipe) -> None:
        """Raise UserError if the recipe's engine is code of the user's own that is not allowed, or can't be loaded.

        Commands that open a model of a run call this before they load anything, such as a tokenizer.
        """
        if self.open_engine is open_engine and parse_reference(recipe.machine.engine):
            engine_module(recipe.machine.engine)

    @classmethod
    def of_engine(cls, engine: Engine | PromptsToTexts) -> "Backend":
        """Return a backend on which every model generates with `engine`, whatever its weights.

        `engine` is an Engine, or a function that takes a list of prompts and returns a text for each. Raises UserError
        if it is something else.
        """
        name = name_of(engine)
        opened: Engine
        if isinstance(engine, type) or hasattr(engine, "generate") or not callable(engine):
            check_engine_object(engine, name)
            opened = UserEngine(cast(Engine, engine), name)
        else:
            check_callable(engine, f"engine function {name}", ("prompts",))
            opened = FunctionEngine(engine)

        def open_given(recipe: Recipe, model: Model) -> Engine:
            return opened

        def check_given(recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
            assessments = [variant.assessment for variant in recipe.variants if variant.assessment]
            if isinstance(opened, FunctionEngine) and any(entry.may_constrain for entry in assessments):
                return [FUNCTION_NOTE.format(name=name)]
            return []

        return cls(open_engine=open_given, check_engine=check_given, engine_name=name)


def guard_trainer(backend: Backend) -> Backend:
    """Return a backend whose `train`, if it is the user's own, raises UserError if it fails or writes no adapter."""
    function = backend.train
    if function is train:
        return backend
    name = f"train function {name_of(function)}"

    def guarded(
        recipe: Recipe, chat: ChatTemplate, start: Model, training_file: Path, seed: int, output_dir: Path
    ) -> None:
        with user_code(name, function):
            function(recipe, chat, start, training_file, seed, output_dir)
        if not any(output_dir.iterdir()):
            raise UserError(f"{name} wrote nothing into {output_dir}: write the adapter of the next model there")

    return replace(backend, train=guarded)


# The real libraries, as the recipe names them.
DEFAULT_BACKEND = Backend()
