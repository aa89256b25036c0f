"""What an evaluation stands on, at the command line: what it lacks is said first, what changed is not passed over."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep import sandbox
from isheep.backends import DEFAULT_BACKEND
from isheep.benchmarks import Result, Score
from isheep.evaluation.evaluate import result_fingerprints
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.records import Pair
from isheep.rundir.folder import RunFolder
from tests.helpers.backends import use_backend
from tests.helpers.benchmark_files import HUMANEVAL_TASK, mbpp_task, write_benchmark
from tests.helpers.command import isheep, refused
from tests.helpers.fakes import FakeChat
from tests.helpers.hashes import hash_files
from tests.helpers.ifeval_answers import require_checkers
from tests.helpers.judge_server import Answer, known, said, serving
from tests.helpers.judged import alpaca_files, mt_bench_files
from tests.helpers.runs import fake_models, make_run

NOBODY = "no judge to ask: set OPENAI_BASE_URL and OPENAI_API_KEY"


@pytest.fixture
def prompted_models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were asked anything."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return fake_models(monkeypatch)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return mt_bench_files(tmp_path / "mt_bench", 3)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "HumanEval.jsonl"
    path.write_text(json.dumps(HUMANEVAL_TASK))
    return path


@pytest.fixture
def leaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no sandbox holds."""
    monkeypatch.setattr(sandbox, "find_breach", lambda wall: "it leaks")
    monkeypatch.setattr(sandbox, "find_isolation", sandbox.find_isolation.__wrapped__)


# --- what is lacking is said before anything is generated


def test_no_judge(prompted_models: list[str], questions: Path, tmp_path: Path) -> None:
    entry = {"name": "mt_bench", "data": str(questions)}
    run = make_run(tmp_path / "run", evaluation=["lamb", entry])
    earlier = hash_files(run)
    assert NOBODY in refused("eval", run) and not prompted_models and hash_files(run) == earlier
    evaluation = f"evaluation=[lamb, {json.dumps(entry)}]"
    assert NOBODY in refused("run", "lamb", evaluation, "--out", tmp_path / "new")
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"model: lamb\nsettings:\n  a: {{seed: 1}}\n  b: {{evaluation: [{json.dumps(entry)}]}}\n")
    assert NOBODY in refused("sweep", plan, "--out", tmp_path / "sweep")
    assert not (tmp_path / "new").exists() and not (tmp_path / "sweep").exists()
    assert isheep("eval", run, "lamb").code == 0 and prompted_models  # which asks none


def test_a_judge_that_is_not_there_or_refuses_the_key(
    prompted_models: list[str], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("eval", make_run(tmp_path / "run"), "mt_bench", "--data", questions)
    with serving(lambda message, earlier: said("[[7]]"), models=401) as server:
        known(server, monkeypatch)
        assert f"judge 'mine' at {server.url}: HTTP 401; set OPENAI_BASE_URL" in refused(*words, "--judge", "mine")
    assert f"at {server.url}: no connection" in refused(*words) and not prompted_models
    nowhere = "{model: nowhere/at/all, local: true}"
    assert "model 'nowhere/at/all' not found" in refused(*words, "--judge", nowhere) and not prompted_models


def test_no_sandbox(prompted_models: list[str], leaking: None, problems: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluation=["lamb", {"name": "humaneval", "data": str(problems)}])
    assert "run the code unguarded with --unsafe-code" in refused("eval", run) and not prompted_models
    evaluation = f"evaluation=[{{name: humaneval, data: {problems}}}]"
    assert "with --unsafe-code" in refused("run", "lamb", evaluation, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    done = isheep("eval", run, "--iteration", "0", "--unsafe-code")
    assert done.code == 0 and "model-written code ran without isolation of files" in " ".join(done.out.split())
    assert json.loads((run / "base/eval/humaneval.json").read_text())["details"]["sandbox"] == "none"
    assert "unsafe_code: false" in (run / "recipe.yaml").read_text()  # it was for this command


def test_data_that_are_gone_before_a_run_goes_on(prompted_models: list[str], problems: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model="lamb", evaluation=[{"name": "humaneval", "data": str(problems)}])
    problems.unlink()
    assert f"no such file: {problems}" in refused("run", run / "recipe.yaml", "--out", run)
    assert f"no such file: {problems}" in refused("eval", run) and not prompted_models


# --- the judge that is given


def test_the_judge_of_this_command(
    prompted_models: list[str], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    words = ("eval", run, "mt_bench", "--data", questions, "--iteration", "0")
    with serving(lambda message, earlier: said("[[7]]")) as server:
        known(server, monkeypatch)
        done = isheep(*words, "--judge", "{model: mine, parameters: {max_tokens: null, seed: 3}}")
        assert done.code == 0 and "judged by mine" in done.out, done.err
        assert {(body["model"], body["seed"], body.get("max_tokens")) for body in server.bodies} == {("mine", 3, None)}
        earlier = hash_files(run)
        assert "the judge, its prompts or its parameters have changed" in refused(*words)
        assert "the judge, its prompts or its parameters have changed" in refused(*words, "--judge", "mine")
        assert hash_files(run) == earlier and len(server.bodies) == 6
    assert isheep(*words, "--judge", "{model: mine, parameters: {max_tokens: null, seed: 3}}").out == done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mt_bench", "--judge", "mine"), "mt_bench reads the original's files"),
        (("lamb", "--judge", "mine"), "--judge is for alpaca_eval, alpaca_eval_2, mt_bench: lamb asks none"),
        (("mt_bench", "--judge", "{modle: mine}"), "modle: extra inputs are not permitted; it has model, local"),
        (("mt_bench", "--judge", "{model: [mine"), "--judge {model: [mine: not YAML"),
        (("mt_bench", "--judge", "{local: true}"), "a local judge is a model of yours"),
    ],
)
def test_a_judge_that_can_not_be(
    prompted_models: list[str], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    data = () if words[2] in ("mine",) else ("--data", tmp_path)
    assert message in refused("eval", make_run(tmp_path / "run"), *words, *data) and not prompted_models


def test_a_local_judge_of_other_weights_is_another_judge(
    prompted_models: list[str], questions: Path, tmp_path: Path
) -> None:
    second = make_run(tmp_path / "other", 1, model="lamb")
    weights = second / "iter-1" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"one")
    entry = {"name": "mt_bench", "data": str(questions), "judge": {"model": str(second), "local": True}}
    run = scored(tmp_path / "run", entry)
    assert isheep("eval", run).code == 0
    weights.write_bytes(b"two")
    assert "the judge, its prompts or its parameters have changed" in refused("eval", run)


# --- what changed is not passed over


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def scored(path: Path, entry: dict[str, Any]) -> Path:
    """A run whose base and iteration are scored already, on the benchmark as it is now."""
    run = make_run(path, 1, model="lamb", evaluation=[entry])
    made_from = result_fingerprints(Recipe(model="lamb"), BenchmarkSettings.model_validate(entry))
    for name in ("base", "iter-1"):
        file = run / name / "eval" / f"{entry['name']}.json"
        file.parent.mkdir(parents=True)
        result = Result(template="plain", scores={"right": Score(items=[True, False])}, **made_from.model_dump())
        file.write_text(result.model_dump_json())
    # As in a run of an earlier version: the scores are written here by hand.
    (run / "manifest.json").unlink()
    return run


def ifeval_file(folder: Path) -> Path:
    require_checkers()
    row = {"key": 1, "prompt": "Say so.", "instruction_id_list": ["length_constraints:number_words"]}
    (folder / "i.jsonl").write_text(json.dumps({**row, "kwargs": [{"num_words": 4, "relation": "at least"}]}))
    return folder / "i.jsonl"


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def piqa(folder: Path) -> Path:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    return write_benchmark(folder, "piqa")


# Of each kind of benchmark: its data, the file and the text in it that the score depends on and no prompt shows.
CASES: dict[str, tuple[Callable[[Path], Path], str, str, str]] = {
    "ifeval": (ifeval_file, "i.jsonl", '"num_words": 4', '"num_words": 5'),
    "mt_bench": (lambda at: mt_bench_files(at / "d", 4), "d/judge_prompts.jsonl", "single-math-v1 {", "Be mild. {"),
    "alpaca_eval": (lambda at: alpaca_files(at / "d", 2), "d/alpaca_eval.json", '"ww"', '"w"'),
    "alpaca_eval_2": (
        lambda at: alpaca_files(at / "d", 2),
        "d/evaluators_configs/weighted_alpaca_eval_gpt4_turbo/prompt.txt", "Compare", "Be mild",
    ),
    "humaneval": (lambda at: lines(at / "h.jsonl", [HUMANEVAL_TASK]), "h.jsonl", "f(2) == 4", "f(2) == 5"),
    "mbpp": (
        lambda at: lines(at / "m.jsonl", [*map(mbpp_task, (2, 3, 4, 11))]), "m.jsonl", "add(0) == 11", "add(0) == 12",
    ),
    "standard/piqa": (piqa, "valid-labels.lst", "0", "1"),
    "paper/piqa": (lambda at: write_benchmark(at, "piqa"), "valid-labels.lst", "0", "1"),
    "paper/commonsense_qa": (
        lambda at: write_benchmark(at, "commonsense_qa"),
        "train_rand_split.jsonl", '"answerKey": "C"', '"answerKey": "B"'
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_answers_and_judge_prompts_that_changed(prompted_models: list[str], tmp_path: Path, name: str) -> None:
    """The prompts are the same. Without a judge in the environment: nothing is owed."""
    make, file, old, new = CASES[name]
    run = scored(tmp_path / "run", {"name": name, "data": str(make(tmp_path))})
    assert isheep("eval", run).code == 0
    change(tmp_path / file, old, new)
    wrong = refused("eval", run)
    assert f"base/eval/{name}.json was scored by another rule" in wrong and "or delete it and" in wrong
    assert wrong == refused("run", run / "recipe.yaml", "--out", run) and not prompted_models


def test_what_is_scored_is_shown_though_its_data_are_gone(
    prompted_models: list[str], problems: Path, tmp_path: Path
) -> None:
    run = scored(tmp_path / "run", {"name": "humaneval", "data": str(problems)})
    problems.unlink()
    assert isheep("eval", run).code == 0
    assert "there is no such file" in refused("eval", run, "humaneval", "--data", problems)


def test_another_chat_template(prompted_models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", 1)
    assert isheep("eval", run, "lamb").code == 0
    changed_chat = FakeChat(template="another")
    backend = replace(DEFAULT_BACKEND, load_chat_template=lambda name, model: changed_chat)
    use_backend(monkeypatch, backend)
    assert "base/eval/lamb.json was made with another chat template" in refused("eval", run, "lamb")


def test_kept_verdicts_are_about_these_programs(prompted_models: list[str], problems: Path, tmp_path: Path) -> None:
    """Only the result was deleted, and other tests came: the verdicts that are left are not used."""
    run = make_run(tmp_path / "run")
    words = ("eval", run, "humaneval", "--data", problems, "--iteration", "0", "--unsafe-code")
    assert isheep(*words).code == 0
    (run / "base/eval/humaneval.json").unlink()
    change(problems, "f(2) == 4", "f(2) == 2 + 2")
    done = isheep(*words)
    assert done.code == 2 and "verdicts.jsonl is about other items" in done.err
    assert not (run / "base/eval/humaneval.json").exists()


def test_compare_and_the_table_keep_other_rules_apart(
    prompted_models: list[str], problems: Path, tmp_path: Path
) -> None:
    run = scored(tmp_path / "run", {"name": "humaneval", "data": str(problems)})
    assert "p over items" in isheep("status", run, "--full").out and isheep("compare", run).code == 0
    base = run / "base/eval/humaneval.json"
    base.write_text(json.dumps({**json.loads(base.read_text()), "score_fingerprint": "another"}))
    assert "p over items" not in "".join(
        line for line in isheep("status", run, "--full").out.splitlines() if "(" in line and "p against" in line
    )
    assert "humaneval: the two were scored by other rules" in refused("compare", run)


def test_contamination_is_looked_for_in_what_was_asked(prompted_models: list[str], tmp_path: Path) -> None:
    first, second = lines(tmp_path / "first.jsonl", [HUMANEVAL_TASK]), tmp_path / "other.jsonl.gz"
    run = scored(tmp_path / "run", {"name": "humaneval", "data": str(first)})
    fields = {"id": "t1-0", "instruction": HUMANEVAL_TASK["prompt"], "input": "", "output": "fine"}
    pair = Pair.model_validate({**fields, "finish": "stop", "tokens": 1, "seed": 1})
    RunFolder(run / "iter-1", run).write("pairs.jsonl", Pair, [pair])
    assert "overlap with one of its 1 prompts" in " ".join(isheep("contamination", run).out.split())
    second.write_bytes(gzip.compress(json.dumps({**HUMANEVAL_TASK, "prompt": "def three():\n"}).encode()))
    wrong = refused("contamination", run, "humaneval", "--data", second)
    assert "base/eval/humaneval.json was scored on other prompts than" in wrong and "as --data" in wrong


def test_a_server_without_a_list_of_models_may_judge(
    prompted_models: list[str], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    with serving(lambda message, earlier: Answer(200, {"choices": []}), models=404) as server:
        known(server, monkeypatch)
        done = isheep("eval", run, "mt_bench", "--data", questions, "--iteration", "0")
    assert done.code == 0 and "6 verdicts can't be read" in " ".join(done.out.split())
