"""Prompt text as data: YAML files beside this one, each with its source; filled in one pass."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import yaml

from isheep.errors import UserError

FOLDER = Path(__file__).parent


def fill(template: str, /, **values: str) -> str:
    """`template` with each `{name}` replaced once; braces inside a value or of unknown names stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda hole: values.get(hole[1], hole[0]), template)


def numbered(
    name: str, examples: Iterable[Mapping[str, str]], opened: Mapping[str, str] | None = None, key: str = "open"
) -> str:
    """A few-shot prompt of the file `name`: its `meta`, a `block` for each example, numbered from 1, and then `key`,
    with the next number and with `opened` in it, which the model goes on with."""
    text = load(name)
    blocks = [fill(text["block"], k=str(k), **example) for k, example in enumerate(examples, 1)]
    last = fill(text[key], k=str(len(blocks) + 1), **opened or {})
    return f"{text['meta']}\n\n" + "\n".join([*blocks, last])


def find(name: str) -> Path:
    """Where the prompts of `name` are: in this folder ("simple"), or at the path of a YAML file."""
    return Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"


@cache
def load(name: str) -> dict[str, str]:
    """The prompts of one file: a name in this folder ("simple") or a path to a YAML file of the same form.

    Raises UserError where there is no such file, or it can't be read, or is not a mapping of names to texts.
    """
    path = find(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(f"prompt file {name!r} not found: give one of {known}, or the path of a .yaml file")
    try:
        prompts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"prompt file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file {path} is not UTF-8 text at byte {error.start}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"prompt file {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(f"prompt file {path} must map names to texts, as {FOLDER / 'simple.yaml'} does")
    return prompts
