"""Render a chat template within limits of time and memory: a program that isheep.models.template_limits starts.

The job is JSON on standard input: the template, the dialogues and the special tokens. The environment is that of
transformers. What a template raises is not judged here; a template within the limits prints "within".
"""

import json
import resource
import sys
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from isheep.prompts.generation_block import GenerationBlock


def raise_exception(message: str) -> None:
    raise TemplateError(message)


def render_all(job: dict[str, Any]) -> str:
    """Return "within" if no rendering is longer than the limit, else "size"."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = json.dumps
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: "26 Jul 2024"}
    for variables in job["dialogues"]:
        try:
            text = environment.from_string(job["template"]).render(**variables, **job["tokens"])
        except MemoryError:
            raise
        # A template may raise any exception, and is told of it where it is used.
        except Exception:
            continue
        if len(text) > job["most_characters"]:
            return "size"
    return "within"


def main() -> None:
    """Read the job, set the limits and print the outcome."""
    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_seconds"], job["cpu_seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    try:
        print(render_all(job))
    except MemoryError:
        print("memory")
