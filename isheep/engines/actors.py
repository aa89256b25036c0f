"""A pool of Ray actors that run engines: it starts them, lends each one to a single call, and replaces dead ones."""

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
from isheep.recipe.machine import Machine
from isheep.records import Model
from isheep.rundir.progress import console

# The number of failed starts for each replica after which the run ends, if no replica is alive.
MAX_FAILED_STARTS = 3
# Seconds without a live replica, until the user is told and until the run ends.
NOTICE_AFTER, GIVE_UP_AFTER = 15.0, 600.0
# Seconds to wait for a free actor before looking again at those that are starting.
POLL_INTERVAL = 0.2
# The size of the object store of a Ray that we start, in bytes. It holds only the texts and results of current calls.
OBJECT_STORE_BYTES = 2**27
# Packages that must have the same version on all nodes, because another version may compute other results.
COMPARED_PACKAGES = ("torch", "transformers", "tokenizers", "peft")
# Prefixes of the environment variables that actors take over from this process, because they may change the results.
FORWARDED_VARIABLES = ("ONEDNN_", "DNNL_", "MKL_", "ATEN_", "CUBLAS_", "TOKENIZERS_", "HF_HUB_OFFLINE")


class Replica:
    """The code of an actor: a process that has an engine on one model at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        # torch reads some of the variables when it is imported, which has not happened yet.
        os.environ.update(environment)
        self.model: Model | None = None

    def check_versions(self, expected: dict[str, str]) -> None:
        """Raise UserError if a version of this node is not the expected one."""
        differences = [
            f"{name} {version}, not {expected[name]}"
            for name, version in versions().items()
            if version != expected[name]
        ]
        if differences:
            raise UserError(f"{node_name()} has {', '.join(differences)}: install the same versions on all nodes")

    def call(
        self, open_single: Callable[[Model], Engine], model: Model, number: int, name: str, arguments: tuple[Any, ...]
    ) -> "ReplicaAnswer":
        """Return the result of the method `name` of an engine on `model`, for the call of this number.

        If the actor has another model, that one is closed and `open_single` opens the new one. Raises UserError if this
        node can't read the model.
        """
        if model != self.model:
            self.close(self.model)
            if model.adapter and not model.adapter.is_dir():
                raise UserError(
                    f"{node_name()} can't read {model.adapter}: give a run folder on a file system of all nodes"
                )
            try:
                self.engine, self.model = open_single(model), model
            except UserError as error:
                raise UserError(f"{node_name()}: {error}") from None
        return ReplicaAnswer(number, self.model, node_name(), getattr(self.engine, name)(*arguments))

    def close(self, model: Model | None) -> None:
        """Close the engine if it is on `model`."""
        if self.model and model == self.model:
            self.engine.close()
            self.model = None


class ReplicaAnswer(NamedTuple):
    """What a replica sends back: the number of the call, the model that computed it, its node, and the result."""

    number: int
    model: Model | None
    node: str
    result: Any


class ActorResources(NamedTuple):
    """The resources that an actor requests from Ray."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        if self.gpus:
            return f"{self.cpus} CPU and {self.gpus} GPU"
        return f"{self.cpus} CPU"


class ReplicaPool:
    """The actors of this process: those that are starting, and those that are alive, some of which are free."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.ray = machine, import_ray()
        self.resources, self.owns_ray = join_ray(self.ray, machine)
        environment = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED_VARIABLES)}
        options = {"num_cpus": self.resources.cpus, "num_gpus": self.resources.gpus, "scheduling_strategy": "SPREAD"}
        actor_class = self.ray.remote(Replica).options(**options)
        self.new_actor: Callable[[], Any] = lambda: actor_class.remote(environment)
        self.lock, self.free = threading.Lock(), queue.SimpleQueue[Any]()
        # The actor by the pending result of its `check_versions`.
        self.starting: dict[Any, Any] = {}
        self.alive: list[Any] = []
        self.num_deaths = 0
        # Since when no replica has been alive, and whether the user has been told.
        self.empty_since, self.is_reported = 0.0, False

    def take(self) -> Any | None:
        """Return a free actor, which the caller puts back into `free`, or None if there is none after POLL_INTERVAL.

        The actors start at the first call. Raises UserError if an actor can't start, or if none does for a long time.
        """
        with self.lock:
            if not self.alive and not self.starting:
                self._begin_waiting()
                for _ in range(self.machine.replicas):
                    self._start_actor()
            if self.starting:
                self._admit_started()
            if not self.alive:
                self._check_waiting()
        try:
            actor = self.free.get(timeout=POLL_INTERVAL)
        except queue.Empty:
            return None
        try:
            # This closes nothing. It fails if the actor has died since its last call.
            self.ray.get(actor.close.remote(None))
        except self.ray.exceptions.RayError:
            self.replace(actor)
            return None
        return actor

    def replace(self, actor: Any, repeats_call: bool = False) -> None:
        """Kill an actor that has died or is no longer wanted, and start another one, wherever Ray has room for it.

        With `repeats_call` the user is told that the actor's call is made again.
        """
        with self.lock:
            if actor not in self.alive:
                return
            self.alive.remove(actor)
            self._begin_waiting()
            # Its process may be alive if only the connection to it is broken.
            self.ray.kill(actor)
            self._start_actor()
            if repeats_call:
                self.num_deaths += 1
        if repeats_call:
            console.print(
                f"a replica died: another one repeats its batch ({self.num_deaths} died so far)", markup=False
            )

    def release(self, model: Model, busy: set[Any]) -> None:
        """Free the memory of the engines on `model`, and kill the `busy` actors, whose results are no longer wanted.

        On GPUs all actors end, because a GPU's memory is freed completely only when the process ends.
        """
        for actor in [*busy]:
            self.ray.kill(actor)
        if self.resources.gpus:
            self.end()
            return
        closed = [actor.close.remote(model) for actor in self.alive if actor not in busy]
        # An actor that has died has nothing to close.
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.get(closed)

    def end(self) -> None:
        """Kill all actors. The next call of `take` starts new ones."""
        with self.lock:
            for actor in (*self.alive, *self.starting.values()):
                self.ray.kill(actor)
            self.alive, self.starting, self.free = [], {}, queue.SimpleQueue()

    def _start_actor(self) -> None:
        actor = self.new_actor()
        self.starting[actor.check_versions.remote(versions())] = actor

    def _admit_started(self) -> None:
        """Move the actors that have started to the free ones. Raises UserError if one can't start."""
        finished, _ = self.ray.wait(list(self.starting), num_returns=len(self.starting), timeout=0)
        for check in finished:
            actor = self.starting.pop(check)
            try:
                self.ray.get(check)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else start_error(error) from error
            except self.ray.exceptions.RayError as error:
                self.num_deaths += 1
                if not self.alive and self.num_deaths > MAX_FAILED_STARTS * self.machine.replicas:
                    raise start_error(error) from error
                self._start_actor()
            else:
                self.alive.append(actor)
                self.free.put(actor)

    def _begin_waiting(self) -> None:
        self.empty_since, self.is_reported = time.monotonic(), False

    def _check_waiting(self) -> None:
        """Tell the user after NOTICE_AFTER that no replica is alive. Raises UserError after GIVE_UP_AFTER."""
        waited, cluster = time.monotonic() - self.empty_since, self.ray.cluster_resources()
        total = f"{cluster.get('CPU', 0):g} CPU and {cluster.get('GPU', 0):g} GPU"
        reason = f"each needs {self.resources}, and Ray has {total} in total"
        if waited > GIVE_UP_AFTER:
            raise UserError(
                f"no replica has started in {GIVE_UP_AFTER:g} s: {reason}; completed batches are saved: run the same"
                " command to continue, with fewer machine.threads or machine.device: cpu if they need more than Ray has"
            )
        if waited > NOTICE_AFTER and not self.is_reported:
            self.is_reported = True
            console.print(f"waiting for a replica to start: {reason}", markup=False, soft_wrap=True)


pool_lock = threading.Lock()
# The pool of this process. It stays when an engine is closed, so that the next model finds started actors.
current_pool: ReplicaPool | None = None


def pool_of(machine: Machine) -> ReplicaPool:
    """Return the pool that the settings ask for: the current one if it has these settings, otherwise a new one."""
    global current_pool
    with pool_lock:
        if current_pool and current_pool.ray.is_initialized():
            if _pool_settings(current_pool.machine) == _pool_settings(machine):
                return current_pool
            current_pool.end()
            if current_pool.owns_ray:
                current_pool.ray.shutdown()
        current_pool = ReplicaPool(machine)
        return current_pool


def _pool_settings(machine: Machine) -> tuple[Any, ...]:
    return machine.ray, machine.replicas, machine.threads, machine.device


def join_ray(ray: Any, machine: Machine) -> tuple[ActorResources, bool]:
    """Join the cluster of `machine.ray`, or start a Ray here; return an actor's resources, and whether we started it.

    If this process has joined a Ray already, that one is used. Raises UserError if there is none, or if this machine
    has fewer GPUs than replicas.
    """
    is_joined = ray.is_initialized()
    if not is_joined:
        _initialize_ray(ray, machine)
    num_gpus = ray.cluster_resources().get("GPU", 0)
    needs_gpu = machine.device == "cuda" or (machine.device is None and num_gpus > 0)
    if needs_gpu and not machine.ray and num_gpus < machine.replicas:
        raise UserError(
            f"machine.replicas is {machine.replicas}, each on its own GPU, and this machine has {num_gpus:g}:"
            " lower it, or set machine.device: cpu"
        )
    owns_ray = not is_joined and not machine.ray
    return ActorResources(machine.threads or 1, int(needs_gpu)), owns_ray


def _initialize_ray(ray: Any, machine: Machine) -> None:
    check_ray(machine)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would print a paragraph about each death to our standard output, and has no public setting against it.
    importlib.import_module("ray._private.worker")._worker_logs_enabled = False  # type: ignore[attr-defined]
    options: dict[str, Any] = {}
    if not machine.ray:
        options["num_cpus"] = (machine.threads or 1) * machine.replicas
        options["object_store_memory"] = OBJECT_STORE_BYTES
        options["include_dashboard"] = False
    try:
        ray.init(machine.ray or "local", log_to_driver=False, logging_level="ERROR", **options)
    # Each kind of address fails with another type of error.
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise UserError(f"machine.ray {machine.ray or 'null'}: {reason}") from error


def check_ray(machine: Machine) -> None:
    """Raise UserError if Ray is not installed, or if no server listens at its address. Nothing is started."""
    import_ray()
    address = os.environ.get("RAY_ADDRESS") if machine.ray == "auto" else machine.ray
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    # Ray itself would try for minutes.
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(
                f"machine.ray {address}: no server answers at this address ({error.strerror or error}); give the"
                " address that `ray start --head` printed, auto on one of its nodes, or null to start Ray here"
            ) from None


def import_ray() -> Any:
    """Return the module of Ray. Raises UserError if it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("machine.replicas and machine.ray need Ray: pip install 'isheep[ray]'") from None


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes."""
    return {"isheep": __version__} | {name: metadata.version(name) for name in COMPARED_PACKAGES}


def node_name() -> str:
    """Return the name of this node for messages."""
    return f"Ray node {socket.gethostname()}"


def start_error(error: Exception) -> UserError:
    """Return the error for an actor whose process could not start."""
    reason = error_summary(error)
    return UserError(f"a replica can't start on Ray ({reason}): all nodes need the same Python, isheep and Ray")


def error_summary(error: Exception) -> str:
    """Return the last line of an error's message, in which Ray writes the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:160]
