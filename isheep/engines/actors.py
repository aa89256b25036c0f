"""Processes that have engines: Ray's actors, started, lent to who has a call, started anew where one died."""

import contextlib
import importlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

from isheep import __version__
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.recipe.schema import Machine
from isheep.records import Model
from isheep.rundir.progress import console

STARTS = 3  # of each replica that fail, until that is the end
NOTICE, PATIENCE = 15.0, 600.0  # seconds without any replica until that is said, and until it is the end
TICK = 0.2  # seconds between two looks at those that start
OBJECTS = 2**27  # bytes of a Ray of our own for what is on its way: texts
SAME = ("torch", "transformers", "tokenizers", "peft")  # whose versions the same bytes hang on
TOLD = ("ONEDNN_", "DNNL_", "MKL_", "ATEN_", "CUBLAS_", "TOKENIZERS_", "HF_HUB_OFFLINE")  # of the environment too


class Replica:
    """What an actor is: a process that has an engine, of one model after the other."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)  # before anything reads it: torch is not loaded yet
        self.model: Model | None = None

    def ready(self, expected: dict[str, str]) -> None:
        """Raises UserError where this node has other versions."""
        wrong = [
            f"{name} {found}, not {expected[name]}" for name, found in versions().items() if found != expected[name]
        ]
        if wrong:
            raise UserError(f"{node()} has {', '.join(wrong)}: install the same on all nodes")

    def call(self, open_one: Callable[[Model], Engine], model: Model, name: str, arguments: tuple[Any, ...]) -> Any:
        """A method of the engine on `model`. Raises UserError where this node does not have the model."""
        if model != self.model:
            self.close(self.model)
            if model.adapter and not model.adapter.is_dir():
                raise UserError(f"{node()} does not see {model.adapter}: give a run folder that all nodes share")
            try:
                self.engine, self.model = open_one(model), model
            except UserError as error:
                raise UserError(f"{node()}: {error}") from None
        return getattr(self.engine, name)(*arguments)

    def close(self, model: Model | None) -> None:
        if self.model and model == self.model:
            self.engine.close()
            self.model = None


class ActorResources(NamedTuple):
    """What an actor asks Ray for."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + f" and {self.gpus} GPU" * bool(self.gpus)


class ReplicaPool:
    """Actors that start, and those that live, of which some are free."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.ray = machine, library()
        self.needs, self.own = join(self.ray, machine)
        environment = {name: value for name, value in os.environ.items() if name.startswith(TOLD)}
        options = {"num_cpus": self.needs.cpus, "num_gpus": self.needs.gpus, "scheduling_strategy": "SPREAD"}
        kind = self.ray.remote(Replica).options(**options)
        self.new: Callable[[], Any] = lambda: kind.remote(environment)
        self.lock, self.free = threading.Lock(), queue.SimpleQueue[Any]()
        self.starting: dict[Any, Any] = {}  # the actor by the result of its `ready`
        self.alive: list[Any] = []
        self.died = 0
        self.none_since, self.told = 0.0, False

    def start(self) -> None:
        actor = self.new()
        self.starting[actor.ready.remote(versions())] = actor

    def take(self) -> Any | None:
        """A free actor, waited for a moment. Raises UserError where one can't start, and where none does for long."""
        with self.lock:
            if not self.alive and not self.starting:
                self.none_since, self.told = time.monotonic(), False
                for _ in range(self.machine.replicas):
                    self.start()
            if self.starting:
                self.admit()
            if not self.alive:
                self.wait()
        try:
            actor = self.free.get(timeout=TICK)
            self.ray.get(actor.close.remote(None))  # closes nothing: it may have died since it was at work
            return actor
        except queue.Empty:
            pass
        except self.ray.exceptions.RayError:
            self.lost(actor)
        return None

    def admit(self) -> None:
        """Those that have started are free."""
        ready, _ = self.ray.wait(list(self.starting), num_returns=len(self.starting), timeout=0)
        for started in ready:
            actor = self.starting.pop(started)
            try:
                self.ray.get(started)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else unable(error) from error
            except self.ray.exceptions.RayError as error:
                self.died += 1
                if not self.alive and self.died > STARTS * self.machine.replicas:
                    raise unable(error) from error
                self.start()
            else:
                self.alive.append(actor)
                self.free.put(actor)

    def wait(self) -> None:
        """None lives: that is said after a while, and is the end after a longer one."""
        waited, has = time.monotonic() - self.none_since, self.ray.cluster_resources()
        has = f"each needs {self.needs}, and Ray has {has.get('CPU', 0):g} CPU and {has.get('GPU', 0):g} GPU in all"
        if waited > PATIENCE:
            raise UserError(
                f"no replica has started in {PATIENCE:g} s: {has}; nothing that was finished is lost: the same command"
                " goes on, with fewer machine.threads or machine.device: cpu if they ask for too much"
            )
        if waited > NOTICE and not self.told:
            self.told = True
            console.print(f"waiting for a replica to start: {has}", markup=False, soft_wrap=True)

    def lost(self, actor: Any, again: bool = False) -> None:
        """A new one in the place of one that died, wherever Ray has room for it. `again`: so is a call that it had."""
        with self.lock:
            if actor not in self.alive:
                return
            self.alive.remove(actor)
            self.none_since, self.told = time.monotonic(), False
            self.ray.kill(actor)  # it may live behind a broken connection
            self.start()
            self.died += again
        if again:
            console.print(f"a replica died, its batch is done again ({self.died} so far)", markup=False)

    def rest(self, model: Model, under_way: set[Any]) -> None:
        """Nobody wants `model`, or what is `under_way` with it, any more. On GPUs only an end gives all memory back."""
        for actor in [*under_way]:
            self.ray.kill(actor)
        if self.needs.gpus:
            self.end()
            return
        closed = [actor.close.remote(model) for actor in self.alive if actor not in under_way]
        with contextlib.suppress(self.ray.exceptions.RayError):  # the dead have nothing to close
            self.ray.get(closed)

    def end(self) -> None:
        with self.lock:
            for actor in (*self.alive, *self.starting.values()):
                self.ray.kill(actor)
            self.alive, self.starting, self.free = [], {}, queue.SimpleQueue()


opening = threading.Lock()
current: ReplicaPool | None = None  # this process's: the actors stay when an engine is closed


def pool_of(machine: Machine) -> ReplicaPool:
    """The actors that `machine` asks for: those that are there, or new ones."""
    global current
    with opening:
        there = current and current.ray.is_initialized()
        if there and current and _asked(current.machine) == _asked(machine):
            return current
        if there and current:
            current.end()
            if current.own:
                current.ray.shutdown()
        current = ReplicaPool(machine)
        return current


def _asked(machine: Machine) -> tuple[Any, ...]:
    return machine.ray, machine.replicas, machine.threads, machine.device


def join(ray: Any, machine: Machine) -> tuple[ActorResources, bool]:
    """Join the Ray of `machine.ray`, or start one: what a replica is to ask it for, and whether it is ours.

    A Ray that this process has joined already is taken as it is. Raises UserError where none can be had.
    """
    cpus, joined = machine.threads or 1, ray.is_initialized()
    if not joined:
        check_ray(machine)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # It has no setting for this: of each death it would write a paragraph to our standard output.
        importlib.import_module("ray._private.worker")._worker_logs_enabled = False  # type: ignore[attr-defined]
        own = {"num_cpus": cpus * machine.replicas, "object_store_memory": OBJECTS, "include_dashboard": False}
        try:
            ray.init(machine.ray or "local", log_to_driver=False, logging_level="ERROR", **({} if machine.ray else own))
        except Exception as error:  # each kind of address fails in its own way
            said = " ".join(str(error).split())[:400] or type(error).__name__
            raise UserError(f"machine.ray {machine.ray or 'null'}: {said}") from error
    cards = ray.cluster_resources().get("GPU", 0)
    gpus = int(machine.device == "cuda" or machine.device is None and cards > 0)
    if gpus and not machine.ray and cards < machine.replicas:
        raise UserError(
            f"machine.replicas is {machine.replicas}, each on a GPU of its own, and this machine has {cards:g}:"
            " lower it, or set machine.device: cpu"
        )
    return ActorResources(cpus, gpus), not (joined or machine.ray)


def check_ray(machine: Machine) -> None:
    """Raises UserError where Ray is not installed, or nobody listens at its address. Starts nothing."""
    library()
    address = os.environ.get("RAY_ADDRESS") if machine.ray == "auto" else machine.ray
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():  # Ray itself waits for minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(
                f"machine.ray {address}: nobody answers there ({error.strerror or error}); give the address that"
                " `ray start --head` showed, auto on one of its nodes, or null to start Ray here"
            ) from None


def library() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("machine.replicas and machine.ray need Ray: pip install 'isheep[ray]'") from None


def versions() -> dict[str, str]:
    return {"isheep": __version__} | {name: metadata.version(name) for name in SAME}


def node() -> str:
    return f"Ray node {socket.gethostname()}"


def unable(error: Exception) -> UserError:
    return UserError(f"a replica can't start on Ray ({brief(error)}): all nodes need this Python, isheep and Ray")


def brief(error: Exception) -> str:
    """The last line of what Ray says, which has the reason."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:160]
