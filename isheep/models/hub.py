"""The Hugging Face Hub: its names of models, and whether it answers, which libraries find out only after minutes."""

import re
from functools import cache
from pathlib import Path

from isheep.errors import UserError, describe_exception
from isheep.recipe.packaged import similar_model

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

# Seconds to wait for an answer of the Hub. The libraries wait up to a minute, because they try again.
TIMEOUT = 3.0


def check_hub(checkpoint: str) -> None:
    """Raise UserError if a checkpoint is a name on the Hub, nothing answers there, and its files are not here.

    If they are, the libraries look for nothing on the Hub in this process any more. `checkpoint` may be a folder.
    """
    if Path(checkpoint).is_dir() or _is_offline_by_choice():
        return
    from huggingface_hub import constants

    problem = _hub_problem(constants.ENDPOINT)
    if problem is None:
        return
    constants.HF_HUB_OFFLINE = True
    if cached_commit(checkpoint) is None:
        raise UserError(
            f"model {checkpoint!r} not found: there is no folder of this name, the Hub's files on this machine do not "
            f"have it, and {constants.ENDPOINT} can't be reached ({problem}); give a checkpoint's folder"
            f"{similar_model(checkpoint)}"
        )


def cached_commit(name: str) -> str | None:
    """Return the commit of a model's files from the Hub on this machine, or None if they are not here."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "config.json")
    return Path(path).parent.name if isinstance(path, str) else None


@cache
def _is_offline_by_choice() -> bool:
    """Return whether the user has set HF_HUB_OFFLINE. Then the libraries ask nobody, and say so."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@cache
def _hub_problem(endpoint: str) -> str | None:
    """Return why the Hub does not answer, or None if it does. Asks once in a process."""
    from huggingface_hub import get_session

    try:
        status = get_session().head(endpoint, timeout=TIMEOUT).status_code
    # The library's errors are of another class in each of its versions.
    except Exception as error:
        return describe_exception(error)
    return f"HTTP {status}" if status >= 500 else None
