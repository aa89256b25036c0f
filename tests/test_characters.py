"""Control characters, noncharacters and open directional signs in a model's text: not trained on, and counted."""

import json
from pathlib import Path

import pytest

from isheep.batching import derive_seed
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Model, Pair
from isheep.rundir.jsonl import read_rows
from isheep.stages.filters import find_drops
from isheep.stages.rules import broken_rule, unsafe_text
from isheep.text.characters import unfit_character
from tests.helpers.command import isheep
from tests.helpers.lab import SMALL, Lab, write
from tests.helpers.rows import make_pair

UNFIT = {
    "a\0b": "control character U+0000", "\x1b[31m": "control character U+001B", "a\x0cb": "control character U+000C",
    "\x7f": "control character U+007F", "\x9b1m": "control character U+009B", "\x85": "control character U+0085",
    "\ufdd0": "U+FDD0, which is no character", "\uffff": "U+FFFF, which is no character",
    "\U0010fffe": "U+10FFFE, which is no character", "\ud83d": "U+D83D, which is no character",
    "\u202egnp.exe": "U+202E, a directional sign without its counterpart",
    "\u202bA\nB\u202c": "U+202B, a directional sign without its counterpart",
    "A\u202c": "U+202C, a directional sign without its counterpart",
    "\u2067A\u202c": "U+202C, a directional sign without its counterpart",
    "\u202a\u2066\u202c\u2069": "U+202C, a directional sign without its counterpart",
}  # fmt: skip
FIT = (
    "", "a\tb\r\nc", "\u200fשלום\u200e", "می\u200cخواهم", "क्\u200dष", "👩\u200d🚀", "\u061c١", "\u202bשלום\u202c (a)",
    "\u2067\u202bA\u202c\u2069\n\u2068B\u2069", "\ue000", "\ufeff", "\u00ad", "\u2028",
)  # fmt: skip


@pytest.mark.parametrize("text", UNFIT, ids=ascii)
def test_a_text_with_such_a_character_is_unfit(text: str) -> None:
    assert unfit_character(text) == UNFIT[text] and unfit_character(f"Say {text}.") == UNFIT[text]


@pytest.mark.parametrize("text", FIT, ids=ascii)
def test_signs_that_languages_need_are_fit(text: str) -> None:
    assert unfit_character(text) is None


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
def test_such_a_pair_is_dropped_whatever_the_recipe_says(field: str) -> None:
    pairs = [make_pair(), make_pair(1, **{field: "so\0 it ends:"})]
    assert find_drops(pairs, [], True, []) == [
        Drop(row="t1-1", by="characters", why=f"{field} holds control character U+0000")
    ]


def test_such_an_instruction_becomes_no_task() -> None:
    text = "Name a city\0 in the south of France."
    assert broken_rule(text) == unsafe_text(text) == "holds control character U+0000"


class CutLab(Lab):
    """A lab whose answers are cut off in the middle of a character, which is then decoded as U+FFFD."""

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        def answer(prompt: str, seed: int) -> str:
            number = derive_seed(prompt, seed) % 10**6
            return f"It is {number}中\ufffd and more" if prompt.endswith("<|answer|>") else write(prompt, number)

        return SeededFunctionEngine(answer)


def test_an_answer_that_is_cut_off_inside_a_character_loses_the_rest_of_it(tmp_path: Path) -> None:
    response = {"sampling": {"max_tokens": 3}}
    recipe = Recipe.model_validate({**SMALL, "iterations": 1, "filters": [], "assessment": None, "response": response})
    CutLab().run_recipe(recipe, tmp_path / "run")
    pairs = read_rows(tmp_path / "run" / "iter-1" / "pairs.jsonl", Pair)
    assert pairs and all(pair.finish == "length" and pair.output.endswith("中") for pair in pairs)
    assert not read_rows(tmp_path / "run" / "iter-1" / "dropped.jsonl", Drop)


class NoisyLab(Lab):
    """A lab whose models write a NUL in some answers, and open a directional override in others."""

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        def answer(prompt: str, seed: int) -> str:
            number = derive_seed(prompt, seed) % 10**6
            text = write(prompt, number)
            noise = ("\0", "\u202e", "", "")[number % 4] if prompt.endswith("<|answer|>") else ""
            return text.replace("answer", f"answer{noise}")

        return SeededFunctionEngine(answer)


def test_a_run_counts_what_it_drops_for_its_characters(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({**SMALL, "iterations": 1, "filters": [], "assessment": None})
    NoisyLab().run_recipe(recipe, tmp_path / "run")
    drops = read_rows(tmp_path / "run" / "iter-1" / "dropped.jsonl", Drop)
    reasons = {drop.why for drop in drops if drop.by == "characters"}
    assert reasons == {
        "output holds control character U+0000",
        "output holds U+202E, a directional sign without its counterpart",
    }
    trained = json.loads((tmp_path / "run" / "iter-1" / "train.json").read_text())
    assert trained and not any(unfit_character(row["output"]) for row in trained)
    output = isheep("show", tmp_path / "run", "1", "--dropped").out
    assert "dropped by characters" in output and "\0" not in output and "\u202e" not in output
