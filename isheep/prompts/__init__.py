"""Prompt text as data: YAML files beside this one, each with its source; filled in one pass."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from isheep.errors import UserError

FOLDER = Path(__file__).parent


def fill_template(template: str, /, **values: str) -> str:
    """`template` with each `{name}` replaced once; braces inside a value or of unknown names stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda hole: values.get(hole[1], hole[0]), template)


def render_few_shot(
    name: str, examples: Iterable[Mapping[str, str]], opened: Mapping[str, str] | None = None, key: str = "open"
) -> str:
    """A few-shot prompt of the file `name`: its `meta`, a `block` for each example, numbered from 1, and then `key`,
    with the next number and with `opened` in it, which the model goes on with."""
    text = load_prompts(name)
    blocks = [fill_template(text["block"], k=str(k), **example) for k, example in enumerate(examples, 1)]
    last = fill_template(text[key], k=str(len(blocks) + 1), **opened or {})
    return f"{text['meta']}\n\n" + "\n".join([*blocks, last])


def find_prompt_file(name: str) -> Path:
    """Where the prompts of `name` are: in this folder ("simple"), or at the path of a YAML file."""
    return Path(name) if is_user_file(name) else FOLDER / f"{name}.yaml"


def is_user_file(name: str) -> bool:
    """Whether `name` is a file of the user's own rather than one of this folder."""
    return name.endswith((".yaml", ".yml"))


def read_prompt_file(name: str) -> Any:
    """What a prompt file holds: a name in this folder ("simple", "dromedary/principles") or a path to a YAML file.

    Raises UserError where there is no such file, or it can't be read.
    """
    path = find_prompt_file(name)
    if not path.is_file():
        known = ", ".join(sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.rglob("*.yaml")))
        raise UserError(f"prompt file {name!r} not found: give one of {known}, or the path of a .yaml file")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"prompt file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file {path} is not UTF-8 text at byte {error.start}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"prompt file {path} is not YAML: {' '.join(str(error).split())}") from None


@cache
def load_prompts(name: str) -> dict[str, str]:
    """The prompts of one file, as `read` finds it. Raises UserError where it is not a mapping of names to texts."""
    prompts = read_prompt_file(name)
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(
            f"prompt file {find_prompt_file(name)} must map names to texts, as {FOLDER / 'simple.yaml'} does"
        )
    return prompts
