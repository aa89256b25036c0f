"""Write docs/recipe.md: every key of a recipe with its type, default, meaning and place in the paper.

The text comes from the schema. To update the file: python -m isheep.recipe.reference > docs/recipe.md
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from isheep.recipe.schema import Recipe

INTRODUCTION = """# The keys of a recipe

A recipe is a YAML file. The only key without a default is `model`. `isheep recipes` lists the packaged recipes, and
`like: NAME` or `like: FILE` begins a recipe with the keys of another one. On the command line `KEY=VALUE` sets a key,
such as `training.epochs=1` (the key `epochs` of the section `training`) or `filters.0.at_least=7` (the first filter).
Values are those of YAML 1.2: only `true` and `false` are truth values, and numbers are written in plain digits.

This page is generated from the schema (`python -m isheep.recipe.reference`), and a test compares them. "Paper" is the
place in Liang et al. 2024.
"""

_PAPER = re.compile(
    r"Algorithm 1(?:, line \d+)?|Section \d+(?:\.\d+)?|Appendix [A-E]|Tables? \d+|Figure \d+|lines? \d+"
)
# A place in another paper stands in parentheses that name its authors.
_OTHER_PAPER = re.compile(r"\([^()]*et al\.[^()]*\)")
_NAMES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "object": "mapping"}


def render_reference() -> str:
    """Return the text of docs/recipe.md."""
    schema = Recipe.model_json_schema()
    titles: dict[str, list[str]] = {}
    for title, name in _nested(schema, "", schema):
        titles.setdefault(name, []).append(f"`{title}`")
    sections = [_section("The recipe", schema, schema)]
    sections += [_section(", ".join(titles[name]), schema["$defs"][name], schema) for name in titles]
    return "\n".join([INTRODUCTION, *sections]).rstrip() + "\n"


def _nested(part: dict[str, Any], path: str, schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the sections inside a part of the schema, depth first: (title, name in the schema's definitions)."""
    for key, field in part["properties"].items():
        inner_path = f"{path}.{key}" if path else key
        for name in _references(field):
            section = schema["$defs"][name]
            kind = section["properties"].get("kind", {}).get("const")
            yield (f"{inner_path}, kind: {kind}" if kind else inner_path), name
            # A filter inside another filter has its own table already.
            if not kind:
                yield from _nested(section, inner_path, schema)


def _references(field: Any) -> Iterator[str]:
    """Yield the names of the sections that a field may hold."""
    if isinstance(field, dict):
        if "$ref" in field:
            yield field["$ref"].rpartition("/")[2]
        for key, value in field.items():
            if key in ("anyOf", "oneOf", "allOf", "items"):
                yield from _references(value)
    elif isinstance(field, list):
        for value in field:
            yield from _references(value)


def _section(title: str, part: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return one section: its description, and a table of its keys."""
    rows = [_row(key, field, part, schema) for key, field in part["properties"].items()]
    lines = [f"## {title}", "", _text(part.get("description", "")), ""]
    return "\n".join([*lines, "| key | type | default | meaning | paper |", "|---|---|---|---|---|", *rows, ""])


def _row(key: str, field: dict[str, Any], part: dict[str, Any], schema: dict[str, Any]) -> str:
    description = _text(field.get("description", ""))
    sources = ", ".join(dict.fromkeys(_PAPER.findall(_OTHER_PAPER.sub("", description))))
    cells = (f"`{key}`", _type(field, schema), _default(key, field, part), description, sources)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _text(description: str) -> str:
    return " ".join(description.split())


def _default(key: str, field: dict[str, Any], part: dict[str, Any]) -> str:
    if key in part.get("required", ()):
        return "required"
    default = field.get("default")
    if isinstance(default, dict) and default:
        return "see its keys"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a field's type in words, such as "integer, at least 1, or null"."""
    if "$ref" in field:
        return "section"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    for union in ("anyOf", "oneOf"):
        if union in field:
            branches = list(dict.fromkeys(_type(branch, schema) for branch in field[union]))
            comma = "," if any("," in branch for branch in branches) else ""
            return f"{comma} or ".join(branches)
    if field.get("type") == "array":
        return f"list of {_plural(_items(field, schema))}"
    if field.get("type") == "null":
        return "null"
    return ", ".join([_NAMES.get(field.get("type", ""), "any value"), *_limits(field)])


def _items(field: dict[str, Any], schema: dict[str, Any]) -> str:
    items: dict[str, Any] = field.get("items") or next(iter(field.get("prefixItems", [])), {})
    return _type(items, schema)


def _plural(name: str) -> str:
    return {"text": "texts", "integer": "integers", "section": "sections", "number, at least 0": "two numbers"}.get(
        name, name
    )


def _limits(field: dict[str, Any]) -> Iterator[str]:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    for key, word in words.items():
        if key in field:
            yield f"{word} {field[key]:g}"


if __name__ == "__main__":
    print(render_reference(), end="")
