"""Trackers: the losses and figures of a run in TensorBoard, Weights & Biases, MLflow or Trackio, as they are made.

The classes of accelerate speak to them; a new tracker of accelerate is one line in kinds.py. The process that runs the
recipe sends everything, the losses of trainings in child processes too: a run is one run of the tracker. The trainer's
own `report_to` would open another run in every training, and send all its arguments, which name folders of the machine.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from isheep.errors import Conflicts, UserError, describe_exception, unknown_name
from isheep.recipe.public import public_settings
from isheep.recipe.schema import Recipe
from isheep.rundir import progress
from isheep.rundir.atomic import write_json
from isheep.rundir.folder import RunFolder
from isheep.trackers.figures import iteration_figures, training_losses
from isheep.trackers.kinds import ITERATION, STEP, TRACKERS, TrackedRun

TRACKING_DIR = "tracking"
SENT_FILE = "sent.json"
"""Everything that trackers got of a run, by tracker, series and step. What is there is not sent again."""


# --- before a run


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the names in machine.track that are not known or stand there twice."""
    for index, name in enumerate(recipe.machine.track):
        if name not in TRACKERS:
            yield ("machine", "track", index), unknown_name("tracker", name, TRACKERS)
        elif name in recipe.machine.track[:index]:
            yield ("machine", "track", index), f"tracker {name} is there twice: take it once"


def check_trackers(recipe: Recipe) -> None:
    """Raise UserError if the package of a tracker that the recipe names is missing."""
    for name in recipe.machine.track:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"machine.track names {name}, which is not installed: pip install 'isheep[{name}]', or leave it out"
            )


# --- during a run


@contextlib.contextmanager
def track_run(recipe: Recipe, folder: RunFolder) -> Iterator[Callable[[int], None]]:
    """Send the losses of the trainings inside the block to the recipe's trackers.

    Yields the function that sends the figures of a finished iteration. An error of a tracker never ends the run.
    """
    sender = _Sender(recipe, folder)

    def send_losses(iteration: int | None, step: int, losses: Mapping[str, float]) -> None:
        # The curves of the iterations lie over each other.
        by_series = {f"training/{name}/iteration {iteration}": value for name, value in losses.items()}
        sender.send(STEP, step, by_series)

    def send_figures(iteration: int) -> None:
        if not sender.names:
            return
        try:
            losses, figures = list(training_losses(folder, iteration)), iteration_figures(recipe, folder, iteration)
        # A trainer or benchmark of the user's own may leave files of another form.
        except Exception as error:
            return folder.notify(f"trackers get no figures of iteration {iteration}: {describe_exception(error)}")
        # Those of a trainer that did not report them, or of an adapter that was taken over.
        for step, name, value in losses:
            send_losses(iteration, step, {name: value})
        sender.send(ITERATION, iteration, figures)

    try:
        with progress.listen_to_losses(send_losses):
            yield send_figures
    finally:
        sender.close()


class _Sender:
    """Sends numbers to the trackers of a run. A tracker is opened when there is something new for it."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.names, self.recipe, self.folder = list(recipe.machine.track), recipe, folder
        self.open_trackers: dict[str, Any] = {}
        self.path = folder.path / TRACKING_DIR / SENT_FILE
        self.sent: dict[str, Any] = _read_sent(self.path) if self.names else {}

    def send(self, axis: str, position: int, values: Mapping[str, float]) -> None:
        """Send the values that a tracker has not got yet."""
        values = {_series_name(name): value for name, value in values.items()}
        for name in list(self.names):
            sent = self.sent["trackers"].get(name, {})
            fresh = {key: value for key, value in values.items() if sent.get(key, {}).get(str(position)) != value}
            if fresh and self._attempt(name, partial(self._log, name, axis, position, fresh)):
                by_series = self.sent["trackers"].setdefault(name, {})
                for key, value in fresh.items():
                    by_series.setdefault(key, {})[str(position)] = value
                write_json(self.path, self.sent)

    def close(self) -> None:
        """End the trackers that are open."""
        for name, tracker in self.open_trackers.items():
            if name in self.names:
                self._attempt(name, tracker.finish)

    def _log(self, name: str, axis: str, position: int, values: dict[str, float]) -> None:
        tracker = self.open_trackers.get(name) or self._open(name)
        if TRACKERS[name].takes_steps:
            tracker.log(values, step=position)
        else:
            tracker.log({**values, axis: position})

    def _open(self, name: str) -> Any:
        """Return a tracker that has started; a new run of it gets the recipe's settings."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if not PartialState._shared_state:
            # accelerate's classes ask which process this is.
            PartialState(cpu=True)
        self.path.parent.mkdir(exist_ok=True)
        settings = dict(_flatten(public_settings(self.recipe)))
        run = TrackedRun(_run_name(self.folder.path), self.sent["id"], self.path.parent, settings)
        kind = TRACKERS[name]
        tracker = LOGGER_TYPE_TO_CLASS[name](**kind.arguments(run))
        tracker.start()
        self.open_trackers[name] = tracker
        kind.prepare(tracker, run)
        if name not in self.sent["trackers"]:
            kind.store_settings(tracker, run)
        return tracker

    def _attempt(self, name: str, call: Callable[[], Any]) -> bool:
        """Return whether a call of a tracker worked. After an error the tracker gets nothing more."""
        try:
            with _quiet():
                call()
        except Exception as error:
            self.names.remove(name)
            reason = describe_exception(error)
            self.folder.notify(f"tracker {name} gets nothing more from this process, and the run goes on: {reason}")
            return False
        return True


def _read_sent(path: Path) -> dict[str, Any]:
    """Return the record of what was sent; a new one with a new id if there is none, or if it is damaged."""
    if path.exists():
        with contextlib.suppress(ValueError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and {"id", "trackers"} <= record.keys():
                return record
    return {"id": secrets.token_hex(4), "trackers": {}}


def _run_name(run_dir: Path) -> str:
    """Return the name of the run folder, with that of its parent if it is one of several random seeds."""
    path = run_dir.resolve()
    return f"{path.parent.name}-{path.name}" if path.name.startswith("seed-") else path.name


def _series_name(name: str) -> str:
    """Return a name that every tracker takes: MLflow allows few characters."""
    return re.sub(r"[^\w\-./ :]", "_", name, flags=re.ASCII)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their keys: "training.lora.rank"; a list as JSON."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep a tracker from writing to standard output, and from asking questions in the middle of a run."""
    stdin = sys.stdin
    with (
        open(os.devnull, encoding="utf-8") as nothing,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = stdin
