"""Limits of chat templates, which are programs: a few characters can ask for gigabytes, or for days.

Jinja's sandbox, in which transformers renders them, keeps a template from files and from Python's objects, and bounds
neither its time nor its memory. So a template that isheep does not know is first rendered in a process of its own. A
template may still behave otherwise with other texts, and every rendering is refused that is far longer than its texts.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from isheep.errors import UserError, one_line
from isheep.files.reading import MAX_TEXT_BYTES
from isheep.recipe.packaged import PACKAGED_MODELS

BEGIN = "import sys; sys.path.append(sys.argv[1]); from isheep.models.template_child import main; main()"

CPU_SECONDS, MEMORY = 10, 2**30
"""What rendering three short dialogues may take: seconds of computing, and bytes of address space."""
CLOCK_SECONDS = 300.0

MAX_ADDED, MAX_FACTOR = 2**20, 10
"""A rendering has at most MAX_FACTOR times the characters of its texts, and MAX_ADDED more."""

DIALOGUES = ("user", "user assistant", "user assistant user")

REASONS = {
    "size": f"writes more than {MAX_ADDED} characters for a short dialogue",
    "memory": f"needs more than {MEMORY / 2**30:.0f} GiB of memory for a short dialogue",
    "time": f"computes for more than {CPU_SECONDS} seconds for a short dialogue",
}


def is_too_long(text: str, contents: list[str]) -> bool:
    """Return whether a rendering is far longer than the texts in it."""
    return len(text) > MAX_ADDED + MAX_FACTOR * sum(map(len, contents))


def find_excess(template: str, tokens: Mapping[str, Any]) -> str | None:
    """Return what a template takes too much of, as the end of a message; None if it is within the limits.

    `tokens` are the tokenizer's special tokens by their roles, which a template may write.
    """
    if len(template) > MAX_TEXT_BYTES:
        return f"has {len(template)} characters; at most {MAX_TEXT_BYTES} are read"
    if template in _known_templates():
        return None
    return _find_excess(template, json.dumps({name: str(token) for name, token in sorted(tokens.items())}))


@lru_cache(maxsize=1)
def _known_templates() -> frozenset[str]:
    """Return the templates of the models that isheep includes."""
    files = (folder / "chat_template.jinja" for folder in PACKAGED_MODELS.values())
    return frozenset(file.read_text(encoding="utf-8") for file in files if file.is_file())


@lru_cache(maxsize=64)
def _find_excess(template: str, tokens: str) -> str | None:
    job = {
        "template": template,
        "tokens": json.loads(tokens),
        "dialogues": [_variables(roles.split(), parts) for roles in DIALOGUES for parts in (False, True)],
        "most_characters": MAX_ADDED,
        "cpu_seconds": CPU_SECONDS,
        "memory": MEMORY,
    }
    try:
        # -P: a file of the working directory must not stand in for a library.
        command = [sys.executable, "-P", "-c", BEGIN, str(Path(__file__).parents[2])]
        process = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=CLOCK_SECONDS)
    except subprocess.TimeoutExpired:
        return REASONS["time"]
    outcome = process.stdout.strip()
    if process.returncode == 0:
        return REASONS.get(outcome)
    # The kernel ends a process that has used up its seconds.
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return REASONS["time"]
    if process.returncode < 0:
        return f"ends the process that renders it by {signal.Signals(-process.returncode).name}"
    raise UserError(f"a chat template can't be checked: {one_line(process.stderr[-200:])}")


def _variables(roles: list[str], parts: bool) -> dict[str, Any]:
    """Return what a template sees of a dialogue with short turns, an open one if a user has the last word."""
    content: Any = [{"type": "text", "text": "Name a city."}] if parts else "Name a city."
    messages = [{"role": role, "content": content} for role in roles]
    return {"messages": messages, "add_generation_prompt": roles[-1] == "user", "tools": None, "documents": None}
