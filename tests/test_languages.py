"""Languages: packaged prompts and seed tasks, rules by language, and tasks that a model writes in another language."""

import re
import unicodedata
from pathlib import Path
from typing import get_args

import pytest

import isheep
from isheep.prompts import load_prompts
from isheep.recipe.packaged import PACKAGED_SEEDS, SYNTHESIS_PROMPTS
from isheep.recipe.schema import Synthesis
from isheep.records import Reply
from isheep.seeds import load_seed_file
from isheep.stages.rules import broken_rule, word_rules
from isheep.stages.synthesize import read_tasks
from isheep.text.novelty import SCRIPTS, Language, is_in_script
from tests.helpers.command import refused

LANGUAGES: list[Language] = [language for language in get_args(Language) if language != "any"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_a_prompt_in_its_script_and_a_list_of_words(language: Language) -> None:
    texts, english = load_prompts(SYNTHESIS_PROMPTS[language]), load_prompts(SYNTHESIS_PROMPTS["en"])
    assert is_in_script(texts["meta"], language) and len(re.findall(r"(?m)^\d\.", texts["meta"])) == 4
    assert {name: texts[name] for name in ("block", "open")} == {name: english[name] for name in ("block", "open")}
    assert unicodedata.is_normalized("NFC", texts["meta"])
    assert language in word_rules() and language in SCRIPTS


@pytest.mark.parametrize("language", ["es", "zh"])
def test_the_packaged_seed_tasks_are_different_and_obey_the_rules(language: Language) -> None:
    tasks, notices = load_seed_file(PACKAGED_SEEDS[f"isheep-{language}"], of_each=3, language=language)
    assert len(tasks) == 40 and not notices and all(task.output for task in tasks)
    rows = [reply("\n".join(f"{k}. Instruction: {task.instruction}" for k, task in enumerate(tasks, 6))[15:])]
    accepted, rejected = read_tasks(rows, [], Synthesis(tasks=40), language, 1)
    assert [task.instruction for task in accepted] == [task.instruction for task in tasks] and not rejected


@pytest.mark.parametrize(
    ("language", "instruction", "why"),
    [
        ("es", "Dibuja una casa con jardín.", "holds the word 'dibuja'"),
        ("es", "Describe la ima\u0301gen y la imagen.", "holds the word 'imagen'"),
        ("es", "Escribe un programa que sume dos números.", "starts with 'Escribe un programa'"),
        ("es", "¿Por qué cantan los pájaros al amanecer?", None),
        ("de", "Zeichne ein Haus am See.", "holds the word 'zeichne'"),
        ("de", "Erkläre, was ein Bildhauer tut.", None),
        ("zh", "请画出一座房子", "holds the word '画出'"),
        ("zh", "写一个程序计算总和", "starts with '写一个程序'"),
        ("zh", "请写出三种颜色的名字", None),
        ("zh", "颜色呢", "3 words or fewer"),
        ("ar", "ارسم بيتا قرب البحر", "holds the word 'ارسم'"),
        ("ar", "اكتب قصة قصيرة عن البحر", None),
        ("hi", "एक सुंदर चित्र बनाइए", "holds the word 'चित्र'"),
        # The letter with a dot is written as one character or as two.
        ("hi", "इस फ़ाइल का सार लिखिए", "holds the word 'फ़ाइल'"),
        ("hi", "इस \u095eाइल का सार लिखिए", "holds the word 'फ़ाइल'"),
        ("hi", "एक छोटी कहानी हिंदी में लिखिए", None),
    ],
)
def test_the_rules_of_a_language(language: Language, instruction: str, why: str | None) -> None:
    reason = broken_rule(instruction, language)
    assert (reason and unicodedata.normalize("NFC", reason)) == (why and unicodedata.normalize("NFC", why))


def reply(text: str) -> Reply:
    return Reply(id="t1-b0000-00", text=text, finish="stop", tokens=1)


@pytest.mark.parametrize(
    ("language", "instruction"),
    [
        # One sentence with a name in Latin letters, which has more letters than the sentence has signs.
        ("zh", "用Python写一个函数的说明"),
        ("ar", "اكتب فقرة قصيرة عن مدينة Barcelona القديمة"),
        ("hi", "Python भाषा के बारे में दो वाक्य लिखिए"),
    ],
)
def test_a_task_in_another_script_is_rejected_and_names_are_allowed(language: Language, instruction: str) -> None:
    text = f" {instruction}\n6. Input: <noinput>\n###\n7. Instruction: Name three colours of the sky.\n7. Input: none\n"
    tasks, rejected = read_tasks([reply(text)], [], Synthesis(tasks=5), language, 1)
    assert [task.instruction for task in tasks] == [instruction]
    assert [(row.by, row.why) for row in rejected] == [("rules", f"mostly in another script than language: {language}")]
    repeated, rejected = read_tasks([reply(text), reply(text)], [], Synthesis(tasks=5), language, 1)
    assert repeated == tasks and [row.by for row in rejected] == ["rules", "novelty", "rules"]


def test_a_run_asks_in_its_language(tmp_path: Path) -> None:
    asked_prompts: list[str] = []

    def write_task(prompts: list[str]) -> list[str]:
        asked_prompts.extend(prompts)
        return [" Nombra tres colores del cielo.\n6. Input: <noinput>\n###"] * len(prompts)

    recipe = isheep.load_recipe(
        "lamb",
        {
            "language": "es",
            "seed_tasks": "isheep-es",
            "synthesis.tasks": 2,
            "synthesis.budget": 2,
            "filters": [],
            "evaluation": [],
        },
    )
    with pytest.raises(isheep.UserError, match="1 of 1 pairs left to train on, and training needs 2"):
        list(isheep.align(recipe, tmp_path / "run", engine=write_task))
    assert "Continúa la lista en español." in asked_prompts[0]
    assert '"Nombra tres colores del cielo."' in (tmp_path / "run/iter-1/tasks.jsonl").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["language=es"], "seed_tasks: lamb has English tasks, and the language is es: take isheep-es"),
        (["language=hi", "seed_tasks=isheep"], "isheep has English tasks, and the language is hi: take a file of your"),
        (
            ["language=zh", "seed_tasks=isheep-es"],
            "40 of 40 instructions are mostly in another script than language: zh",
        ),
        (
            ["language=es", "seed_tasks=isheep-es", "synthesis.inputs=false"],
            "the packaged prompt without inputs is Engl",
        ),
        (
            ["language=es", "seed_tasks=isheep-es", "synthesis.topics={}"],
            "synthesis.topics: the packaged guide is Engl",
        ),
        (["language=fr"], "language: input should be 'en', 'es', 'zh', 'ar', 'hi', 'de' or 'any'; found 'fr'"),
    ],
)
def test_what_is_missing_in_a_language_is_refused(tmp_path: Path, settings: list[str], message: str) -> None:
    assert message in refused("run", "lamb", *settings, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
