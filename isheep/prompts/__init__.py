"""Prompt texts as data: YAML files beside this one, each with its source. Templates are filled in one pass."""

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from isheep.errors import UserError, quote_path
from isheep.files.yaml_files import read_yaml

FOLDER = Path(__file__).parent

PromptSource = str | Mapping[str, str]
"""Where prompts come from: the name of a file in this folder ("simple"), the path of a YAML file, or the texts
themselves by their names."""


def fill_template(template: str, /, **values: str) -> str:
    """Return `template` with each `{name}` replaced. Braces in values, and unknown names, stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda hole: values.get(hole[1], hole[0]), template)


def render_few_shot(
    source: PromptSource,
    examples: Iterable[Mapping[str, str]],
    opened: Mapping[str, str] | None = None,
    key: str = "open",
) -> str:
    """Return a few-shot prompt that the model continues.

    It consists of the texts of `source`: `meta`, a `block` for each example, numbered from 1, and then `key`, with the
    next number and with `opened` filled in.
    """
    text = load_prompts(source)
    blocks = [fill_template(text["block"], k=str(k), **example) for k, example in enumerate(examples, 1)]
    last = fill_template(text[key], k=str(len(blocks) + 1), **opened or {})
    return f"{text['meta']}\n\n" + "\n".join([*blocks, last])


def find_prompt_file(name: str) -> Path:
    """Return the path of a prompt file by its name in this folder ("simple"), or by its path."""
    return Path(name) if is_user_file(name) else FOLDER / f"{name}.yaml"


def is_user_file(source: PromptSource) -> bool:
    """Return whether `source` is a file of the user's own: neither one of this folder nor the texts themselves."""
    return isinstance(source, str) and source.endswith((".yaml", ".yml"))


def is_jinja_text(text: str) -> bool:
    """Return whether a text is a Jinja template rather than the name of one."""
    return "{{" in text or "{%" in text


def describe_source(source: PromptSource) -> str:
    """Return what a message calls the prompts of `source`."""
    return f"prompt file {find_prompt_file(source)}" if isinstance(source, str) else "the prompt in the recipe"


def read_prompt_file(name: str) -> Any:
    """Return the content of a prompt file, by its name in this folder ("dromedary/principles") or by its path.

    Raises UserError if there is no such file, or it can't be read.
    """
    path = find_prompt_file(name)
    if not os.path.isfile(path):
        names = ", ".join(sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.rglob("*.yaml")))
        raise UserError(f"prompt file {quote_path(name)} not found: give one of {names}, or the path of a .yaml file")
    try:
        return read_yaml(path)
    except UserError as error:
        raise UserError(f"prompt file {error}") from None


def load_prompts(source: PromptSource) -> Mapping[str, str]:
    """Return the prompts of `source` by name. Raises UserError if its file is not a mapping of names to texts."""
    return _load_prompt_file(source) if isinstance(source, str) else source


@cache
def _load_prompt_file(name: str) -> Mapping[str, str]:
    prompts = read_prompt_file(name)
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(
            f"prompt file {find_prompt_file(name)} must map names to texts, as {FOLDER / 'simple.yaml'} does"
        )
    return prompts
