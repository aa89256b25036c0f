"""The items of the standard benchmarks: every form of their files, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import load_benchmark
from isheep.benchmarks.support.sources import question_texts
from isheep.errors import UserError
from tests.helpers.benchmark_files import BENCHMARK_FILES, write_benchmark
from tests.helpers.standard_tasks import TASKS, Liking, exam, load, paper_task, settings_of, source_of

# --- items


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("form", ["file", "folder", "parquet", "hub json"])
def test_items_in_every_form(tmp_path: Path, name: str, form: str) -> None:
    path = write_benchmark(tmp_path / "authors", name)
    result = load(name, path)
    assert len(result) == (3 if name in ("arc_easy", "arc_challenge", "mmlu") else 2)
    if form == "folder":
        assert load(name, tmp_path / "authors") == result
    elif form == "parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(result), tmp_path / "hub.parquet")
        again = load(name, tmp_path / "hub.parquet")
        columns = source_of(name).columns
        assert [[row[entry] for entry in columns] for row in again] == [
            [row[entry] for entry in columns] for row in result
        ]
    elif form == "hub json":
        (tmp_path / "hub.json").write_text(json.dumps(result))
        assert load(name, tmp_path / "hub.json") == result
    created = [entry for number, row in enumerate(result, 1) if (entry := paper_task(name).prepare(row, number))]
    assert all(entry.right < len(entry.options) for entry in created) and len(
        question_texts(source_of(name), settings_of(name, path))
    ) == len(result)


@pytest.mark.parametrize("name", TASKS)
def test_items_from_the_hub(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set with the Hub's columns in the library's own form; the Hub itself no test can reach."""
    from datasets import Dataset

    source, result, prompts_seen = source_of(name), load(name, write_benchmark(tmp_path, name)), []

    def load_dataset(path: str, configuration: str | None, split: str) -> Any:
        prompts_seen.append((path, configuration, split))
        return Dataset.from_list(result)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    again = load(name, None)
    assert prompts_seen == [source.hub]
    assert [[row[entry] for entry in source.columns] for row in again] == [
        [row[entry] for entry in source.columns] for row in result
    ]
    result = [{"other": 1}]
    with pytest.raises(UserError, match=f"^{source.hub[0]}.* is missing"):
        load(name, None)


@pytest.mark.parametrize("name", ["arc_easy", "openbookqa_fact", "winogrande"])
def test_an_answer_that_is_no_option_is_one_line(tmp_path: Path, qwen2: Path, name: str) -> None:
    """lm-eval's tasks meet such an item with an exception of their own."""
    path = write_benchmark(tmp_path / "data", name)
    rows = load(name, path)
    key = "answer" if name == "winogrande" else "answerKey"
    (tmp_path / "bad.jsonl").write_text("\n".join(json.dumps(row | {key: "Z"}) for row in rows))
    context = exam(tmp_path, Liking([]), qwen2, tmp_path / "bad.jsonl")
    with pytest.raises(UserError) as caught:
        load_benchmark(f"standard/{name}").run(context)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_tables_of_question_and_list_are_read(tmp_path: Path) -> None:
    """DPR's form, which OpenCompass's NQ and TriviaQA have."""
    path = tmp_path / "nq-test.qa.csv"
    path.write_text("who wrote it\t['Ann Lee', \"A. Lee's\"]\nwhen\t['1972']\n")
    assert load("nq", path)[0] == {"question": "who wrote it", "answer": ["Ann Lee", "A. Lee's"]}
    assert load("triviaqa", path)[1]["answer"] == {"aliases": ["1972"]}


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "boolq",
            "a.jsonl",
            '{"question": "a", "passage": "b", "answer": "perhaps"}',
            "'perhaps' is not true or false",
        ),
        ("boolq", "a.jsonl", '{"question": "a", "answer": true}', "'passage' is missing"),
        ("piqa", "a.jsonl", '{"goal": "a", "sol1": "b", "sol2": "c"}', "'label' is missing"),
        ("arc_easy", "a.jsonl", '{"question": {"stem": "a"}, "answerKey": "A"}', "'choices' is missing"),
        ("mmlu", "a_test.csv", "a,b,c,d,e,F", "substring not found"),
        ("nq", "a.qa.csv", "a\t[broken", "not in the form of NQ-open.dev.jsonl"),
        ("squad2", "a.json", '{"data": [{"paragraphs": []}, {}]}', "'paragraphs' is missing"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, name: str, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as refused:
        load(name, tmp_path / file)
    assert message in str(refused.value) and "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("answer", ["[null]", "[5]", '"Ann"', '{"a": ["Ann"]}', "[]", '[""]', '["Ann", " "]', "5"])
@pytest.mark.parametrize("name", ["nq", "triviaqa"])
def test_answers_that_are_no_texts_are_refused(tmp_path: Path, name: str, answer: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "a", "answer": ["Ann"]}}\n{{"question": "b", "answer": {answer}}}\n')
    with pytest.raises(UserError) as refusal:
        load(name, path)
    message = str(refusal.value)
    assert f"{path} row 2: answer" in message and "; rows such as {" in message and "\n" not in message


@pytest.mark.parametrize(
    "answers", ['[{"text": 5}]', '{"text": [5]}', '{"text": "Ann"}', '{"text": [""]}', '{"text": [null]}', "5"]
)
def test_answers_of_squad_that_are_no_texts_are_refused(tmp_path: Path, answers: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"context": "c", "question": "q", "id": "a", "answers": {answers}}}')
    with pytest.raises(UserError, match=f"{path} row 1: answers") as refusal:
        load("squad2", path)
    assert "\n" not in str(refusal.value)


def test_an_answer_in_the_form_of_squads_authors_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "dev-v2.0.json"
    path.write_text(json.dumps(BENCHMARK_FILES["squad2"][1]).replace('"text": "Ann"', '"text": 5'))
    with pytest.raises(UserError, match=r"row 1: answers\.text\[0\] must be text, found 5"):
        load("squad2", path)


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has no hellaswag_val\.jsonl"):
        load("hellaswag", tmp_path)
    (tmp_path / "dev-labels.lst").write_text("1\n")
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, BENCHMARK_FILES["siqa"][1])))
    with pytest.raises(UserError, match="1 labels for 2 rows"):
        load("siqa", tmp_path)

    def offline(*words: Any, **options: Any) -> None:
        raise ConnectionError("no way out\nand more")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"can't be had from the Hub \(no way out\); give your own copy.*test_complete"):
        load("openbookqa_fact", None)
