"""Replicas: several engines in Ray's actors, on this machine or a cluster's nodes, that share one engine's calls."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from isheep.engines import Engine
from isheep.engines.actors import ReplicaPool, brief, check_ray, pool_of
from isheep.errors import Conflicts, UserError
from isheep.models.checkpoint import find_checkpoint
from isheep.recipe.packaged import PACKAGED_MODELS
from isheep.recipe.schema import Machine, Recipe
from isheep.records import Completion, Model, Sampling, TokenLogprobs

ATTEMPTS = 3  # at one call: a batch that ends every process it meets is not the machines' fault


def open_from_recipe(open_one: Callable[[Recipe, Model], Engine], recipe: Recipe, model: Model) -> Engine:
    """Return the recipe's replicas on a model, or one engine in this process if the recipe asks for no replicas.

    `open_one` opens a single engine. The actors import it by its name, so it must be a function of a module.
    """
    machine = recipe.machine
    if not uses_ray(machine):
        return open_one(recipe, model)
    single = recipe.model_copy(update={"machine": machine.model_copy(update={"threads": machine.threads or 1})})
    return open_engine(partial(open_one, single), model, machine)


def uses_ray(machine: Machine) -> bool:
    """Return whether the engine runs in actors of Ray."""
    return machine.replicas > 1 or machine.ray is not None


def check(recipe: Recipe) -> None:
    """Raise UserError if the recipe asks for replicas and Ray is not installed, or does not answer."""
    if uses_ray(recipe.machine):
        check_ray(recipe.machine)


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings that exclude each other if the engine has replicas, each of which has a GPU of its own."""
    machine = recipe.machine
    if uses_ray(machine) and machine.device and ":" in machine.device:
        yield ("machine", "device"), f"{machine.device} is one GPU, and each replica has its own: take cuda"


def open_engine(open_one: Callable[[Model], Engine], model: Model, machine: Machine) -> "Replicas":
    """`machine.replicas` engines, as `open_one` opens them, in Ray's actors. Cheap: they start at first use.

    `open_one` is looked up by its name on their nodes. Raises UserError where `model` is a path without a checkpoint.
    """
    base = Path(find_checkpoint(model.base))
    # Actors have another working folder, and on other nodes the package may lie elsewhere.
    is_local = base.is_dir() and base not in PACKAGED_MODELS.values()
    checkpoint = str(base.resolve()) if is_local else model.base
    return Replicas(open_one, Model(checkpoint, model.adapter and model.adapter.resolve()), machine)


class Replicas:
    """`isheep.engines.Engine` of several engines. Open it with `open_engine`.

    A call goes as it is, whole, to an actor that is free: who computes it changes nothing, and calls are answered at
    the same time where threads make them (`max_in_flight`). A call whose actor dies is made again, on another one.
    """

    def __init__(self, open_one: Callable[[Model], Engine], model: Model, machine: Machine) -> None:
        self.open_one, self.model, self.machine = open_one, model, machine
        self.pool: ReplicaPool | None = None  # the one that was asked last
        self.under_way: set[Any] = set()  # actors
        self.closings, self.seen = 0, threading.local()  # how often it was closed, and what each thread saw of that

    @property
    def max_in_flight(self) -> int:
        """The replicas. Joins Ray, or starts it: its processes end with the thread that did, so no stage's may."""
        pool_of(self.machine)
        return self.machine.replicas

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        done: list[Completion] = self._call("generate", prompts, sampling, seed)
        return done

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        done: list[TokenLogprobs] = self._call("logprobs", prompts, outputs)
        return done

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        done: list[list[float]] = self._call("choices", prompts, options)
        return done

    def embed(self, texts: Sequence[str]) -> Any:
        return self._call("embed", texts)

    def close(self) -> None:
        """Gives the engines' memory back, and ends calls that are under way. A later call opens them again.

        The actors stay for the next model, but for those with a GPU: only a process that ends leaves nothing there.
        """
        self.closings += 1
        self.seen.closings = self.closings
        pool, self.pool = self.pool, None
        if pool:
            pool.rest(self.model, self.under_way)

    def _call(self, name: str, *arguments: Any) -> Any:
        """What an engine's method gives. Raises what it raises, and UserError where `ATTEMPTS` actors die of it."""
        seen = self.seen.closings = getattr(self.seen, "closings", self.closings)
        for attempt in range(1, ATTEMPTS + 1):
            pool, actor = self._take(seen)
            errors = pool.ray.exceptions
            self.under_way.add(actor)
            try:
                done = pool.ray.get(actor.call.remote(self.open_one, self.model, name, arguments))
            except errors.RayTaskError as error:  # the engine's own
                pool.free.put(actor)
                raise error.cause from error
            except errors.RayError as error:
                last = error
                pool.lost(actor, again=attempt < ATTEMPTS and seen == self.closings)
            except BaseException:  # Ctrl-C: what it is at is not wanted
                pool.lost(actor)
                raise
            else:
                pool.free.put(actor)
                return done
            finally:
                self.under_way.discard(actor)
        raise UserError(
            f"{ATTEMPTS} replicas died of one batch ({brief(last)}); nothing that was finished is lost: give the same"
            " command again, with a lower machine.engine_batch_size or fewer replicas on a node if their memory was too"
            " small"
        )

    def _take(self, seen: int) -> tuple[ReplicaPool, Any]:
        """A free actor, waited for. A thread of a stage that was left may have none: the engine is closed under it."""
        while seen == self.closings:
            pool = self.pool = pool_of(self.machine)
            if actor := pool.take():
                return pool, actor
        raise RuntimeError("closed, under a stage that was left")
