"""Seed files load in each of their forms, and what is wrong with one is told in one line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from isheep import align, load_recipe
from isheep.errors import UserError
from isheep.export import formats
from isheep.records import Pair
from isheep.seeds import load_seed_file, of_kind
from tests.helpers.command import refused
from tests.helpers.data_files import SEED_TASKS

SELF_INSTRUCT = {
    "id": "seed_task_0",
    "name": "opposite",
    "instruction": "Give the opposite.\u2028Be brief.",
    "instances": [{"input": "hot", "output": "cold"}, {"input": "up", "output": "down"}],
    "is_classification": False,
}
ALPACA = {"instruction": " Name a colour. ", "input": "", "output": "Red.", "text": "unused"}


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "seeds.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_self_instruct_and_plain_lines_mix_and_the_first_instance_counts(tmp_path: Path) -> None:
    lines = [json.dumps(SELF_INSTRUCT, ensure_ascii=False), "", json.dumps({"instruction": "Sing.", "input": None})]
    first, second = load_seed_file(write(tmp_path, "\r\n".join(lines))).tasks
    assert (first.id, first.input, first.output) == ("seed_task_0", "hot", "cold")
    assert first.instruction == SELF_INSTRUCT["instruction"]  # a line separator within a text splits no line
    assert (first.is_classification, second.is_classification) == (False, None)
    assert second.model_dump(exclude={"is_classification"}) == {
        "id": "seed-1", "instruction": "Sing.", "input": "", "output": "",
    }  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_alpaca_json(tmp_path: Path, indent: int | None, start: bytes) -> None:
    entries = [ALPACA, ALPACA | {"input": "<noinput>"}]
    seeds = load_seed_file(write(tmp_path, start + json.dumps(entries, indent=indent).encode())).tasks
    assert [(s.id, s.instruction, s.input, s.output) for s in seeds] == [
        ("seed-0", "Name a colour.", "", "Red."),
        ("seed-1", "Name a colour.", "", "Red."),
    ]


def test_conversations_give_their_first_question_and_answer(tmp_path: Path) -> None:
    turns = [
        ("system", "Be kind."),
        ("human", "Name a colour."),
        ("gpt", "Red."),
        ("human", "Another?"),
        ("gpt", "Blue."),
    ]
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    forms = [
        {"id": "x", "conversations": [{"from": who, "value": text} for who, text in turns]},
        {"messages": [{"role": roles[who], "content": text} for who, text in turns]},
    ]
    for text in (json.dumps(forms), "\n".join(map(json.dumps, forms))):
        seeds = load_seed_file(write(tmp_path, text)).tasks
        assert [(s.id, s.instruction, s.output) for s in seeds] == [
            ("x", "Name a colour.", "Red."), ("seed-1", "Name a colour.", "Red."),
        ]  # fmt: skip


TURNS = {
    "answered": (["user", "assistant"], "a1"),
    "greeting first": (["assistant", "user", "assistant"], "a2"),
    "a call that the text spells": (["user", "assistant", "observation", "assistant"], ""),
    "tool turns between": (["system", "user", "function_call", "observation", "assistant"], ""),
    "two questions": (["user", "user", "assistant"], ""),
    "no answer": (["user"], ""),
}


@pytest.mark.parametrize("case", TURNS)
@pytest.mark.parametrize(
    "names", [("human", "gpt"), ("user", "chatgpt"), ("User", "model"), ("prompter", "assistant"), ("human", "ai")]
)
def test_the_answer_is_the_turn_directly_after_the_question(tmp_path: Path, case: str, names: tuple[str, str]) -> None:
    roles, answer = TURNS[case]
    user, assistant = names
    turns = [
        {"from": {"user": user, "assistant": assistant}.get(role, role), "value": f"{role[0]}{index}"}
        for index, role in enumerate(roles)
    ]
    seed_file = load_seed_file(write(tmp_path, json.dumps({"conversations": turns})))
    [seed] = seed_file.tasks
    assert seed.instruction == f"u{roles.index('user')}" and seed.output == answer
    assert len(seed_file.notices) == ("system" in roles) + (not answer)


@pytest.mark.parametrize(
    "text",
    [
        "<NOINPUT>",
        "No input",
        "<noinput>",
        "(none).",
        "N/A",
        "n.a.",
        "null",
        "no_input",
        "No  input required.",
        "No further input",
        "no additional input needed.",
        "ＮＯＮＥ",
        "<blank>",
    ],
)
def test_no_input_is_written_in_many_ways(tmp_path: Path, text: str) -> None:
    [seed] = load_seed_file(write(tmp_path, json.dumps({"instruction": "Name a colour.", "input": text}))).tasks
    assert seed.input == ""


def test_dollys_names_of_fields_are_read(tmp_path: Path) -> None:
    entry = {"instruction": "Name the capital.", "context": "Austria", "response": "Vienna.", "category": "open_qa"}
    [seed] = load_seed_file(write(tmp_path, json.dumps(entry))).tasks
    assert (seed.instruction, seed.input, seed.output) == ("Name the capital.", "Austria", "Vienna.")


def test_a_blank_answer_of_a_conversation_is_none(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": " \n"}]
    seed_file = load_seed_file(write(tmp_path, json.dumps({"conversations": turns})))
    assert not seed_file.tasks[0].output and "1 of 1 conversations have no answer" in seed_file.notices[0]


@pytest.mark.parametrize("form", ["alpaca", "sharegpt", "messages"])
def test_what_is_exported_can_be_seed_tasks(tmp_path: Path, form: str) -> None:
    pair = Pair(id="t1-0", instruction="Name a colour.", output="Red.", finish="stop", tokens=2, seed=0)
    formats.write_dataset([pair], form, tmp_path / "data.json")
    [seed] = load_seed_file(tmp_path / "data.json").tasks
    assert (seed.content, seed.output) == (pair.content, pair.output)


GOOD = json.dumps(ALPACA)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["the file is empty"]),
        ("\n \n", ["the file is empty"]),
        ("[]", ["the file is empty"]),
        (f"{GOOD}\n\n{{'instruction': 1}}\n", ["line 3", "not JSON"]),
        (f'{GOOD}\n{GOOD}\n{{"instruction": "Cut', ["line 3", "not JSON"]),
        (f"{GOOD}\n[1, 2]", ["line 2", "found [1, 2]"]),
        ('{"instruction": "a", "output": "b", "response": "c"}', ["line 1", "output and response, which may differ"]),
        ('{"instruction": "a", "instances": [{}], "context": "c"}', ["line 1", "instances and context"]),
        ('{"instruction": "  "}', ["line 1", "the instruction is missing or empty"]),
        (f'[{GOOD},\n{{"input": "x"}}]', ["entry 2", "the instruction is missing or empty"]),
        (f"[{GOOD},\n{GOOD},\n", ["line 3", "not JSON"]),
        ('{"instruction": ["a"]}', ["line 1", "instruction must be text", '["a"]']),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', ["line 1", "no turn of a user"]),
        ('{"conversations": [3, {"from": ["human"], "value": "a"}]}', ["line 1: turn 1 must be an object"]),
        ('{"conversations": [{"from": ["human"], "value": "a"}]}', ["turn 1 has the unknown role \"['human']\""]),
        ('{"conversations": [{"from": "narrator", "value": "a"}]}', ["turn 1 has the unknown role 'narrator'"]),
        (
            json.dumps({"data": [ALPACA], "version": 1}),
            ["'data', 'version'", "the list under 'data'"],
        ),
        (json.dumps({"data": [ALPACA]}, indent=1), ["one JSON object", "save the list under 'data' as the file"]),
        (json.dumps({"mine": {"file_name": "mine.json"}}, indent=2), ["an index of datasets", "names: mine.json"]),
        (json.dumps({"mine": {"hf_hub_url": "a/b"}}), ["an index of datasets", "as a local file"]),
        (json.dumps({"items": ["a"]}), ["one JSON object with the keys 'items'", "or one per line"]),
        ("{}", ["one empty JSON object"]),
        ('{"instruction": "a", "instruction": "b"}', ["line 1: not JSON that can be read", "occurs twice"]),
        (json.dumps({**ALPACA, "messages": []}), ["messages and instruction, which may differ"]),
        ('{"messages": [{"role": "user", "content": ["a"]}]}', ["instruction must be text", '["a"]']),
        ('{"instruction": "a", "instances": []}', ["line 1", "instances", "[]"]),
        ('{"instruction": "a", "instances": [{"input": 3}]}', ["line 1", "input must be text", "3"]),
        ('{"instruction": "\\ud800"}', ["line 1", "surrogate"]),
        ('{"instruction": "a", "is_classification": "no"}', ["line 1", "is_classification must be true or", '"no"']),
        ('{"instruction": ' + "9" * 5000 + "}", ["line 1", "not JSON"]),
        ("{" + '"a":[' * 100_000, ["line 1", "not JSON"]),
        (b'{"instruction": "\xff"}', ["not UTF-8", "byte 17"]),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str | bytes, parts: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_seed_file(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300 + len(str(path))
    assert all(part in message for part in [str(path), *parts]), message


def test_no_file_and_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.jsonl: no such file"):
        load_seed_file(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="no such file"):
        load_seed_file(tmp_path)
    with pytest.raises(UserError, match="2 found, 5 needed"):
        load_seed_file(write(tmp_path, f"{GOOD}\n{GOOD}"), at_least=5)


def test_seeds_of_a_kind_have_an_answer_and_enough_of_each_can_be_asked_for(tmp_path: Path) -> None:
    rows = [{**ALPACA, "is_classification": kind, "output": out} for kind in (True, False, None) for out in ("x", "")]
    path = write(tmp_path, "\n".join(json.dumps(row) for row in [*rows, *rows[2:]]))
    seeds = load_seed_file(path, of_each=1).tasks
    assert [[seed.id for seed in of_kind(seeds, kind)] for kind in (True, False)] == [["seed-0"], ["seed-2", "seed-6"]]
    with pytest.raises(UserError, match="1 found with is_classification true and an output, 2 needed"):
        load_seed_file(path, of_each=2)
    with pytest.raises(UserError, match="0 found with is_classification true .* lower response.examples"):
        load_seed_file(write(tmp_path, json.dumps(ALPACA)), of_each=2)


@pytest.mark.skipif(not SEED_TASKS.is_file(), reason=f"no public seed tasks: {SEED_TASKS} (set ISHEEP_DATA)")
def test_the_public_seed_tasks_load_as_they_are() -> None:
    seeds = load_seed_file(SEED_TASKS, at_least=5).tasks
    assert len(seeds) == len({seed.id for seed in seeds}) == 175
    assert sum(not seed.input for seed in seeds) == 50
    assert all(seed.instruction and seed.output for seed in seeds)


# --- what a run says of its seed tasks


def write_instructions(tmp_path: Path, *instructions: str) -> Path:
    return write(tmp_path, "\n".join(json.dumps({"instruction": text}) for text in instructions))


def test_an_id_of_several_tasks_is_said(tmp_path: Path) -> None:
    entries = [{"id": "a", "instruction": "Name a colour."}, {"id": "a", "instruction": "Name a fruit."}]
    [notice] = load_seed_file(write(tmp_path, json.dumps(entries))).notices
    assert notice.endswith('1 ids stand for several tasks, such as "a"')


@pytest.mark.parametrize(
    "more",
    [{"system": "You are a pirate."}, {"system_prompt": "Be brief."}, {"tools": "[]"}, {"history": [["Hi", "Hello"]]}],
)
@pytest.mark.parametrize("form", ["conversation", "task"])
def test_context_beside_the_turns_or_the_task_is_said(tmp_path: Path, form: str, more: dict[str, Any]) -> None:
    turns = [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Red."}]
    entry = {"conversations": turns} if form == "conversation" else {"instruction": "Name a colour.", "output": "Red."}
    [notice] = load_seed_file(write(tmp_path, json.dumps({**entry, **more}))).notices
    assert "the system texts, tools and earlier turns of 1 entries are not used" in notice


def test_the_text_beside_a_call_of_a_tool_is_no_answer(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "Let me look.", "tool_calls": [{"id": "1"}]}
    turns = [{"role": "user", "content": "What is the weather?"}, call, {"role": "assistant", "content": "Sunny."}]
    assert load_seed_file(write(tmp_path, json.dumps({"messages": turns}))).tasks[0].output == ""


def test_one_task_over_several_lines_is_read(tmp_path: Path) -> None:
    assert len(load_seed_file(write(tmp_path, json.dumps(ALPACA, indent=2))).tasks) == 1


def test_repeated_seed_tasks_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins = ["Name a colour of the sky.", "Add 3 and 4.", "Écris trois mots.", "E\u0301cris  Trois mots."]
    path = write_instructions(tmp_path, *twins[:2] * 4, *twins)
    recipe = load_recipe("lamb", {"seed_tasks": str(path)})
    # The base model comes first: nothing has been generated, and the seed tasks have been read.
    next(iter(align(recipe, tmp_path / "run", engine=lambda prompts: [""] * len(prompts))))
    assert "12 entries are 3 different tasks; the others repeat them" in capsys.readouterr().err


def test_seed_tasks_in_a_script_that_the_language_does_not_compare_are_refused(tmp_path: Path) -> None:
    path = write_instructions(tmp_path, "请写出三种颜色的名字", "Nenne drei schöne Farben", "用一句话介绍北京")
    settings = [f"seed_tasks={path}", "synthesis.examples=2"]
    error = refused("run", "lamb", *settings, "--out", tmp_path / "run")
    assert "2 of 3 instructions are mostly in another script than language: en" in error
    assert "set language: any" in error and not (tmp_path / "run").exists()


def test_a_gzipped_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert load_seed_file(path).tasks == load_seed_file(write(tmp_path, GOOD)).tasks
    path.write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(UserError, match="can't be read"):
        load_seed_file(path)
