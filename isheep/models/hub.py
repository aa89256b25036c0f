"""The Hugging Face Hub: its names of models, and whether it answers, which libraries find out only after minutes."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from isheep.errors import UserError, describe_exception

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

# Seconds to wait for an answer of the Hub. The libraries wait up to a minute, because they try again.
TIMEOUT = 3.0


def hub_settings(checkpoint: str) -> dict[str, Any]:
    """Return the arguments with which transformers loads a checkpoint: files on this machine only, if the Hub is away.

    `checkpoint` is a folder or a name on the Hub. Raises UserError if it is a name, nothing answers at the Hub, and no
    file of the model is on this machine.
    """
    if Path(checkpoint).is_dir():
        return {}
    from huggingface_hub import constants, try_to_load_from_cache

    # Offline, the libraries ask nobody, and say so.
    if constants.HF_HUB_OFFLINE or (problem := _hub_problem(constants.ENDPOINT)) is None:
        return {}
    if isinstance(try_to_load_from_cache(checkpoint, "config.json"), str):
        return {"local_files_only": True}
    raise UserError(
        f"model {checkpoint!r} not found: there is no folder of this name, the Hub's files on this machine do not have "
        f"it, and {constants.ENDPOINT} can't be reached ({problem}); give a checkpoint's folder"
    )


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
