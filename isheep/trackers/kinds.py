"""The trackers that a recipe can name, and how a run is opened in each of them by the classes of accelerate."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = "isheep"

ITERATION, STEP = "iteration", "step"
"""The two axes: the iteration, and the optimizer steps of a training."""

SERIES = {ITERATION: ("scores", "data", "diversity", "cost"), STEP: ("training",)}
"""How the names of the series on each axis begin."""

RUN_TAG = "isheep_run"
"""The tag by which a resumed run is found in MLflow."""


class TrackedRun(NamedTuple):
    """What a tracker has to know: the name of the run, an id that it keeps when it is resumed, a folder for files.

    `settings` are those of the recipe by their keys.
    """

    name: str
    id: str
    folder: Path
    settings: dict[str, Any]


def _nothing(tracker: Any, run: TrackedRun) -> None:
    """Leave a tracker as it is."""


def _store_settings(tracker: Any, run: TrackedRun) -> None:
    tracker.store_init_configuration(run.settings)


class TrackerKind(NamedTuple):
    """A tracker: the arguments of accelerate's class for it, and what is done once it has started.

    `prepare` is called whenever it has started, `store_settings` only in a new run. `takes_steps`: it takes the place
    on the axis as a step. Otherwise it gets it as a value beside the others.
    """

    arguments: Callable[[TrackedRun], dict[str, Any]]
    prepare: Callable[[Any, TrackedRun], None] = _nothing
    store_settings: Callable[[Any, TrackedRun], None] = _store_settings
    takes_steps: bool = True


def _tensorboard(run: TrackedRun) -> dict[str, Any]:
    return {"run_name": "tensorboard", "logging_dir": str(run.folder)}


def _write_settings(tracker: Any, run: TrackedRun) -> None:
    """Write the settings as text. The class of accelerate would put them into a run of their own."""
    text = json.dumps(run.settings, indent=1, ensure_ascii=False)
    tracker.log({"recipe": "\n".join(f"    {line}" for line in text.splitlines())}, step=0)


def _wandb(run: TrackedRun) -> dict[str, Any]:
    """Return the arguments of wandb.init. The settings keep output, code and facts about the machine here."""
    import wandb

    settings = wandb.Settings(
        console="off", silent=True, save_code=False, disable_code=True, disable_git=True, x_disable_meta=True,
        x_disable_machine_info=True, x_disable_stats=True, x_save_requirements=False, host=PROJECT,
    )  # fmt: skip
    project, folder = os.environ.get("WANDB_PROJECT", PROJECT), os.environ.get("WANDB_DIR", str(run.folder))
    return {
        "run_name": project, "name": run.name, "id": run.id, "resume": "allow", "dir": folder, "settings": settings
    }  # fmt: skip


def _define_wandb_axes(tracker: Any, run: TrackedRun) -> None:
    """Give each series its axis. A step of W&B counts calls, and can't go back when the next training begins."""
    for axis, beginnings in SERIES.items():
        tracker.tracker.define_metric(axis)
        for beginning in beginnings:
            tracker.tracker.define_metric(f"{beginning}/*", step_metric=axis)


def _mlflow(run: TrackedRun) -> dict[str, Any]:
    """Return the arguments of mlflow.start_run: a file in the run folder stores it, or what MLFLOW_TRACKING_URI names.

    MLflow chooses the ids of its runs, so that of a resumed run is looked up.
    """
    import mlflow

    # A server that does not answer must not hold up a run for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    is_local = not os.environ.get("MLFLOW_TRACKING_URI")
    folder = run.folder.resolve()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}" if is_local else os.environ["MLFLOW_TRACKING_URI"])
    experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = mlflow.get_experiment_by_name(experiment_name)
    runs: Any = []
    if experiment:
        client = mlflow.MlflowClient()
        runs = client.search_runs([experiment.experiment_id], f"tags.{RUN_TAG} = '{run.id}'", max_results=1)
    return {
        "experiment_name": experiment_name,
        "logging_dir": str(folder / "mlflow") if is_local else None,
        "run_id": runs[0].info.run_id if runs else None,
        "run_name": run.name,
        "tags": _mlflow_tags(run),
    }


def _mlflow_tags(run: TrackedRun) -> dict[str, str]:
    """Return the id of the run, and names in place of the path of the program and the user, which MLflow fills in."""
    return {RUN_TAG: run.id, "mlflow.source.name": PROJECT, "mlflow.user": PROJECT}


def _set_mlflow_tags(tracker: Any, run: TrackedRun) -> None:
    import mlflow

    # MLFLOW_TAGS may have replaced them.
    mlflow.set_tags(_mlflow_tags(run))


def _trackio(run: TrackedRun) -> dict[str, Any]:
    """Return the arguments of trackio.init. It knows a run by its name, over all runs of the user.

    The settings go with them, because those of a resumed run would be replaced by none.
    """
    name, no_facts = f"{run.name}-{run.id}", {"auto_log_cpu": False, "auto_log_gpu": False}
    return {"run_name": PROJECT, "name": name, "resume": "allow", "config": run.settings, **no_facts}


TRACKERS = {
    "tensorboard": TrackerKind(_tensorboard, store_settings=_write_settings),
    "wandb": TrackerKind(_wandb, _define_wandb_axes, takes_steps=False),
    "mlflow": TrackerKind(_mlflow, _set_mlflow_tags),
    "trackio": TrackerKind(_trackio, store_settings=_nothing),
}
"""The trackers by the name that accelerate, their package and a recipe's machine.track give them."""
