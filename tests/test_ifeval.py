"""IFEval: files in the original's format, bad data, verdicts on the real prompts, answers of models and of files."""

import gzip
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.data_files import DATA

pytest.importorskip("lm_eval", reason="lm_eval[ifeval] is not installed: pip install 'isheep[eval]'")

from isheep.backends import DEFAULT_BACKEND  # noqa: E402
from isheep.benchmarks import EvalContext, ifeval  # noqa: E402
from isheep.benchmarks.ifeval import Item, check_answer, load, score_answers  # noqa: E402
from isheep.engines.transformers import open_engine  # noqa: E402
from isheep.errors import UserError  # noqa: E402
from isheep.models.chat_template import load_chat_template  # noqa: E402
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe  # noqa: E402
from isheep.records import Answer, Model  # noqa: E402
from isheep.rundir.folder import RunFolder  # noqa: E402
from tests.helpers.backends import use_backend  # noqa: E402
from tests.helpers.command import isheep, refused  # noqa: E402
from tests.helpers.hashes import hash_files  # noqa: E402
from tests.helpers.ifeval_answers import answers, require_checkers  # noqa: E402
from tests.helpers.runs import fake_models, make_run  # noqa: E402

PUBLIC = DATA / "ifeval" / "input_data.jsonl"
ROOT = Path(__file__).parents[1]
DRAWN = {1122, 1129}  # prompts for which lm-eval counts a letter that it draws


@pytest.fixture(autouse=True)
def _there() -> None:
    require_checkers()


@pytest.mark.parametrize(
    ("row", "snippet"),
    [
        ({"kwargs": [{"num_words": 3}]}, "leaves something out"),
        ({"kwargs": [{"num_words": None, "relation": "at least"}]}, "leaves something out"),
        ({"kwargs": [{"num_words": 3, "relation": "at most"}]}, "relation"),
        ({"kwargs": [{"words": 3}]}, "unexpected keyword argument 'words'"),
        ({"kwargs": []}, "its instructions can't be checked: zip"),
        ({"instruction_id_list": ["length:words"]}, "'length:words' is no instruction of IFEval"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["(a"]}]}, "can't be checked"),
        ({"prompt": 3}, "prompt: input should be a valid string"),
        ({"kwargs": {}}, "kwargs: input should be a valid list"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, row: dict[str, Any], snippet: str) -> None:
    good = {
        "key": 1, "prompt": "Say baa.", "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 3, "relation": "at least", "keyword": None}],
    }  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(good | row) + "\n")
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} line 3: ") and snippet in message and "\n" not in message
    path.write_text(json.dumps(good) + "\n")
    assert [entry.prompt for entry in load(path)] == ["Say baa."]  # null settings, as on the hub, are none


def test_a_file_that_is_no_data(tmp_path: Path) -> None:
    for content, snippet in (
        ("", "holds no prompts"),
        ("[]\n", "holds no prompts"),
        ("[3]\n", "row 1: the line: "),
        ("{'a'", "line 1: not JSON"),
    ):
        (tmp_path / "input_data.jsonl").write_text(content)
        with pytest.raises(UserError, match=snippet):
            load(tmp_path)  # a folder stands for its input_data.jsonl
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "nowhere.jsonl")


def test_the_hubs_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's settings have all names there, most of them null; the Hub itself no test can reach."""
    from datasets import Dataset

    rows = [row(1), row(2, "length_constraints:number_words", num_words=3, relation="at least")]
    monkeypatch.setattr("datasets.load_dataset", lambda path, split: Dataset.from_list(rows))
    outcome = load(None)
    assert [entry.prompt for entry in outcome] == ["Do 1.", "Do 2."]
    assert outcome[0].kwargs == [{"num_words": None, "relation": None}]
    assert check_answer(outcome[1], "one two three", require_checkers()) == ([True], [True])


def alone(tmp_path: Path, *words: str, **environment: str) -> str:
    """The one line of a command in a process of its own."""
    command = [sys.executable, "-c", "from isheep.cli import main; main()", *words]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", [row(1)])
    write(tmp_path / "answers.jsonl", [{"prompt": row(1)["prompt"], "response": "Baa"}])
    words = ("eval", "--responses", "answers.jsonl", "ifeval")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    assert "google/IFEval can't be fetched" in (snippet := alone(tmp_path, *words, **offline))
    assert "give --data input_data.jsonl" in snippet
    empty = {"NLTK_DATA": str(tmp_path), "HOME": str(tmp_path), "http_proxy": "http://127.0.0.1:9"}
    empty["https_proxy"] = empty["http_proxy"]
    snippet = alone(tmp_path, *words, "--data", "mine.jsonl", **empty)
    assert "punkt_tab" in snippet and "python -m nltk.downloader" in snippet and "NLTK_DATA" in snippet


# --- the real prompts


@pytest.fixture(scope="module")
def public() -> list[Item]:
    if not PUBLIC.is_file():
        pytest.skip(f"no IFEval prompts: {PUBLIC} (set ISHEEP_DATA)")
    require_checkers()
    return load(PUBLIC)


@pytest.mark.parametrize("count", [1, pytest.param(24, marks=pytest.mark.slow)])
def test_verdicts_are_lm_evals_and_nothing_is_drawn(
    public: list[Item], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    outcome: Counter[tuple[bool, bool]] = Counter()
    assert len(public) == 541
    for entry in public:
        for answer in answers(entry, count):
            reference = process_results(entry.model_dump(), [answer])
            with monkeypatch.context() as context:
                for name in ("choice", "randint", "sample", "random"):
                    context.setattr(random, name, None)
                actual = check_answer(entry, answer, require_checkers())
            if entry.key not in DRAWN:
                assert actual == (reference["inst_level_strict_acc"], reference["inst_level_loose_acc"]), (
                    entry.key,
                    answer,
                )
            outcome.update(zip(*actual, strict=True))
    assert outcome.total() == 834 * count and outcome[True, False] == 0
    assert min(outcome[True, True], outcome[False, False]) > 200 * count and outcome[False, True] > 10 * count


def test_a_file_is_scored_twice_the_same(public: list[Item], tmp_path: Path) -> None:
    snippet = [answer for entry in public[::20] for answer in answers(entry, 1)]
    first, again = (score_answers(public[::20], snippet, RunFolder(tmp_path / name, tmp_path)) for name in "ab")
    assert first == again
    for name in ("eval_results_strict.jsonl", "eval_results_loose.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_why_an_answer_is_wrong_is_read_from_the_verdicts(tmp_path: Path) -> None:
    kinds = ["keywords:existence", "length_constraints:number_words"]
    kwargs = [{"keywords": ["baa"]}, {"num_words": 3, "relation": "at least"}]
    items = [Item(key=n, prompt="Say baa.", instruction_id_list=kinds, kwargs=kwargs) for n in range(3)]
    texts = ["baa baa baa", "baa", "moo"]
    rows, folder = [Answer(output=text, finish="stop", tokens=3) for text in texts], RunFolder(tmp_path, tmp_path)
    score_answers(items, texts, folder)
    assert ifeval.why_wrong(folder, rows) == ["", f"not followed: {kinds[1]}", f"not followed: {', '.join(kinds)}"]
    for changed in (rows[1:], rows[::-1]):
        with pytest.raises(ValueError):
            ifeval.why_wrong(folder, changed)


# --- a file of answers


def row(key: int, kind: str = "punctuation:no_comma", **settings: Any) -> dict[str, Any]:
    return {"key": key, "prompt": f"Do {key}.", "instruction_id_list": [kind], "kwargs": [settings]}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """Three prompts, the last with two instructions."""
    pair = row(3) | {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    return write(tmp_path / "input_data.jsonl", [row(1), row(2, "startend:quotation"), pair])


def test_a_file_of_answers(own_data: Path, tmp_path: Path) -> None:
    values = [("Do 2.", '"Baé"'), ("Do 1.", "old, answer"), ("Do 1.", "Here, now:\nBaa"), ("Do 3.", "One, two\nthree")]
    snippet = write(tmp_path / "gpt.jsonl", [{"prompt": prompt, "response": text} for prompt, text in values])
    done = isheep("eval", "--responses", snippet, "ifeval", "--data", tmp_path)
    assert done.code == 0 and "1 lines repeat a prompt, whose last response counts" in " ".join(done.out.split())
    into = tmp_path / "gpt.ifeval"
    strict = (into / "eval_results_strict.jsonl").read_text().splitlines()
    assert strict[1] == (
        '{"follow_all_instructions": true, "follow_instruction_list": [true], '
        '"instruction_id_list": ["startend:quotation"], "prompt": "Do 2.", "response": "\\"Ba\\u00e9\\""}'
    )
    assert [json.loads(line)["follow_instruction_list"] for line in strict] == [[False], [True], [False, False]]
    loose = [json.loads(line) for line in (into / "eval_results_loose.jsonl").read_text().splitlines()]
    assert [verdict["follow_instruction_list"] for verdict in loose] == [[True], [True], [True, False]]
    assert [verdict["follow_all_instructions"] for verdict in loose] == [True, True, False]
    result = json.loads((into / "ifeval.json").read_text())
    assert {name: (sum(entry["items"]), len(entry["items"])) for name, entry in result["scores"].items()} == {
        "prompt strict": (1, 3), "instruction strict": (1, 4), "prompt loose": (2, 3), "instruction loose": (3, 4),
    }  # fmt: skip
    assert result["details"]["accuracies"] == {
        "prompt strict": 1 / 3, "instruction strict": 1 / 4, "prompt loose": 2 / 3, "instruction loose": 3 / 4,
    }  # fmt: skip
    assert result["scores"]["instruction loose"]["clusters"] == [1, 2, 3, 3]
    kinds = {"punctuation": [2, 2], "punctuation:no_comma": [2, 2], "startend": [1, 2], "startend:quotation": [1, 2]}
    assert result["breakdowns"]["instruction loose"] == kinds
    assert "33.3 [" in done.out and "66.7 [" in done.out and "quotation" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines() if "verdicts" not in line)


def test_samples_of_lm_eval_are_answers(own_data: Path, tmp_path: Path) -> None:
    """A line as --log_samples writes it; what was drawn out of the answer by a filter counts, as there."""
    samples = [
        {"doc_id": n, "doc": row(n), "arguments": {"gen_args_0": {"arg_0": "<|user|>"}}, "resps": [["raw, "]],
         "filtered_resps": [text], "filter": "none", "prompt_level_strict_acc": True, "inst_level_strict_acc": [True]}
        for n, text in ((1, "Baa"), (2, "Baa"))
    ]  # fmt: skip
    path = write(tmp_path / "samples_ifeval.jsonl", samples)
    assert isheep("eval", "--responses", path, "ifeval", "--data", own_data, "--out", tmp_path / "out").code == 0
    result = json.loads((tmp_path / "out" / "ifeval.json").read_text())
    assert result["scores"]["instruction strict"]["items"] == [True, False]


def test_answers_that_are_missing_are_said(own_data: Path, tmp_path: Path) -> None:
    subset = write(tmp_path / "some.jsonl", [{"prompt": f"Do {n}.", "response": "Baa"} for n in (1, 7, 8)])
    done = isheep("eval", "--responses", subset, "ifeval", "--data", own_data, "--out", tmp_path / "out")
    snippet = " ".join(done.out.split())
    assert (
        "2 of 3 prompts have no response and are left out" in snippet and "2 responses are to other prompts" in snippet
    )
    assert len((tmp_path / "out" / "eval_results_strict.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("answers", "words", "snippet"),
    [
        ([{"prompt": "Else", "response": "Baa"}], ["ifeval"], "none of its 1 prompts is one of the 3"),
        ([{"prompt": "Do 1."}], ["ifeval"], "answers.jsonl line 1: response is missing"),
        ([], ["ifeval"], "none of its 0 prompts"),
        ([], ["lamb"], "benchmark 'lamb' can't score a file of answers"),
        ([], ["ifevel"], "benchmark 'ifevel' is not known: did you mean 'ifeval'?"),
        ([], ["runs/lamb", "ifeval"], "with --responses give one benchmark and no run"),
        ([], [], "with --responses give one benchmark and no run"),
    ],
)
def test_answers_that_cannot_be_scored(
    own_data: Path, tmp_path: Path, answers: list[Any], words: list[str], snippet: str
) -> None:
    path = write(tmp_path / "answers.jsonl", answers)
    assert snippet in refused("eval", "--responses", path, *words, "--data", own_data)
    assert not (tmp_path / "answers.ifeval").exists()


# --- a model


def test_a_real_model_is_asked_plainly_or_in_its_template(qwen2: Path, own_data: Path, tmp_path: Path) -> None:
    chat, engine = load_chat_template("tokenizer", str(qwen2)), open_engine(Model(str(qwen2)), threads=1, device="cpu")
    settings = BenchmarkSettings(name="ifeval", data=str(own_data))
    for base, name, text in ((True, "plain", "Do 1."), (False, "tokenizer", chat.prompt("Do 1."))):
        folder = RunFolder(tmp_path / name, tmp_path)
        result = ifeval.run(EvalContext(engine, chat, 1, folder, settings, base))
        answers = [json.loads(line) for line in (folder.path / "answers.jsonl").read_text().splitlines()]
        assert result.template == name and answers[0]["prompt"] == text
        assert result.details["cut_off"] == sum(answer["finish"] == "length" for answer in answers)
        verdicts = (folder.path / "eval_results_strict.jsonl").read_text().splitlines()
        assert [json.loads(line)["response"] for line in verdicts] == [answer["output"] for answer in answers]
    engine.close()


# --- a run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_models(monkeypatch)
    return make_run(tmp_path / "run", iterations=1)


def test_other_data_are_refused_where_results_are_there(run: Path, own_data: Path, tmp_path: Path) -> None:
    done = isheep("eval", run, "ifeval", "--data", own_data, "--kinds")
    assert done.code == 0 and "plain" in done.out and "qwen" in done.out and "no_comma" in done.out
    result = json.loads((run / "iter-1" / "eval" / "ifeval.json").read_text())
    assert result["template"] == "qwen" and len(result["scores"]["instruction strict"]["items"]) == 4
    earlier = hash_files(run)
    second = write(tmp_path / "other.jsonl", [row(1), row(4)])
    assert "is about other items than" in refused("eval", run, "ifeval", "--data", second)
    assert isheep("eval", run, "ifeval", "--data", tmp_path).code == 0 and hash_files(run) == earlier
    (run / "iter-1" / "eval" / "ifeval.json").unlink()
    (run / "base" / "eval" / "ifeval.json").unlink()
    write(second, [row(4), row(2), row(1)])
    assert "answers.jsonl has answers to other prompts" in refused("eval", run, "ifeval", "--data", second)
    assert isheep("eval", run, "ifeval", "--data", own_data).code == 0 and hash_files(run) == earlier


def test_killed_among_its_answers_it_goes_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many_prompts = write(tmp_path / "many.jsonl", [row(n) for n in range(150)])
    complete = make_run(tmp_path / "whole", iterations=1)
    assert isheep("eval", complete, "ifeval", "--data", many_prompts).code == 0
    open_engine, batches = DEFAULT_BACKEND.open_engine, list[int]()

    def open_interrupted(recipe: Recipe, model: Model) -> Any:
        """Return an engine that is interrupted at the third batch of all."""
        engine: Any = open_engine(recipe, model)
        generate = engine.generate

        def generate_or_interrupt(prompts: Sequence[str], *arguments: Any) -> Any:
            batches.append(len(prompts))
            if len(batches) == 3:
                raise KeyboardInterrupt
            return generate(prompts, *arguments)

        engine.generate = generate_or_interrupt
        return engine

    use_backend(monkeypatch, replace(DEFAULT_BACKEND, open_engine=open_interrupted))
    assert isheep("eval", run, "ifeval", "--data", many_prompts).code == 130
    assert len((run / "base/eval/ifeval/answers.jsonl.part").read_text().splitlines()) == 128
    assert "in progress: base/eval/ifeval/answers.jsonl, 128 rows" in isheep("status", run).out
    assert isheep("eval", run, "ifeval", "--data", many_prompts).code == 0
    # The interrupted batch is repeated, and iter-1 has three.
    assert len(batches) == 3 + 1 + 3
    assert {name: text for name, text in hash_files(run).items() if "eval" in name} == {
        name: text for name, text in hash_files(complete).items() if "eval" in name
    }


def test_a_run_asks_for_its_data_before_it_begins(qwen2: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"model: {qwen2}\nevaluation: [{{name: ifeval, data: {tmp_path / 'nowhere.jsonl'}}}]\n")
    assert "nowhere.jsonl: can't be read: No such file" in refused("run", recipe, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_repeats_in_the_data_is_no_foreign_response(tmp_path: Path) -> None:
    """The counts of responses can't be negative."""
    prompts = [row(1), row(2), row(1, "startend:quotation") | {"key": 3}, row(1) | {"key": 4}]
    data = write(tmp_path / "input_data.jsonl", prompts)
    path = write(tmp_path / "answers.jsonl", [{"prompt": "Do 1.", "response": "Baa"}])
    done = isheep("eval", "--responses", path, "ifeval", "--data", data)
    text = " ".join(done.out.split())
    assert done.code == 0 and "1 of 4 prompts have no response and are left out" in text
    assert "responses are to other" not in text and "2 items have the prompt of an earlier item" in text
    result = json.loads((tmp_path / "answers.ifeval" / "ifeval.json").read_text())
    assert result["scores"]["prompt strict"]["items"] == [True, False, True]


@pytest.mark.parametrize("space", [" ", "\r\n", "\u00a0"])
def test_prompts_match_without_the_white_space_around_them(tmp_path: Path, space: str) -> None:
    """Four of IFEval's 541 prompts end with a space or a line end, which files of responses often lack or change.

    113 of them have line ends, which some programs write as two characters.
    """
    data = write(tmp_path / "input_data.jsonl", [row(1) | {"prompt": " Do\n1.\n"}, row(2) | {"prompt": "Do 2. "}])
    path = write(tmp_path / "answers.jsonl", [{"prompt": f"Do{space}{n}.", "response": "Baa"} for n in (1, 2)])
    done = isheep("eval", "--responses", path, "ifeval", "--data", data)
    assert done.code == 0 and "no response" not in done.out and "other prompts" not in done.out
    result = json.loads((tmp_path / "answers.ifeval" / "ifeval.json").read_text())
    assert len(result["scores"]["prompt strict"]["items"]) == 2


def test_responses_are_read_from_a_gzipped_list(own_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"prompt": "Do 1.", "response": "Baa"}]).encode()))
    assert isheep("eval", "--responses", path, "ifeval", "--data", own_data, "--out", tmp_path / "out").code == 0
    for value in ("3", "null", '["a"]', '"\\ud800"'):
        write(path, [])
        path.write_text(f'{{"prompt": "Do 1.", "response": {value}}}')
        assert "line 1: response " in refused("eval", "--responses", path, "ifeval", "--data", own_data)
