"""Files of other programs: every reader takes the same forms, and refuses or counts what it can't read."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks.paper import winogrande
from isheep.errors import UserError
from isheep.recipe.evaluation import BenchmarkSettings
from tests.helpers.benchmark_files import write_benchmark
from tests.helpers.command import isheep, refused
from tests.helpers.judged import mt_bench_files, write_lines

Change = Callable[[dict[str, Any]], dict[str, Any]]


def judgment(question: Any, turn: Any, score: Any, model: Any = "m", judge: str = "gpt-4") -> dict[str, Any]:
    row = {"question_id": question, "model": model, "judge": [judge, "single-v1"], "judgment": "well"}
    return row | {"score": score, "turn": turn, "tstamp": 1.5}


def annotation(index: int, preference: Any, **changes: Any) -> dict[str, Any]:
    row = {"instruction": f"Do {index}", "output_1": "a", "generator_1": "base", "output_2": "b"}
    return row | {"generator_2": "mine", "annotator": "judge", "preference": preference} | changes


RATINGS = [judgment(81 + index // 2, 1 + index % 2, 5 + index) for index in range(4)]
PREFERENCES = [annotation(index, 1 + index % 2) for index in range(4)]


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_lines(path, rows)
    return path


def scores(path: Path, *words: str | Path) -> dict[str, Any]:
    done = isheep("scores", path, "--json", *words)
    assert done.code == 0, done.err
    values: dict[str, Any] = json.loads(done.out)
    return values


def test_the_notes_of_mt_bench_are_in_the_json_too(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", [*RATINGS, judgment(81, 1, 5, judge="other"), judgment(82, 1, 9, model="n")])
    table, values = isheep("scores", path).out, scores(path)
    assert len(values["m"]["notes"]) == 2 and values["n"]["notes"] == values["m"]["notes"]
    assert all(note in table for note in values["m"]["notes"])


def test_a_huge_score_leaves_room_for_the_name_of_the_model(tmp_path: Path) -> None:
    rows = [judgment(81, 1, 1e308, model="a-model"), judgment(81, 2, -1e300, model="a-model")]
    table = isheep("scores", save(tmp_path / "rows.jsonl", rows)).out
    assert "a-model" in table and "1e+308" in table and max(map(len, table.splitlines())) <= 120


# --- forms of files


@pytest.mark.parametrize("rows", [RATINGS, PREFERENCES], ids=["mt_bench", "alpaca_eval"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows"])
@pytest.mark.parametrize("is_list", [False, True])
@pytest.mark.parametrize("is_gzipped", [False, True])
def test_json_lines_and_lists_are_read_gzipped_or_not(
    tmp_path: Path, rows: list[dict[str, Any]], name: str, is_list: bool, is_gzipped: bool
) -> None:
    expected = scores(save(tmp_path / "plain.jsonl", rows))
    text = json.dumps(rows, indent=2) if is_list else "\n\n".join(map(json.dumps, rows))
    content = b"\xef\xbb\xbf" + text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if is_gzipped else content)
    assert scores(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no rows in it"),
        (b"[]", "no rows in it"),
        (b"[\n{},\n{]", "not JSON (line 3)"),
        (b'{"a": 1}\n{"a"', "line 2: not JSON"),
        (b"3\n4", "line 1: an object is needed, found 3"),
        (b'{"question_id": 81, "score": 3, "score": 9}', "line 1: not JSON that can be read: the key"),
        (b"[" * 100_000, "not JSON that can be read"),
        (b'{"score": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
        ("é".encode("latin-1"), "not UTF-8 text at byte 0"),
        (gzip.compress(b"{}", mtime=0)[:-9], "can't be read: "),
        (gzip.compress(b"{}" * 99, mtime=0)[:12] + b"garbage" * 9, "can't be read: "),
        (b"model,score\nm,3", "line 1: not JSON"),
        (json.dumps({"data": RATINGS}).encode(), 'the rows are below the key "data": give that list itself'),
    ],
)
def test_a_file_that_is_no_list_of_rows_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    line = refused("scores", path)
    assert message in line and str(path) in line


@pytest.mark.parametrize("rows", [RATINGS, PREFERENCES], ids=["mt_bench", "alpaca_eval"])
@pytest.mark.parametrize("by_index", [False, True])
def test_a_table_by_columns_is_refused(tmp_path: Path, rows: list[dict[str, Any]], by_index: bool) -> None:
    """As pandas' to_json writes it without orient."""
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    named = {key: {str(index): value for index, value in enumerate(values)} for key, values in columns.items()}
    (tmp_path / "table.json").write_text(json.dumps(named if by_index else columns))
    assert "a table by columns" in (line := refused("scores", tmp_path / "table.json")) and "records" in line


@pytest.mark.parametrize("rows", [RATINGS, PREFERENCES], ids=["mt_bench", "alpaca_eval"])
def test_a_table_by_row_names_is_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """As pandas' to_json writes it with orient="index"."""
    (tmp_path / "table.json").write_text(json.dumps({str(index): row for index, row in enumerate(rows)}))
    assert "a table by row names" in (line := refused("scores", tmp_path / "table.json")) and "records" in line


# --- values


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (judgment(81, "1", 5), 'turn must be the number 1 or 2, found "1"'),
        (judgment(81, 3, 5), "turn must be the number 1 or 2, found 3"),
        (judgment(81, True, 5), "turn must be the number 1 or 2, found true"),
        (judgment(81, 1.0, 5), "turn must be the number 1 or 2, found 1.0"),
        (judgment(81, None, 5), "turn must be the number 1 or 2, found null"),
        (judgment([81], 1, 5), "question_id must be a whole number or text, found [81]"),
        (judgment({"id": 81}, 1, 5), 'question_id must be a whole number or text, found {"id": 81}'),
        (judgment(None, 1, 5), "question_id must be a whole number or text, found null"),
        (judgment(81, 1, 10**400), "score must be a number or null, found 1000"),
        (judgment(81, 1, math.inf), "score must be a number or null, found Infinity"),
        (judgment(81, 1, "5"), 'score must be a number or null, found "5"'),
        (judgment(81, 1, True), "score must be a number or null, found true"),
        (judgment(81, 1, [5]), "score must be a number or null, found [5]"),
        (judgment(81, 1, 5, model=None), "model must be text, found null"),
        (judgment(81, 1, 5, model=3), "model must be text, found 3"),
        (judgment(81, 1, 5) | {"judge": {"a": 1}}, "judge must be text or a list of texts"),
        ({"question_id": 81, "model": "m", "turn": 1}, "score is missing"),
        (annotation(0, "2"), 'preference must be a number or null, found "2"'),
        (annotation(0, True), "preference must be a number or null, found true"),
        (annotation(0, 10**400), "preference must be a number or null, found 1000"),
        (annotation(0, -math.inf), "preference must be a number or null, found -Infinity"),
        (annotation(0, [1]), "preference must be a number or null, found [1]"),
        (annotation(0, 1, generator_2=3), "generator_2 must be text or null, found 3"),
        (annotation(0, 1, output_2=["b"]), 'output_2 must be text or null, found ["b"]'),
    ],
)
def test_a_value_of_another_type_is_refused_by_line_and_field(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    first = PREFERENCES[0] if "preference" in row else RATINGS[0]
    path = save(tmp_path / "rows.jsonl", [first, row])
    for words in ((), ("--json",)):
        line = refused("scores", path, *words)
        assert f"{path} line 2: {message}" in line and "; rows such as {" in line


def test_half_a_character_is_refused_by_line_and_field(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", [RATINGS[0], judgment(81, 1, 5, model="\ud800")])
    assert f"{path} line 2: model holds half a surrogate pair, which is no character; remove it" in refused(
        "scores", path
    )


def test_a_row_without_a_preference_among_annotations_is_refused(tmp_path: Path) -> None:
    row = {key: value for key, value in annotation(1, 1).items() if key != "preference"}
    path = save(tmp_path / "rows.json", [PREFERENCES[0], row])
    assert "line 2: preference is missing" in refused("scores", path)


def test_scores_that_are_nan_are_unreadable_as_in_fastchat(tmp_path: Path) -> None:
    rows = [judgment(81 + index, turn, 8 if index else math.nan) for index in range(80) for turn in (1, 2)]
    values = scores(save(tmp_path / "rows.jsonl", rows))["m"]
    assert (values["first_turn"], values["average"]) == (8, 8) and (values["ok"], values["unreadable"]) == (158, 2)
    table = isheep("scores", tmp_path / "rows.jsonl").out
    assert ["m", "8.000000", "8.000000", "8.000000", "158", "2", "0"] in [line.split() for line in table.splitlines()]


def test_question_ids_that_are_text_have_their_categories(tmp_path: Path) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    expected = scores(save(tmp_path / "numbers.jsonl", RATINGS), "--data", data)
    texts = [row | {"question_id": str(row["question_id"])} for row in RATINGS]
    assert scores(save(tmp_path / "texts.jsonl", texts), "--data", data) == expected
    assert expected["m"]["categories"] == {
        "writing": {"first_turn": 5, "second_turn": 6, "average": 5.5},
        "math": {"first_turn": 7, "second_turn": 8, "average": 7.5},
    }
    table = isheep("scores", tmp_path / "texts.jsonl", "--data", data).out
    assert "writing" in table and "other" not in table


def test_ratings_of_questions_that_the_data_lack_are_counted_or_refused(tmp_path: Path) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    path = save(tmp_path / "rows.jsonl", [*RATINGS, judgment("extra", 1, 3)])
    assert (
        "1 ratings are of questions that question.jsonl lacks: category other"
        in isheep("scores", path, "--data", data).out
    )
    path = save(tmp_path / "rows.jsonl", [judgment(1, 1, 3), judgment("x", 1, 3)])
    assert "none of its questions (1, ...) is in" in refused("scores", path, "--data", data)
    assert "none of its questions" in refused("scores", path, "--data", data, "--json")


def test_what_repeats_or_is_mixed_in_judgments_is_mentioned(tmp_path: Path) -> None:
    rows = [*RATINGS, judgment("81", 1, 85), judgment(81, 2, 0, judge="claude")]
    path = save(tmp_path / "rows.jsonl", rows)
    text = isheep("scores", path).out
    assert "2 turns have more than one rating, and each rating counts" in text
    assert "2 scores are outside 1 to 10 and count, as in FastChat" in text
    assert "the averages mix ratings of 2 judges: claude, gpt-4" in text
    values = scores(path)["m"]
    assert (values["repeated"], values["outside_scale"], values["judges"]) == (2, 2, ["claude", "gpt-4"])
    assert "mix" not in isheep("scores", save(path, RATINGS)).out


def test_what_repeats_or_is_mixed_in_annotations_is_mentioned(tmp_path: Path) -> None:
    rows = [*PREFERENCES, PREFERENCES[0], annotation(5, 2, generator_1="other"), annotation(6, 2, annotator=None)]
    path = save(tmp_path / "rows.jsonl", [*rows, annotation(7, None), annotation(8, -1, output_2=None)])
    notes = scores(path)["notes"]
    assert notes == [
        "1 annotations repeat an instruction, and each of them counts",
        "the rates mix annotations of 2 baselines: base, other",
        "the rates mix annotations of 2 annotators: judge, (no name)",
        "avg_length is of 8 outputs: 1 annotations have no output_2",
        "2 annotations have no preference from 1 to 2 and are left out",
    ]
    text = isheep("scores", path).out
    assert all(note in text for note in notes)
    assert scores(save(path, PREFERENCES))["notes"] == []


def test_names_of_models_are_folded_and_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"organization/Qwen1.5-72B-self-aligned-with-lora-iteration-{number}" for number in (1, 2)]
    data = mt_bench_files(tmp_path / "data", 2)
    rows = [row | {"model": name} for name in names for row in RATINGS]
    text = isheep("scores", save(tmp_path / "rows.jsonl", rows), "--data", data).out
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    letters = "".join(line.strip().split(" ")[0] for line in text.splitlines())
    assert all(letters.count(name) == 2 for name in names)


@pytest.mark.parametrize("answer", ["0", "3", "-1"])
def test_an_item_whose_answer_is_none_of_its_options_is_refused(tmp_path: Path, answer: str) -> None:
    """It would count as wrong for every model."""
    data = write_benchmark(tmp_path / "data", "winogrande")
    file = data if data.is_file() else data / "dev.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    save(file, [rows[0], rows[1] | {"answer": answer}])
    with pytest.raises(UserError, match="row 2 of its data makes no item: its answer is none of its 2 options"):
        winogrande.BENCHMARK.score_inputs(BenchmarkSettings(name="paper/winogrande", data=str(file)))


# --- answers and questions


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([{"turns": [None, 5]}], "choices[0].turns[0] must be text, found null"),
        ([{"turns": ["a", 5]}], "choices[0].turns[1] must be text, found 5"),
        ([{"turns": "ab"}], 'choices[0].turns must be a list, found "ab"'),
        ([{}], "choices[0].turns is missing"),
        (["a"], 'choices[0] must be an object, found "a"'),
        ([], "choices must be a list with an object that has turns, found []"),
        ([{"turns": ["a", "\ud800"]}], "choices holds half a surrogate pair"),
    ],
)
def test_judge_prompts_take_texts_alone_as_answers(tmp_path: Path, choices: list[Any], message: str) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    path = save(tmp_path / "answers.jsonl", [{"question_id": 81, "choices": choices}])
    assert f"{path} line 1: {message}" in refused("judge-prompts", path, "--data", data)


def test_judge_prompts_of_lists_and_gzipped_files_with_ids_as_text(tmp_path: Path) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    rows = [{"question_id": number, "choices": [{"turns": ["a", "b"]}]} for number in (81, 82)]
    expected = isheep("judge-prompts", save(tmp_path / "m.jsonl", rows), "--data", data).out
    (tmp_path / "gzipped").mkdir()
    path = tmp_path / "gzipped" / "m.json.gz"
    path.write_bytes(
        gzip.compress(json.dumps([row | {"question_id": str(row["question_id"])} for row in rows]).encode())
    )
    for file in data.rglob("*.jsonl"):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    done = isheep("judge-prompts", path, "--data", data)
    assert expected and done.out == expected


def test_judge_prompts_of_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    rows = [{"question_id": n, "model_id": f"m{n}", "choices": [{"turns": ["a", "b"]}]} for n in (81, 82)]
    path = save(tmp_path / "answers.jsonl", rows)
    assert f"{path} has answers of 2 models (m81, m82)" in refused("judge-prompts", path, "--data", data)


def test_a_question_that_is_answered_or_asked_twice_is_refused(tmp_path: Path) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    rows = [{"question_id": number, "choices": [{"turns": ["a", "b"]}]} for number in (81, "81")]
    path = save(tmp_path / "answers.jsonl", rows)
    assert "line 2: question 81 is also in" in refused("judge-prompts", path, "--data", data)
    save(path, [rows[0], rows[0] | {"question_id": 82}])
    assert isheep("judge-prompts", path, "--data", data).code == 0
    questions = [json.loads(line) for line in (data / "question.jsonl").read_text().splitlines()]
    save(data / "question.jsonl", questions * 2)
    assert "line 3: question 81 is also in" in refused("judge-prompts", path, "--data", data)
