"""judge-calibration: a judge with known habits behind the fake engine, the real lamb; resuming and refusals."""

import fcntl
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isheep import annotation
from isheep.annotation import Choice, Rating
from isheep.backends import Backend
from isheep.benchmarks import Benchmark, lamb
from isheep.diagnostics import judge_calibration
from isheep.engines.function import SeededFunctionEngine
from isheep.lamb.answers import write_good, write_wrong
from isheep.lamb.world import draw_quest
from isheep.recipe.schema import Recipe
from isheep.records import Answer, AssessedPair, Grade, Model, Pair, Sampling
from isheep.rundir.folder import RunFolder
from isheep.rundir.manifest import accept_files
from isheep.rundir.run import open_run, open_run_for_writing
from tests.helpers.backends import add_benchmark, use_backend
from tests.helpers.command import Done, isheep, refused
from tests.helpers.fakes import FakeChat
from tests.helpers.hashes import hash_files

PAIRS = 60
SETTINGS: dict[str, Any] = {"model": "fake", "iterations": 2, "evaluation": []}
GREEDY = {"sampling": {"temperature": 0}}


class Call(NamedTuple):
    """`temperature` is None if scores are read from the probabilities."""

    model: Model
    temperature: float | None
    rows: int


class Bench:
    """Judges behind fakes. `say` writes a rating from (model, prompt, seed); calls are remembered."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.say: Callable[[Model, str, int], str] = lambda model, prompt, seed: f"{truth_in(prompt)}||so"

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        fixture = self

        class Judge(SeededFunctionEngine):
            def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> Any:
                fixture.calls.append(Call(model, sampling.temperature, len(prompts)))
                return super().generate(prompts, sampling, seed)

            def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
                fixture.calls.append(Call(model, None, len(prompts)))
                return [[0.2 * (truth_in(prompt) == n) + 0.1 for n in range(1, 11)] for prompt in prompts]

        return Judge(lambda prompt, seed: fixture.say(model, prompt, seed))


def truth_in(prompt: str) -> int:
    """Return the score that an answer deserves, 7 for "worth 7"."""
    return int(prompt.split("worth ")[1].split(".")[0])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    judges = Bench()
    backend = Backend(judges.open_engine, load_chat_template=lambda name, model: FakeChat())  # type: ignore[arg-type, return-value]
    use_backend(monkeypatch, backend)
    yield judges


def worth(t: int, n: int) -> int:
    return n % 10 + 1


def assessed(t: int, n: int) -> AssessedPair:
    """Answers of 1 to 10 tokens; quality is what the answer is worth, following falls with length, one is no score."""
    score = worth(t, n)
    following = Grade(score=11 - score, reply="") if n else Grade(score=None, reply="no idea")
    grades = {"quality": Grade(score=score, reply=f"{score}||so"), "following": following}
    fields = {"id": f"t{t}-{n}", "instruction": f"Do {n}", "output": f"It is worth {score}.", "finish": "stop"}
    return AssessedPair.model_validate({**fields, "tokens": score, "seed": 1, "grades": grades})


def make_run(path: Path, **changes: Any) -> Path:
    with open_run_for_writing(path, Recipe.model_validate({**SETTINGS, **changes})) as root:
        for t in (1, 2):
            folder = root / f"iter-{t}"
            rows = [assessed(t, n) for n in range(PAIRS)]
            folder.write("pairs.jsonl", Pair, [Pair(**row.model_dump(exclude={"grades"})) for row in rows])
            folder.write("assessed.jsonl", AssessedPair, rows)
            folder.artifact("adapter", lambda into: None)
    return path


def calibrate(run: Path, t: int = 1, *words: str) -> dict[str, Any]:
    done = isheep("judge-calibration", run, *words)
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads((run / f"iter-{t}" / "judge_calibration.json").read_text())
    return result


def test_scores_their_spread_and_unreadable_ratings(bench: Bench, tmp_path: Path) -> None:
    result = calibrate(make_run(tmp_path / "run"))["scores"]
    assert result["quality"]["histogram"] == {str(n): 6 for n in range(1, 11)} and result["quality"]["mean"] == 5.5
    assert result["quality"]["unreadable"][0] == 0
    assert result["following"]["unreadable"] == pytest.approx([1 / 60, 0.003, 0.0886], abs=1e-3)
    assert result["following"]["num_rated"] == 60 and sum(result["following"]["histogram"].values()) == 59


def test_length_raises_one_score_and_lowers_the_other(bench: Bench, tmp_path: Path) -> None:
    result = calibrate(make_run(tmp_path / "run"))["comparisons"]["length"]
    assert result["quality"]["rank_correlation"][0] == 1 and result["following"]["rank_correlation"][0] == -1
    assert (result["quality"]["num_pairs"], result["following"]["num_pairs"]) == (60, 59)


@pytest.mark.parametrize(
    ("assessment", "temperatures", "method"),
    [
        ({}, [1.0], "the run's ratings and new ones at its temperature, 1"),
        ({"sampling": {"temperature": 0.6}}, [0.6], "the run's ratings and new ones at its temperature, 0.6"),
        (GREEDY, [1.0, 1.0], "two ratings at temperature 1, because the run's are greedy"),
        ({"read": "expected"}, [], "not measured: expected scores are not sampled, they would be the same"),
    ],
)
def test_how_ratings_are_repeated(
    bench: Bench, tmp_path: Path, assessment: dict[str, Any], temperatures: list[float], method: str
) -> None:
    run = make_run(tmp_path / "run", assessment=assessment)
    result = calibrate(run, 1, "--iteration", "1", "--pairs", "20")
    assert result["repeated"]["method"] == method and result["sample_size"] == 20
    sampled = [call for call in bench.calls if call.temperature == (temperatures or [0.0])[0]]
    assert sum(call.rows for call in sampled) == 2 * 20 * len(temperatures)
    names = {path.stem for path in (run / "iter-1" / "judge_calibration" / "20").iterdir()}
    first = {"again-1"} if assessment == GREEDY else set()
    expected_names = {"generate"} if "read" in assessment else {"expected", "again-2", *first}
    assert names == expected_names and not (run / "iter-2" / "judge_calibration.json").exists()


def test_a_judge_that_repeats_itself_and_one_that_does_not(bench: Bench, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", assessment=GREEDY)
    result = calibrate(run)["repeated"]
    assert result["criteria"]["quality"]["equal"][0] == 1 and result["criteria"]["quality"]["concordance"] == [1, 1, 1]
    assert result["same_decision"][0] == 1
    bench.say = lambda model, prompt, seed: f"{seed % 10 + 1}||so" if seed % 5 else "who knows"
    fickle = calibrate(make_run(tmp_path / "fickle", assessment=GREEDY))["repeated"]["criteria"]["quality"]
    assert fickle["equal"][0] < 0.3 and fickle["concordance"][1] < 0 < fickle["concordance"][2]
    assert fickle["num_pairs"] < 60


@pytest.mark.parametrize(("judge", "name"), [("current", "base judge"), ("base", "current judge")])
def test_the_other_judge_rates_the_same_pairs(bench: Bench, tmp_path: Path, judge: str, name: str) -> None:
    run = make_run(tmp_path / "run", assessment={"judge": judge})
    aligned = Model("fake", run / "iter-1" / "adapter")
    bench.say = lambda model, prompt, seed: f"{max(1, truth_in(prompt) - (model.adapter is None))}||"
    result = calibrate(run, 2, "--pairs", "40")
    rating_judge, other_judge = (aligned, Model("fake")) if judge == "current" else (Model("fake"), aligned)
    assert result["judge"] == ("iteration 1" if judge == "current" else "base")
    assert [call.model for call in bench.calls][-2:] == [other_judge, other_judge]
    assert rating_judge in {call.model for call in bench.calls}
    row = result["comparisons"][name]["quality"]
    assert row["num_pairs"] == 40 and row["rank_correlation"][0] > 0.98
    assert row["difference"][0] == pytest.approx(0.9 if judge == "current" else 0, abs=0.11)
    first = json.loads((run / "iter-1" / "judge_calibration.json").read_text())
    assert first["comparisons"][name] is None


def test_an_iteration_with_an_assessment_of_its_own_is_measured_with_it(bench: Bench, tmp_path: Path) -> None:
    own = {"assessment": {"criteria": ["following"], "judge": "base"}, "filters": [{"kind": "score", "at_least": 3}]}
    run = make_run(tmp_path / "run", iteration={2: own})
    ratings = run / "iter-2/assessed.jsonl"
    rows = [json.loads(line) for line in ratings.read_text().splitlines()]
    for row in rows:
        del row["grades"]["quality"]
    ratings.write_text("".join(json.dumps(row) + "\n" for row in rows))
    accept_files(run, ["iter-2/assessed.jsonl"])
    result = calibrate(run, 2)
    assert [*result["scores"]] == ["following"] and result["judge"] == "base"
    assert [*result["comparisons"]["current judge"]] == ["following"]


def test_a_run_whose_first_iteration_is_not_rated_is_measured(bench: Bench, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", assessment=None, filters=[], iteration={2: {"assessment": {}}})
    (run / "iter-1/assessed.jsonl").unlink()
    accept_files(run, ["iter-1/assessed.jsonl"])
    assert calibrate(run, 2)["iteration"] == 2


def test_the_written_score_compared_with_the_expected_one(bench: Bench, tmp_path: Path) -> None:
    result = calibrate(make_run(tmp_path / "run"))["comparisons"]["expected score"]["quality"]
    assert result["num_pairs"] == 60 and result["rank_correlation"][0] == pytest.approx(1)
    assert result["difference"][0] == pytest.approx(0, abs=0.01)
    [rows] = {call.rows for call in bench.calls if call.temperature is None}
    assert rows == 120


# --- the truth


def make_checked_run(run: Path, right: list[bool], scores: Sequence[int]) -> Path:
    """Make a run that has the base's answers to "paper/checked", worth these scores, and which of them are right."""
    make_run(run, evaluation=["paper/checked"])
    base = RunFolder(run / "base", run, is_recorded=True)
    rows = [Answer(output=f"worth {score}.", finish="stop", tokens=score) for score in scores]
    (base / "eval" / "paper/checked").write("answers.jsonl", Answer, rows)
    base.json(
        "eval/paper/checked.json",
        lambda: {"scores": {"mean": {"items": [0.5] * len(right)}, "right": {"items": right}}},
    )
    return run


def checked_benchmark(*prompts: str) -> Benchmark:
    return replace(lamb.BENCHMARK, name="paper/checked", prompts=lambda settings: list(prompts), is_right=None)


def test_checked_answers_are_rated_and_compared_with_the_verdicts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_benchmark(monkeypatch, checked_benchmark(*(f"Task {n}" for n in range(30))))
    right = [n % 3 == 0 for n in range(30)]
    run = make_checked_run(tmp_path / "run", right, [9 if hit else 8 - n % 4 for n, hit in enumerate(right)])
    result = calibrate(run, 1, "--iteration", "1")["truth"]["paper/checked"]
    assert result["num_pairs"] == 30 and result["right"][0] == pytest.approx(1 / 3, abs=1e-3)
    assert result["auroc"][0] == 1 and result["recall"][0] == 1
    kept = sum(hit or 8 - n % 4 >= 8 for n, hit in enumerate(right))
    assert result["num_passing"] == kept and result["precision"][0] == pytest.approx(10 / kept, abs=1e-3)
    [rows] = [call.rows for call in bench.calls if call.rows == 30][:1]
    assert rows == 30 and (run / "iter-1" / "judge_calibration" / "60" / "paper" / "checked.jsonl").exists()


def test_benchmarks_without_answers_for_each_prompt_have_no_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_benchmark(monkeypatch, checked_benchmark("a", "b"))
    recipe, folder = open_run(make_checked_run(tmp_path / "run", [True, False], [1, 2, 3]))
    settings = recipe.assessment or judge_calibration.Assessment()
    case = judge_calibration.JudgedIteration(recipe, settings, folder, 1, [], 9)
    assert judge_calibration.load_checked_answers(case) == {}


def test_ratings_by_people_are_a_truth_and_a_comparison(bench: Bench, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", filters=[{"kind": "score", "at_least": 8, "criteria": ["quality"]}])
    for n in range(1, 40):
        human = min(10, worth(1, n) + 1)
        row = {"quality": human, "following": max(1, 11 - human)}
        annotation.append_annotation(run / annotation.RATINGS, Rating(row=f"t1-{n}", by="me", scores=row))
    annotation.append_annotation(run / annotation.RATINGS, Rating(row="t1-50", by="me", scores=None))
    with (run / annotation.RATINGS).open("ab") as file:
        file.write(b'{"row": "t1-51", "by')
    for n, chosen in enumerate(["left", "left", "right", "tie", None]):
        fields = {"task": f"s{n}", "of": "x", "by": "me", "left": 2, "right": 0, "chosen": chosen}
        annotation.append_annotation(run / annotation.CHOICES, Choice.model_validate(fields))
    done = isheep("judge-calibration", run)
    result = [json.loads((run / f"iter-{t}" / "judge_calibration.json").read_text()) for t in (1, 2)]
    by_people = result[0]["comparisons"]["people"]["quality"]
    assert by_people["num_pairs"] == 39 and by_people["rank_correlation"][0] > 0.95
    assert -1 < by_people["difference"][0] < -0.8
    truth = result[0]["truth"]["people"]
    assert truth["num_pairs"] == 39 and truth["precision"][0] == 1 and truth["recall"][0] < 1
    assert result[1]["comparisons"]["people"] is None and "people" not in result[1]["truth"]
    [win] = result[1]["wins"]
    assert (win["against"], win["num_tasks"], win["win_rate"][0]) == (0, 4, 0.625) and result[0]["wins"] == []
    assert (
        "people choose between answers" in done.out
        and "unreadable lines of annotations, which are ignored: 1" in done.out
    )
    assert max(map(len, done.out.splitlines())) <= 80


# --- files


def test_the_files_of_the_run_stay_and_a_stopped_calibration_resumes(bench: Bench, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", assessment={"batch_size": 8})
    before = hash_files(run)
    first = isheep("judge-calibration", run, "--pairs", "24")
    complete = hash_files(run)
    assert {name: complete[name] for name in before} == before
    assert all("judge_calibration" in name for name in complete if name not in before)
    num_calls = len(bench.calls)
    again = isheep("judge-calibration", run, "--pairs", "24")
    assert hash_files(run) == complete and again.out == first.out and len(bench.calls) == num_calls
    rows = run / "iter-1" / "judge_calibration" / "24" / "expected.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.unlink()
    rows.with_name("expected.jsonl.part").write_bytes(b"".join(lines[:11]) + b'{"torn')
    (run / "iter-1" / "judge_calibration.json").unlink()
    isheep("judge-calibration", run, "--pairs", "24")
    assert hash_files(run) == complete and sum(call.rows for call in bench.calls[num_calls:]) == 2 * 16
    isheep("judge-calibration", run, "--pairs", "12")
    assert rows.exists() and rows.parent.with_name("12").is_dir()


def test_tables_are_80_columns_wide_and_nothing_is_cut(bench: Bench, tmp_path: Path) -> None:
    done: Done = isheep("judge-calibration", make_run(tmp_path / "run", assessment=GREEDY))
    assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80 and "…" not in done.out
    for title in ("scores", "the same pairs rated again", "scores compared with"):
        assert title in done.out
    assert "the truth is not known" in done.out and "█" in done.out


def test_errors_are_one_line(bench: Bench, tmp_path: Path) -> None:
    unrated = make_run(tmp_path / "unrated", assessment=None, filters=[])
    assert "its recipe has no assessment" in refused("judge-calibration", unrated)
    run = make_run(tmp_path / "run")
    assert "has no ratings of iteration 3 yet" in refused("judge-calibration", run, "--iteration", "3")
    with (run / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by another process" in refused("judge-calibration", run)


def test_prompts_of_the_user_are_those_that_the_run_began_with(bench: Bench, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("taste: 'Taste of {instruction}: {output} 1 to 10?'\n")
    prompts: list[str] = []

    def say(model: Model, prompt: str, seed: int) -> str:
        prompts.append(prompt)
        return "7||"

    bench.say = say
    run = tmp_path / "run"
    settings = {**SETTINGS, "assessment": {"prompt": str(own), "criteria": ["taste"]}, "filters": []}
    with open_run_for_writing(run, Recipe.model_validate(settings)) as root:
        row = assessed(1, 3).model_copy(update={"grades": {"taste": Grade(score=4, reply="4||")}})
        (root / "iter-1").write("assessed.jsonl", AssessedPair, [row])
    own.unlink()
    assert calibrate(run)["scores"]["taste"]["mean"] == 4
    assert prompts == ["Taste of Do 3: It is worth 4. 1 to 10?"]


# --- the real lamb


@pytest.mark.numeric
def test_lamb_judges_its_own_world_better_than_a_coin(tmp_path: Path) -> None:
    rng, rows = random.Random(3), []
    for n in range(200):
        quest = draw_quest(rng)
        answer = write_good(quest, rng) if n % 2 else write_wrong(quest, rng)
        fields = {"id": f"t1-{n:05d}", "instruction": quest.instruction, "input": quest.input, "output": answer.text}
        rows.append(Pair.model_validate({**fields, "finish": "stop", "tokens": len(answer.text), "seed": 1}))
    settings = {"model": "lamb", "seed_tasks": "lamb", "evaluation": ["lamb"], "machine": {"threads": 1}}
    assessment = {"sampling": {"temperature": 0, "max_tokens": 8}}
    recipe = Recipe.model_validate({**settings, "assessment": assessment})
    with open_run_for_writing(tmp_path / "run", recipe) as root:
        from isheep.backends import open_engine
        from isheep.models.chat_template import load_chat_template
        from isheep.stages.assess import assess
        from isheep.stages.context import StageContext

        chat, engine = load_chat_template(recipe.chat_template, recipe.model), open_engine(recipe, Model("lamb"))
        assess(StageContext(recipe, engine, chat, root, 1), rows)
    result = calibrate(tmp_path / "run", 1, "--pairs", "24")
    truth = result["truth"]["lamb"]
    assert truth["num_pairs"] == 200 and 0.3 < truth["right"][0] < 0.6 and truth["auroc"][1] > 0.5
    assert truth["precision"][0] > truth["right"][0]
    assert result["comparisons"]["expected score"]["quality"]["rank_correlation"][0] > 0.5
    assert result["repeated"]["criteria"]["quality"]["concordance"][0] > 0
