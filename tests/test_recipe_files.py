"""Files beside a recipe: code and texts of the user's own, and the documents about recipes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from isheep import api, extensions
from isheep.errors import UserError
from isheep.recipe import loading
from isheep.recipe.reference import render_reference
from isheep.recipe.schema import Recipe
from isheep.seeds import load_seed_file
from tests.helpers.recipe_files import write

# --- code of the user's own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "filters:\n- kind: custom\n  function: mine.py:short",
            "line 4: filters.0.function: filter {}/mine.py:short",
        ),
        ("machine:\n  engine: mine.py:open_engine", "line 3: machine.engine: engine {}/mine.py:open_engine"),
    ],
)
def test_code_is_refused_with_its_line_unless_allowed(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
    with pytest.raises(UserError) as error:
        api.load_recipe(write(tmp_path, f"model: lamb\n{text}\n"))
    assert f"mine.yaml {message.format(tmp_path)} is Python code of your own: pass allow_code=True" in str(error.value)


def test_code_is_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def short(pair):\n    return None\n")
    text = "model: lamb\nfilters: [{kind: custom, function: 'mine.py:short'}]\n"
    try:
        recipe = api.load_recipe(write(tmp_path, text), allow_code=True)
    finally:
        extensions.allow_code(False)
    assert recipe.filters[0].label == "short" and str(tmp_path) in loading.dump_recipe(recipe)


def test_differences_name_each_key() -> None:
    recipe = Recipe(model="lamb")
    changed = Recipe.model_validate({"model": "lamb", "assessment": None, "filters": [], "training": {"epochs": 3}})
    lines = loading.differences(recipe, changed)
    assert "training.epochs: 2 -> 3" in lines
    assert any(line.startswith("filters: [{") for line in lines)
    assert 'assessment.prompt: "combined" -> null' in lines
    assert loading.differences(recipe, recipe) == []


def test_names() -> None:
    assert {"lamb", "paper/qwen1.5-72b", "qwen2.5-0.5b"} <= set(loading.recipe_names())
    with pytest.raises(UserError, match="recipe 'lam' not found: did you mean lamb"):
        loading.find_recipe("lam")


# --- texts of the user's own in the recipe

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
SYNTHESIS = {"meta": "More.", "block": "{k}. Instruction: {instruction}", "open": "{k}. Instruction:"}


def test_prompts_and_a_chat_template_stand_in_the_recipe() -> None:
    settings = {"synthesis.prompt": SYNTHESIS, "response.prompt": {"chat": "Do this: {instruction}"}}
    settings |= {"assessment.prompt": {"quality": "{instruction} {output}"}, "assessment.criteria": ["quality"]}
    recipe = api.load_recipe("lamb", {**settings, "chat_template": CHAT, "filters": []})
    assert recipe.chat_template == CHAT and recipe.own_prompts() == []
    assert api.load_recipe(yaml.safe_load(loading.dump_recipe(recipe))) == recipe


def test_texts_are_read_from_files_and_code_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(CHAT)
    (tmp_path / "texts.py").write_text(f"RATING = {{'quality': '{{instruction}} {{output}}'}}\nCHAT = {CHAT!r}\n")
    head = "model: lamb\nassessment: {criteria: [quality], prompt: 'texts.py:RATING'}\nchat_template: "
    path = write(tmp_path, f"{head}mine.jinja\n")
    with pytest.raises(UserError, match=r"mine\.yaml line 2: assessment\.prompt: prompt .*texts\.py:RATING is Python"):
        api.load_recipe(path)
    try:
        recipe = api.load_recipe(path, allow_code=True)
        assert api.load_recipe(write(tmp_path, f"{head}texts.py:CHAT\n")) == recipe
        with pytest.raises(UserError, match=r"assessment\.prompt: .*texts\.py:CHAT is a str: make it a mapping"):
            api.load_recipe(path, [f"assessment.prompt={tmp_path}/texts.py:CHAT"])
    finally:
        extensions.allow_code(False)
    assert recipe.chat_template == CHAT
    assert recipe.assessment and recipe.assessment.prompt == {"quality": "{instruction} {output}"}
    with pytest.raises(UserError, match=r"line 3: chat_template: nowhere\.jinja: can't be read: No such file"):
        api.load_recipe(write(tmp_path, "model: lamb\n\nchat_template: nowhere.jinja\n"))


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("response.prompt", 3, "response.prompt must be a name, a .yaml file, or a mapping of names to texts; found 3"),
        ("response.prompt", {"chat": 3}, "response.prompt must be a name, a .yaml file, or a mapping"),
        ("chat_template", "mistral", "take one of qwen, llama3, tokenizer, a .jinja file, or the Jinja text"),
        ("synthesis.prompt", {"meta": "x"}, "the prompt in the recipe has no 'block'; it needs meta, block, open"),
        ("synthesis.prompt", {**SYNTHESIS, "block": "{k}."}, "'block' in the prompt in the recipe has no Instruction:"),
        ("synthesis.prompt", {**SYNTHESIS, "open": "Instruction: "}, "'open' must end with 'Instruction:'"),
        ("synthesis.prompt", "mine.yaml", "prompt file 'mine.yaml' not found"),
        ("response.prompt", {"chat": "Do it."}, "the prompt in the recipe asks for no answer"),
        ("assessment.prompt", {"quality": "{instruction}{output}"}, "no criterion 'following', only quality"),
    ],
)
def test_texts_that_cannot_be_used(key: str, value: object, wrong: str) -> None:
    with pytest.raises(UserError, match=re.escape(wrong)):
        api.load_recipe("lamb", {key: value})


# --- the documents

DOCS = Path(__file__).parents[1] / "docs"


def test_the_reference_of_keys_is_up_to_date() -> None:
    text = (DOCS / "recipe.md").read_text(encoding="utf-8")
    assert text == render_reference(), "python -m isheep.recipe.reference > docs/recipe.md"


def test_every_key_has_a_description() -> None:
    rows = [line for line in render_reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100 and not [row for row in rows if "|  |  |" in row]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_examples_of_prompts_and_seeds_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [text for page in ("prompts.md", "seeds.md") for text in blocks(page, "yaml")]
    for text in texts:
        name = "rating.yaml" if text.startswith("# rating.yaml") else "recipe.yaml"
        path = write(tmp_path, text, name)
        assert name == "rating.yaml" or api.load_recipe(path)
    assert len(texts) == 9
    write(tmp_path, "".join(blocks("seeds.md", "json")), "seeds.jsonl")
    assert [len(seed.output) > 0 for seed in load_seed_file(tmp_path / "seeds.jsonl").tasks] == [True] * 4
    names: dict[str, Any] = {}
    for text in blocks("prompts.md", "python"):
        exec(text.replace("import isheep", "from isheep import api as isheep"), names)
    assert names["recipe"].assessment.prompt == names["rating"]
