"""isheep eval --responses: answers of another program to every benchmark whose answers can be in a file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.benchmark_files import HUMANEVAL_TASK, mbpp_task, write_benchmark
from tests.helpers.command import isheep, refused
from tests.helpers.judge_server import known, said, serving
from tests.helpers.judged import alpaca_files, mt_bench_files, write_lines

TRIPLE = {
    **HUMANEVAL_TASK, "task_id": "Own/1", "entry_point": "triple", "prompt": 'def triple(n):\n    """Three n."""\n',
    "canonical_solution": "    return 3 * n\n", "test": "def check(f):\n    assert f(2) == 6\n",
}  # fmt: skip


def save(path: Path, rows: list[Any]) -> Path:
    write_lines(path, rows)
    return path


def score(name: str, responses: Path, data: Path, *words: str | Path) -> dict[str, Any]:
    """The result of a file of answers, as the output folder has it."""
    done = isheep("eval", "--responses", responses, name, "--data", data, *words)
    assert done.code == 0, done.err
    folder = Path(done.out.splitlines()[-1].removeprefix("verdicts "))
    result: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert result["template"] == "unknown"
    return result


def items(result: dict[str, Any], name: str) -> list[Any]:
    values: list[Any] = result["scores"][name]["items"]
    return values


# --- questions with written answers


@pytest.mark.parametrize(
    ("name", "score_name", "right"),
    [("paper/nq", "score", [True, True]), ("paper/triviaqa", "score", [True, True]),
     ("standard/nq", "exact_match", [True, False]), ("standard/triviaqa", "exact_match", [True, False])],
)  # fmt: skip
def test_answers_by_question(tmp_path: Path, name: str, score_name: str, right: list[bool]) -> None:
    data = write_benchmark(tmp_path / "data", name.partition("/")[2])
    case = str.lower if name.endswith("nq") else str
    questions = [case("Who wrote it"), case("When was it")]
    if name.endswith("triviaqa"):
        questions = [f"{question}?" for question in questions]
    texts = ["Ann Lee", "It was in 1972"]
    rows = [{"question": question, "response": text} for question, text in zip(questions, texts, strict=True)]
    responses = save(tmp_path / "answers.jsonl", rows)
    result = score(name, responses, data)
    assert items(result, score_name) == right
    folder = tmp_path / f"answers.{name.replace('/', '-')}"
    assert (folder / f"{name}.json").is_file()
    predictions = [{"question": row["question"], "prediction": row["response"]} for row in rows]
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(json.dumps(predictions).encode()))
    assert score(name, tmp_path / "list.json.gz", data) == result
    samples = [{"doc": {"question": row["question"]}, "filtered_resps": [row["response"]]} for row in rows]
    assert score(name, save(tmp_path / "samples.jsonl", samples), data, "--out", tmp_path / "out") == result
    partial = score(name, save(tmp_path / "part.jsonl", [rows[0], {"question": "else?", "response": ""}]), data)
    assert items(partial, score_name) == right[:1]
    assert "1 of 2 questions have no response and are left out" in partial["notes"]
    assert "1 responses are to other questions and are not scored" in partial["notes"]


@pytest.mark.parametrize(("name", "score_name"), [("paper/squad2", "score"), ("standard/squad2", "exact")])
def test_answers_by_id(tmp_path: Path, name: str, score_name: str) -> None:
    data = write_benchmark(tmp_path / "data", "squad2")
    rows = [{"id": "b", "response": "the moon"}, {"id": "a", "response": "Ann"}]
    result = score(name, save(tmp_path / "answers.jsonl", rows), data)
    assert items(result, score_name) == [True, False]
    (tmp_path / "predictions.json").write_text(json.dumps({"a": "Ann", "b": "the moon"}))
    assert score(name, tmp_path / "predictions.json", data) == result
    samples = [{"doc": {"id": row["id"]}, "filtered_resps": [row["response"]]} for row in rows]
    assert score(name, save(tmp_path / "samples.jsonl", samples), data) == result


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "who wrote it", "response": None}, "line 2: neither response nor prediction has an answer"),
        ({"question": "who wrote it"}, "line 2: neither response nor prediction has an answer"),
        ({"question": "who wrote it", "response": "a", "prediction": "b"}, "line 2: response and prediction both"),
        ({"question": "who wrote it", "response": 1972}, "line 2: response must be text or null, found 1972"),
        ({"question": 3, "response": "a"}, "line 2: question must be text, found 3"),
        ({"doc": {}, "filtered_resps": ["a"]}, "line 2: question must be text, found null"),
        ({"doc": {"question": "a"}, "filtered_resps": [["a"]]}, "line 2: filtered_resps[0] must be text"),
        ({"doc": {"question": "a"}, "filtered_resps": ["a", "b"]}, "line 2: filtered_resps must be a list with one"),
        ("text", 'line 2: an object is needed, found "text"'),
    ],
)
def test_an_answer_of_another_form_is_refused_by_line(tmp_path: Path, row: Any, message: str) -> None:
    data = write_benchmark(tmp_path / "data", "nq")
    path = save(tmp_path / "answers.jsonl", [{"question": "when was it", "response": "1972"}, row])
    assert f"{path} {message}" in refused("eval", "--responses", path, "paper/nq", "--data", data)
    assert not (tmp_path / "answers.paper-nq").exists()


# --- code


def test_samples_of_code_are_run_as_they_are(tmp_path: Path) -> None:
    data = save(tmp_path / "own.jsonl", [HUMANEVAL_TASK, TRIPLE])
    rows = [
        {"task_id": "Own/1", "completion": "    return 3 * n\n"},
        {"task_id": "Own/0", "completion": "    return n\n"},
        {"task_id": "Other/0", "completion": "    return n\n"},
    ]
    result = score("humaneval", save(tmp_path / "samples.jsonl", rows), data)
    assert items(result, "pass@1") == [False, True]
    assert "cut_off" not in result["details"] and result["details"]["control"]["passed"] == 2
    assert "1 responses are to other tasks and are not scored" in result["notes"]
    rows = [
        {"task_id": "Own/0", "solution": "def double(n):\n    return n + n\n"},
        {"task_id": "Own/1", "response": "So:\n```python\ndef triple(n):\n    return n * 3\n```\nIt works."},
    ]
    # The verdicts of the earlier file are not taken for those of this one.
    assert items(score("humaneval", save(tmp_path / "samples.jsonl", rows), data), "pass@1") == [True, True]
    fenced = [{"task_id": "Own/0", "completion": "```python\n    return 2 * n\n```"}]
    result = score("humaneval", save(tmp_path / "fenced.jsonl", fenced), data)
    assert items(result, "pass@1") == [False] and "1 of 2 tasks have no response and are left out" in result["notes"]
    assert any("1 samples have ```" in note for note in result["notes"])


def printed_scores(name: str, responses: Path, data: Path) -> tuple[str, dict[str, Any]]:
    """What isheep eval prints of a file of answers, as a table and as JSON."""
    words = ("eval", "--responses", responses, name, "--data", data)
    table, views = isheep(*words), isheep(*words, "--json")
    assert table.code == 0 and views.code == 0, table.err + views.err
    values: dict[str, Any] = json.loads(views.out)
    return table.out, values


def test_the_share_of_samples_that_pass_is_printed_in_percent(tmp_path: Path) -> None:
    data = save(tmp_path / "own.jsonl", [HUMANEVAL_TASK, TRIPLE])
    code = [("Own/0", "    return 2 * n\n"), ("Own/0", "    return n\n"), ("Own/1", "    return 0\n")]
    samples = save(tmp_path / "samples.jsonl", [{"task_id": task, "completion": text} for task, text in code])
    table, values = printed_scores("humaneval", samples, data)
    assert "25 [3,80]" in table
    assert '"kind": "share"' in json.dumps(values) and '"value": 0.25' in json.dumps(values)


def test_f1_is_printed_in_percent_beside_the_exact_match(tmp_path: Path) -> None:
    data = write_benchmark(tmp_path / "data", "squad2")
    rows = [{"id": "a", "response": "Ann"}, {"id": "b", "response": "the moon"}]
    table, values = printed_scores("standard/squad2", save(tmp_path / "answers.jsonl", rows), data)
    assert table.count("50 [9,91]") >= 2
    assert json.dumps(values).count('"kind": "share"') == 2


def test_several_samples_of_a_task_give_the_share_that_passes(tmp_path: Path) -> None:
    data = save(tmp_path / "own.jsonl", [HUMANEVAL_TASK, TRIPLE])
    code = [("Own/0", "    return 2 * n\n"), ("Own/0", "    return n\n"), ("Own/1", "    return 3 * n\n")]
    rows = [{"task_id": task, "completion": text} for task, text in [*code, code[0], code[1]]]
    result = score("humaneval", save(tmp_path / "samples.jsonl", rows), data)
    assert items(result, "pass@1") == [0.5, 1.0]
    outcomes = result["details"]["outcomes"]
    assert outcomes["passed"] == 3 and sum(outcomes.values()) == 5
    assert any(note.startswith("1 to 4 samples of each task") for note in result["notes"])


def test_samples_of_mbpp(tmp_path: Path) -> None:
    data = save(tmp_path / "mbpp.jsonl", [mbpp_task(number) for number in (2, 3, 4, 11, 12, 13, 601)])
    rows = [
        {"task_id": 11, "completion": "K = 11\ndef add(n):\n    return n + K\n"},
        {"task_id": "Mbpp/12", "solution": "def add(n):\n    return n\n"},
        {"task_id": "13", "response": "[BEGIN]\ndef add(n):\n    return n + 13\n\nThis adds 13."},
        {"task_id": 601, "completion": ""},
    ]
    result = score("mbpp", save(tmp_path / "samples.jsonl", rows), data)
    assert items(result, "pass@1") == [True, False, True]
    assert "1 responses are to other tasks and are not scored" in result["notes"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task_id": "Own/0"}, "completion, solution, response are all missing"),
        ({"task_id": "Own/0", "completion": "a", "solution": "b"}, "completion and solution are both there"),
        ({"task_id": "Own/0", "completion": ["a"]}, 'completion must be text or null, found ["a"]'),
        ({"completion": "a"}, "task_id is missing"),
        ({"task_id": None, "completion": "a"}, "task_id must be a whole number or text, found null"),
    ],
)
def test_a_sample_of_another_form_is_refused_by_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    data = save(tmp_path / "own.jsonl", [HUMANEVAL_TASK])
    path = save(tmp_path / "samples.jsonl", [row])
    assert f"{path} line 1: {message}" in refused("eval", "--responses", path, "humaneval", "--data", data)
    path = save(path, [{"task_id": "Else/0", "completion": ""}])
    assert "none of its 1 tasks is one of the 1" in refused("eval", "--responses", path, "humaneval", "--data", data)


# --- judged answers


def test_answers_to_mt_bench_are_rated_by_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = mt_bench_files(tmp_path / "data", 3)
    rows = [{"question_id": number, "model_id": "a/b", "choices": [{"turns": ["x", "y"]}]} for number in ("82", 81, 7)]
    responses = save(tmp_path / "answers.jsonl", rows)
    with serving(lambda message, earlier: said("[[9]]" if "multi" in message else "[[8]]")) as server:
        known(server, monkeypatch)
        result = score("mt_bench", responses, data, "--judge", "j")
        assert score("mt_bench", responses, data, "--judge", "j") == result
        # Replies are stored, and not paid twice.
        assert len(server.bodies) == 4 and server.bodies[0]["model"] == "j"
    assert items(result, "MT-Bench") == [8, 9, 8, 9] and result["details"]["judge"]["model"] == "j"
    assert "1 of 3 questions have no response and are left out" in result["notes"]
    assert "1 responses are to other questions and are not scored" in result["notes"]
    judgments = tmp_path / "answers.mt_bench" / "model_judgment" / "j_single.jsonl"
    assert json.loads(isheep("scores", judgments, "--json").out)["a/b"]["average"] == 8.5


def test_outputs_of_alpaca_eval_are_compared_by_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = alpaca_files(tmp_path / "data", 3)
    rows = [{"instruction": f"Do {n} {{output_1}}", "output": f"mine {n}", "generator": "m"} for n in (2, 0)]
    reply = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
    with serving(lambda message, earlier: said(reply)) as server:
        known(server, monkeypatch)
        result = score("alpaca_eval", save(tmp_path / "model_outputs.json", rows), data)
    assert len(items(result, "win rate, %")) == 2
    assert "1 of 3 instructions have no response and are left out" in result["notes"]
    annotations = tmp_path / "model_outputs.alpaca_eval" / "annotations.json"
    assert json.loads(isheep("scores", annotations, "--json").out)["n_total"] == 2


def test_a_judge_or_a_sandbox_that_is_not_used_or_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    nq, mt_bench = write_benchmark(tmp_path / "nq", "nq"), mt_bench_files(tmp_path / "data", 2)
    path = save(tmp_path / "answers.jsonl", [{"question": "when was it", "response": "1972"}])
    words: tuple[str | Path, ...] = ("eval", "--responses", path)
    assert "paper/nq asks none" in refused(*words, "paper/nq", "--data", nq, "--judge", "gpt-4")
    assert "--unsafe-code is for benchmarks that run code" in refused(*words, "paper/nq", "--data", nq, "--unsafe-code")
    assert "no judge to ask" in refused(*words, "mt_bench", "--data", mt_bench)
    assert "can't score a file of answers" in refused(*words, "paper/piqa", "--data", nq)
    assert "there is no such file" in refused("eval", "--responses", tmp_path / "none.jsonl", "paper/nq", "--data", nq)
    assert "there is no such file" in refused("eval", "--responses", ".", "paper/nq", "--data", nq)
    assert "is a file: give a folder as --out" in refused(*words, "paper/nq", "--data", nq, "--out", path)


def test_the_help_names_the_form_of_each_file() -> None:
    text = " ".join(isheep("eval", "--help").out.split())
    for form in ("{prompt, response}", "{task_id, completion}", "{question, response}", "{id, response}"):
        assert form in text
    assert "model_answer" in text and "model_outputs" in text
