"""Dialogues of two turns (response.turns: 2): the model writes the user's second turn and answers it."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import isheep as package
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.export.formats import messages_row, sharegpt_row
from isheep.filters.custom import as_filter
from isheep.filters.random_choice import RandomFilter
from isheep.filters.score import ScoreFilter
from isheep.models.chat_template import load_chat_template
from isheep.plan.assumptions import token_counter
from isheep.plan.past import read_past_run
from isheep.records import AssessedPair, Completion, Exchange, Pair, Rejected, Reply, Task, first_turn_id
from isheep.rundir.run import open_run
from isheep.rundir.training_file import read_training_file, training_row
from isheep.stages.filters import find_drops, kept_pairs
from isheep.stages.follow_ups import check_dialogues, open_user_turn, read_follow_ups, user_turn_end
from isheep.stages.respond import respond
from isheep.stages.select import ways_to_more_rows
from isheep.trackers.figures import iteration_figures
from isheep.trainers.llamafactory import write_input_files
from isheep.trainers.rows import IGNORED, tokenize_row
from tests.helpers.command import isheep, refused
from tests.helpers.rows import make_pair, rate_pair
from tests.helpers.stages import stage_context, write_killed_stage

TASKS = [Task(id=f"t1-{number:05d}", instruction=f"Name thing {number}") for number in range(6)]
TWO_TURNS = {"turns": 2, "batch_size": 4}
HISTORY = (Exchange("Name a city.", "Rome"),)


def write(prompt: str, seed: int) -> str:
    """Write a question as the user, which is empty or unsafe after some answers, and an answer as the assistant."""
    if prompt.endswith("<|answer|>"):
        return f"answer {seed % 1000}"
    number = prompt.partition("thing ")[2][:1]
    return {"1": "  ", "2": "### Stop", "3": "Name thing 3"}.get(number, f"And thing {number}{number}?")


def test_the_model_asks_on_and_answers_with_the_first_turn_before_it(tmp_path: Path) -> None:
    prompts: list[str] = []

    def write_and_record(prompt: str, seed: int) -> str:
        prompts.append(prompt)
        return write(prompt, seed)

    context = stage_context(tmp_path, SeededFunctionEngine(write_and_record), response=TWO_TURNS)
    pairs = list(respond(context, TASKS))
    assert [pair.id for pair in pairs] == [*(task.id for task in TASKS), *(f"t1-0000{n}.2" for n in (0, 4, 5))]
    first, second = pairs[0], pairs[6]
    assert not first.history and second.history == (Exchange("Name thing 0", first.output),)
    assert second.instruction == "And thing 00?" and second.output.startswith("answer")
    assert second.content == f"User: Name thing 0\nAssistant: {first.output}\nUser: And thing 00?"
    opening = f"<|user|>Name thing 0<|answer|>{first.output}<|end|><|user|>"
    assert opening in prompts and f"{opening}And thing 00?<|answer|>" in prompts
    # The noise of second turns is not that of the first ones.
    assert {pair.seed for pair in pairs[:6]}.isdisjoint({pair.seed for pair in pairs[6:]})
    rejected = {row.id: row.why for row in context.folder.read("unanswered.jsonl", Rejected)}
    assert rejected == {
        "t1-00001.2": "no follow-up", "t1-00002.2": "holds '###'", "t1-00003.2": "repeats the first turn",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["first_turns.jsonl", "follow_ups.jsonl", "second_turns.jsonl"])
def test_a_killed_stage_ends_with_the_same_pairs(name: str, tmp_path: Path) -> None:
    engine = SeededFunctionEngine(write)
    whole = stage_context(tmp_path / "whole", engine, response={"turns": 2, "batch_size": 2})
    pairs = respond(whole, TASKS)
    killed = stage_context(tmp_path / "killed", engine, response={"turns": 2, "batch_size": 2})
    lines = (whole.folder.path / name).read_text().splitlines(keepends=True)
    killed.folder.path.mkdir(parents=True)
    (killed.folder.path / f"{name}.part").write_text("".join(lines[:2]) + lines[2][:9])
    assert list(respond(killed, TASKS)) == list(pairs)


def test_an_answer_that_did_not_end_or_is_empty_has_no_follow_up(tmp_path: Path) -> None:
    context = stage_context(tmp_path, SeededFunctionEngine(write), response=TWO_TURNS)
    rows = [make_pair(0, finish="length"), make_pair(1, output=""), make_pair(2)]
    write_killed_stage(context, "first_turns.jsonl", rows)
    (context.folder.path / "first_turns.jsonl.part").rename(context.folder.path / "first_turns.jsonl")
    tasks = [Task(id=row.id, instruction=row.instruction) for row in rows]
    assert [pair.id for pair in respond(context, tasks)][3:] == ["t1-2.2"]


def test_a_follow_up_that_was_cut_off_or_cannot_be_read_is_no_task() -> None:
    pairs = [make_pair(number) for number in range(3)]
    completions = [Completion("And", 1, "length"), Completion("", 0, "unreadable"), Completion("And?", 1, "stop")]
    replies = [Reply(id=pair.id, **completion._asdict()) for pair, completion in zip(pairs, completions, strict=True)]
    tasks, rejected = read_follow_ups(pairs, replies)
    assert [task.id for task in tasks] == ["t1-2.2"]
    assert [row.why for row in rejected] == ["cut off", "the server's answer can't be read"]


@pytest.mark.parametrize("text", ["User: And Italy?", "And Italy?\nAssistant: Rome"])
def test_a_follow_up_with_a_turn_of_its_own_is_no_task(text: str) -> None:
    tasks, (rejected,) = read_follow_ups([make_pair(0)], [Reply(id="t1-0", text=text, finish="stop", tokens=9)])
    assert not tasks and rejected.why.startswith("begins a turn with")
    assert read_follow_ups([make_pair(0)], [Reply(id="t1-0", text="Which User: A or B?", finish="stop", tokens=9)])[0]


@pytest.mark.parametrize(("template", "end"), [("qwen", "<|im_end|>"), ("llama3", "<|eot_id|>")])
def test_the_users_turn_ends_as_the_template_ends_it(template: str, end: str, qwen2: Path, llama: Path) -> None:
    chat = load_chat_template(template, str(qwen2 if template == "qwen" else llama))
    assert user_turn_end(chat) == end
    pair = make_pair(0, "Name a city.", "Rome")
    whole = chat.conversation([("user", "Name a city."), ("assistant", "Rome"), ("user", "And a river?")])
    opening = open_user_turn(pair, chat)
    assert whole.startswith(opening) and whole[len(opening) :].startswith(f"And a river?{end}")


def test_only_the_second_answer_of_a_dialogue_is_learned(qwen2: Path) -> None:
    chat = load_chat_template("qwen", str(qwen2))
    row = training_row(make_pair(0, "And a river?", "Tiber", history=HISTORY))
    tokens = tokenize_row(row, chat, chat.tokenizer, 1000)
    assert tokens is not None
    learned = [token for token, label in zip(tokens.input_ids, tokens.labels, strict=True) if label != IGNORED]
    prompt = tokens.input_ids[: len(tokens.input_ids) - len(learned)]
    assert chat.tokenizer.decode(learned) == "Tiber<|im_end|>"
    assert chat.tokenizer.decode(prompt).endswith(
        "user\nName a city.<|im_end|>\n<|im_start|>assistant\nRome<|im_end|>\n<|im_start|>user\nAnd a river?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_second_turn_is_dropped_with_its_first_one() -> None:
    pairs = [make_pair(0), make_pair(1, output=""), *(make_pair(f"{n}.2", history=HISTORY) for n in (0, 1))]
    drops = find_drops(pairs, [], True, [])
    assert {drop.row: (drop.by, drop.why) for drop in drops} == {
        "t1-1": ("rules", "output is empty"), "t1-1.2": ("turns", "its first turn was dropped"),
    }  # fmt: skip
    # No filter drops it, so that none that drops less gives more rows.
    assert ways_to_more_rows(drops) == "raise synthesis.tasks"


def rated_dialogue(number: int) -> list[AssessedPair]:
    """Return two turns, of which about half have a high rating, each by itself."""
    first, second = (make_pair(id, history=history) for id, history in ((number, ()), (f"{number}.2", HISTORY)))
    return [rate_pair(first, quality=9 - number % 2 * 3), rate_pair(second, quality=9 - number // 2 % 2 * 3)]


def test_as_many_drawn_dialogues_are_kept_as_a_threshold_keeps() -> None:
    pairs = [pair for number in range(40) for pair in rated_dialogue(number)]
    threshold, control = ScoreFilter(at_least=8), RandomFilter(as_many_as=ScoreFilter(at_least=8))
    kept, drawn = (kept_pairs(pairs, find_drops(pairs, [rule], True, [])) for rule in (threshold, control))
    assert len(kept) == len(drawn) == 30
    # Second turns are drawn, too, and only with their first ones.
    ids = {pair.id for pair in drawn}
    assert any(pair.history for pair in drawn) and all(first_turn_id(pair) in ids for pair in drawn)


def test_a_filter_sees_no_second_turn_without_its_first_one() -> None:
    seen: list[str] = []

    def look(pair: Pair) -> None:
        seen.append(pair.id)

    pairs = [make_pair(0, output=""), make_pair("0.2", history=HISTORY), make_pair(1)]
    find_drops(pairs, [as_filter(look)], True, [])
    assert seen == ["t1-1"]


def test_datasets_have_the_whole_dialogue(tmp_path: Path) -> None:
    rows = [make_pair(0), make_pair("0.2", "And a river?", "Tiber", history=HISTORY)]
    assert [turn["content"] for turn in messages_row(rows[1])["messages"]] == [
        "Name a city.", "Rome", "And a river?", "Tiber",
    ]  # fmt: skip
    assert [turn["from"] for turn in sharegpt_row(rows[1])["conversations"]] == ["human", "gpt"] * 2
    write_input_files(tmp_path, {"train": rows}, {"template": "llama3"})
    written = json.loads((tmp_path / "train.json").read_text())
    assert [row["history"] for row in written] == [[], [["Name a city.", "Rome"]]]
    assert json.loads((tmp_path / "dataset_info.json").read_text())["train"]["columns"]["history"] == "history"
    assert "mask_history: true" in (tmp_path / "sft.yaml").read_text()


# --- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose only iteration has dialogues, by its own settings."""
    out = tmp_path_factory.mktemp("dialogues") / "run"
    words: list[str] = ["run", "lamb", "synthesis.tasks=24", "iterations=1", "evaluation=[]", "assessment=null"]
    words += ["machine.report=false", "filters=[]", "iteration={1: {response: {turns: 2}}}", "synthesis.rules=false"]
    done = isheep(*words, "--out", out)
    assert done.code == 0, done.err
    return out


def read(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "iter-1" / name).read_text().splitlines()]


def test_a_run_of_two_turns_trains_on_both(run: Path) -> None:
    pairs = [Pair.model_validate(row) for row in read(run, "pairs.jsonl")]
    second_turns = [pair for pair in pairs if pair.history]
    assert len(read(run, "first_turns.jsonl")) == 24 == len(pairs) - len(second_turns)
    assert len(second_turns) + len(read(run, "unanswered.jsonl")) == len(read(run, "follow_ups.jsonl"))
    dropped = {row["row"] for row in read(run, "dropped.jsonl")}
    rows = read_training_file(run / "iter-1/train.json").rows
    assert [row.history for row in rows] == [pair.history for pair in pairs if pair.id not in dropped]
    assert isheep("verify", run).code == 0
    assert "second turns" in isheep("status", run).out
    assert "User: " in isheep("show", run, "1", "--page", "4").out


def test_every_text_of_a_dialogue_counts_as_written(run: Path) -> None:
    turns = [row for name in ("first_turns", "follow_ups", "second_turns") for row in read(run, f"{name}.jsonl")]
    (answers,) = [
        row for row in json.loads(isheep("status", run, "--json").out)["plan_and_reality"] if row["stage"] == "answers"
    ]
    assert answers["planned_rows"] == 3 * 24 and answers["rows"] == len(turns)
    num_tokens = sum(row["tokens"] for row in turns)
    assert answers["tokens"] == num_tokens
    recipe, folder = open_run(run)
    replies = sum(row["tokens"] for row in read(run, "replies.jsonl"))
    assert iteration_figures(recipe, folder, 1)["cost/tokens"] == num_tokens + replies


def test_a_plan_from_a_run_counts_the_turns_of_a_dialogue_once(run: Path) -> None:
    count, _ = token_counter("lamb")
    tasks = [count(Pair.model_validate(row).user_turn) for row in read(run, "pairs.jsonl")]
    assert read_past_run(run).measured[1]["task"] == fmean(tasks)


def test_the_card_of_a_dataset_tells_of_its_dialogues(run: Path, tmp_path: Path) -> None:
    for name, words in {"alpaca": "also has `history`", "messages": "a list of turns of `user`"}.items():
        assert isheep("export", run, "--as", name, "--card", "--out", tmp_path / name).code == 0
        assert words in (tmp_path / name / "README.md").read_text()


# --- refused settings


def test_two_turns_need_the_chat_form() -> None:
    line = refused("run", "lamb", "response.turns=2", "response.prompt=plain")
    assert "response.turns: 2 turns need prompt: chat, and this recipe has" in line


def test_numbers_of_pairs_count_both_turns() -> None:
    settings = {"synthesis": {"tasks": 50}, "response": {"turns": 2}}
    rows = {**settings, "training": {"num_rows": 60}}
    density = {"kind": "density", "clusters": 99}
    assert package.load_recipe("lamb", {**rows, "filters": [density]}).max_pairs == 100
    line = "60 rows are more than iteration 1 can have: 50 tasks of 2 turns, of which the filters keep 40 at most"
    with pytest.raises(UserError, match=line):
        package.load_recipe(
            "lamb", {**settings, "training": {"num_rows": 60}, "filters": [{**density, "clusters": 40}]}
        )
    with pytest.raises(UserError, match="keeps up to 100 pairs, and synthesis.tasks is 50 with 2 turns: nothing"):
        package.load_recipe("lamb", {**settings, "filters": [{**density, "clusters": 100}]})


ONE_TURN = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
NO_HISTORY = "{% set messages = messages[-1:] if messages[-1].role == 'user' else messages[-2:] %}"
TURNS = """{% for turn in messages %}<|im_start|>{{ turn.role }}
{{ turn.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.mark.parametrize(
    ("head", "message"), [(ONE_TURN, "one turn only"), (NO_HISTORY, "does not show the first turn")]
)
def test_a_template_without_dialogues_is_refused_before_the_run(head: str, message: str, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text(head + TURNS)
    line = refused("run", "lamb", f"chat_template={template}", "response.turns=2", "--out", tmp_path / "run")
    assert line.startswith("isheep: response.turns is 2, and") and message in line
    assert not (tmp_path / "run").exists()
    check_dialogues(load_chat_template(TURNS, "lamb"))
