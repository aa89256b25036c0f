"""Replicas: several engines in Ray's actors, on this machine or the nodes of a cluster, that share the calls."""

import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from isheep.engines import Engine
from isheep.engines.actors import ReplicaAnswer, ReplicaPool, check_ray, error_summary, pool_of
from isheep.engines.checks import WrongResult, check_result
from isheep.errors import Conflicts, UserError, excerpt
from isheep.models.checkpoint import find_checkpoint
from isheep.recipe.machine import Machine
from isheep.recipe.packaged import PACKAGED_MODELS
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling, TokenLogprobs
from isheep.rundir import progress

# The numbers of the calls of this process.
call_numbers = itertools.count(1)
# The number of replicas that one call may lose: a batch that ends three processes would end the next one too.
ATTEMPTS = 3


def open_from_recipe(open_single: Callable[[Recipe, Model], Engine], recipe: Recipe, model: Model) -> Engine:
    """Return the recipe's replicas on a model, or one engine in this process if the recipe asks for no replicas.

    `open_single` opens a single engine. The actors import it by its name, so it must be a function of a module.
    """
    machine = recipe.machine
    if not uses_ray(machine):
        return open_single(recipe, model)
    single = recipe.model_copy(update={"machine": machine.model_copy(update={"threads": machine.threads or 1})})
    return open_engine(partial(open_single, single), model, machine)


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


def open_engine(open_single: Callable[[Model], Engine], model: Model, machine: Machine) -> "Replicas":
    """Return `machine.replicas` engines in Ray's actors. They start at first use, and `open_single` opens each engine.

    `open_single` is imported by its name on the nodes. Raises UserError if `model` is a path without a checkpoint.
    """
    base = Path(find_checkpoint(model.base))
    # Actors have another working folder, and on other nodes the package may be installed elsewhere.
    is_local = base.is_dir() and base not in PACKAGED_MODELS.values()
    checkpoint = str(base.resolve()) if is_local else model.base
    return Replicas(open_single, Model(checkpoint, model.adapter and model.adapter.resolve()), machine)


class Replicas:
    """An `isheep.engines.Engine` of several engines in Ray's actors. Open it with `open_engine`.

    A call is computed as a whole by one free actor, so that the result does not depend on which actor it is. Calls from
    several threads (`max_in_flight`) are computed at the same time. If an actor dies, its call is made again on another
    one.
    """

    def __init__(self, open_single: Callable[[Model], Engine], model: Model, machine: Machine) -> None:
        self.open_single, self.model, self.machine = open_single, model, machine
        # The pool of the last call; None if there was no call since the engine was closed.
        self.pool: ReplicaPool | None = None
        # The actors that compute a call of this engine.
        self.busy: set[Any] = set()
        # How often the engine was closed, and how often each thread knows of. Threads of an interrupted stage may go on
        # for a while: they know of fewer closings, and their calls must not open the engine again.
        self.num_closings, self.thread_state = 0, threading.local()

    @property
    def max_in_flight(self) -> int:
        """The number of replicas.

        Joins Ray, or starts it, in the calling thread: Ray's processes end with the thread that started them, so it
        must not be a thread of a stage.
        """
        pool_of(self.machine)
        return self.machine.replicas

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return the completions of one of the engines."""
        return self._completions("generate", prompts, sampling, seed)

    def generate_seeded(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """Return the completions of one of the engines, each drawn with its own seed."""
        return self._completions("generate_seeded", prompts, sampling, seeds)

    def _completions(self, name: str, *arguments: Any) -> list[Completion]:
        completions: list[Completion] = self._call(name, *arguments)
        progress.report(tokens=sum(completion.tokens for completion in completions), rows=len(completions))
        return completions

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Return the log-probabilities of one of the engines."""
        logprobs: list[TokenLogprobs] = self._call("logprobs", prompts, outputs)
        return logprobs

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """Return the options' probabilities of one of the engines."""
        probabilities: list[list[float]] = self._call("choices", prompts, options)
        return probabilities

    def embed(self, texts: Sequence[str]) -> Any:
        """Return the embeddings of one of the engines."""
        return self._call("embed", texts)

    def close(self) -> None:
        """Free the engines' memory and end the calls in progress. A later call of this thread opens the engines again.

        Actors without a GPU stay for the next model. Actors with one end, which alone frees all of the GPU's memory.
        """
        self.num_closings += 1
        self.thread_state.num_closings = self.num_closings
        pool, self.pool = self.pool, None
        if pool:
            pool.release(self.model, self.busy)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Return the result of an engine's method.

        Raises the method's error, or UserError if ATTEMPTS actors die, or if an actor's answer is wrong.
        """
        number = next(call_numbers)
        num_closings = getattr(self.thread_state, "num_closings", self.num_closings)
        self.thread_state.num_closings = num_closings
        for attempt in range(1, ATTEMPTS + 1):
            pool, actor = self._take_actor(num_closings)
            errors = pool.ray.exceptions
            self.busy.add(actor)
            try:
                answer = pool.ray.get(actor.call.remote(self.open_single, self.model, number, name, arguments))
            # The engine raised an error.
            except errors.RayTaskError as error:
                pool.free.put(actor)
                raise error.cause from error
            # The actor died.
            except errors.RayError as error:
                last_error = error
                pool.replace(actor, repeats_call=attempt < ATTEMPTS and num_closings == self.num_closings)
            # Ctrl-C: the result is not wanted any more.
            except BaseException:
                pool.replace(actor)
                raise
            else:
                pool.free.put(actor)
                return self._check_answer(answer, number, name, arguments)
            finally:
                self.busy.discard(actor)
        raise UserError(
            f"{ATTEMPTS} replicas died of one batch ({error_summary(last_error)}); completed batches are saved: run the"
            " same command to continue, with a lower machine.engine_batch_size or fewer replicas on a node if there was"
            " not enough memory"
        )

    def _check_answer(self, answer: Any, number: int, name: str, arguments: Sequence[Any]) -> Any:
        """Return the result in an actor's answer. Raises UserError if it can't be the result of this call."""
        node = f"a replica on {answer.node}" if isinstance(answer, ReplicaAnswer) else "a replica"
        try:
            if not isinstance(answer, ReplicaAnswer):
                raise WrongResult(excerpt(answer), "an answer with its call and its model")
            if answer.number != number:
                raise WrongResult(f"the result of call {answer.number}", f"that of call {number}")
            if answer.model != self.model:
                raise WrongResult(
                    f"a result of {_describe_model(answer.model)}", f"one of {_describe_model(self.model)}"
                )
            return check_result(name, answer.result, arguments)
        except WrongResult as error:
            raise UserError(
                f"{node} answered {name} with {error.found_text}, in place of {error.needed}; nothing of it is "
                "written, and completed batches are saved: restart Ray with the same isheep on all nodes, then run the "
                "same command"
            ) from None

    def _take_actor(self, num_closings: int) -> tuple[ReplicaPool, Any]:
        """Wait for a free actor. Raises RuntimeError if another thread closes the engine, as after an interruption."""
        while num_closings == self.num_closings:
            pool = self.pool = pool_of(self.machine)
            if actor := pool.take():
                return pool, actor
        raise RuntimeError("the engine was closed while a thread of an interrupted stage still used it")


def _describe_model(model: Model | None) -> str:
    """Return a model in words."""
    if model is None:
        return "no model"
    return f"{model.base!r} with the adapter {str(model.adapter)!r}" if model.adapter else repr(model.base)
