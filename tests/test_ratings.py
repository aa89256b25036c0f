"""Ratings that every model can give: constrained scores, what happens if ratings can't be read, and the best share."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

import isheep
from isheep.cli.pair_cards import pair_card
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.filters.score import ScoreFilter
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Assessment, score_openings
from isheep.records import AssessedPair, Grade, Model, Sampling
from isheep.stages.assess import assess, check_score_tokens, render_rating_prompt
from isheep.stages.filters import find_drops
from isheep.stages.grades import draw_score
from tests.helpers.command import isheep as isheep_command
from tests.helpers.command import refused
from tests.helpers.hashes import hash_files
from tests.helpers.openai_server import Fake, serving
from tests.helpers.ratings import SMALL, ScoringEngine, grades_in, run, unfinish
from tests.helpers.rows import make_pair
from tests.helpers.stages import stage_context, write_killed_stage

# The tiny checkpoints read 256 tokens.
SHORT_PROMPT = {name: f"Rate the {name} of {{output}} for {{instruction}}:" for name in ("quality", "following")}
CRITERIA = ("quality", "following")


# --- constrained scores


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        ({"temperature": 0}, {3}),
        ({"temperature": 1, "top_p": 1}, {1, 3, 8, 10}),
        ({"temperature": 1, "top_p": 0.85}, {3, 8}),
        ({"temperature": 0.01, "top_p": 1}, {3}),
    ],
)
def test_a_score_is_drawn_by_its_probability_among_the_scores_alone(
    sampling: dict[str, Any], allowed: set[int]
) -> None:
    """The scores have little probability in all; what the judge would write instead does not count."""
    probabilities = [0.0005, 0, 0.005, 0, 0, 0, 0, 0.0035, 0, 0.001]
    draws = Counter(draw_score(probabilities, Sampling(**sampling), seed) for seed in range(2000))
    assert set(draws) == allowed
    if len(allowed) == 4:
        assert 0.45 < draws[3] / 2000 < 0.55 and 0.3 < draws[8] / 2000 < 0.4


@pytest.mark.parametrize("explain", [True, False])
def test_the_judge_writes_its_explanation_after_the_score(tmp_path: Path, explain: bool) -> None:
    engine = ScoringEngine([0, 0, 0, 0, 0, 0, 0, 1e-6, 0, 0], "It is short.")
    settings = {"read": "constrained", "explain": explain}
    [row] = assess(stage_context(tmp_path, engine, assessment=settings), [make_pair()])
    assert isinstance(row, AssessedPair)
    reply = "8||It is short." if explain else "8"
    assert row.grades == dict.fromkeys(CRITERIA, Grade(score=8, reply=reply, expected=8))
    assert len(engine.prompts) == (2 if explain else 0) and all(text.endswith(": 8||") for text in engine.prompts)


def test_a_judge_without_any_probability_is_unreadable(tmp_path: Path) -> None:
    engine = ScoringEngine([0] * 10)
    [row] = assess(stage_context(tmp_path, engine, assessment={"read": "constrained"}), [make_pair()])
    assert isinstance(row, AssessedPair)
    assert row.grades == dict.fromkeys(CRITERIA, Grade(score=None, reply="")) and engine.prompts == []


def test_only_a_constrained_grade_has_an_expected_score_in_its_file() -> None:
    assert Grade(score=8, reply="8").model_dump_json() == '{"score":8.0,"reply":"8"}'
    assert Grade(score=8, reply="8", expected=7.5).model_dump_json() == '{"score":8.0,"reply":"8","expected":7.5}'


@pytest.mark.numeric
def test_a_tiny_model_gives_nothing_but_readable_ratings(checkpoint: Path, tmp_path: Path) -> None:
    """Its weights are random: of the ratings that it generates, none can be read."""
    chat, pairs = load_chat_template("tokenizer", str(checkpoint)), [make_pair(n) for n in range(6)]
    engine = open_engine(Model(str(checkpoint)), device="cpu")
    sampling = {"max_tokens": 8, "temperature": 0}
    settings = {"read": "constrained", "sampling": sampling, "batch_size": 4, "prompt": SHORT_PROMPT}
    context = stage_context(tmp_path / "whole", engine, chat=chat, assessment=settings)
    rows = assess(context, pairs)
    assessment = Assessment.model_validate(settings)
    check_score_tokens(assessment, chat)
    for pair, row in zip(pairs, rows, strict=True):
        assert isinstance(row, AssessedPair)
        for criterion, grade in row.grades.items():
            prompt = render_rating_prompt(pair, criterion, assessment, chat)
            [probabilities] = engine.choices([prompt], score_openings(assessment))
            score = 1 + probabilities.index(max(probabilities))
            assert grade.score == score and grade.expected is not None and 1 < grade.expected < 10
            [explanation] = engine.generate([f"{prompt} {score}||"], context.sampling(assessment.sampling), 0)
            assert grade.reply == f"{score}||{explanation.text}"
    resumed = stage_context(tmp_path / "resumed", engine, chat=chat, assessment=settings)
    write_killed_stage(resumed, "assessed.jsonl", rows[:5])
    assert assess(resumed, pairs) == rows


@pytest.mark.parametrize("explain", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_run_with_constrained_ratings_is_resumed_to_the_same_bytes(tmp_path: Path, explain: str) -> None:
    words = [*SMALL, "assessment.read=constrained", f"assessment.explain={explain}", "--out", tmp_path / "run"]
    assert run("run", *words) == 0
    whole = hash_files(tmp_path / "run")
    grades = grades_in(tmp_path / "run")
    assert len(grades) == 16 and all(grade["score"] in range(1, 11) for grade in grades)
    assert all(grade["reply"].startswith(f"{grade['score']:g}||") for grade in grades) is (explain == "true")
    unfinish(tmp_path / "run", num_bytes=2500)
    assert run("run", tmp_path / "run") == 0
    assert hash_files(tmp_path / "run") == whole


def test_calls_in_several_threads_give_the_same_grades(tmp_path: Path) -> None:
    engines = [ScoringEngine([0.1] * 10), ScoringEngine([0.1] * 10)]
    engines[1].max_in_flight = 3
    settings = {"read": "constrained", "batch_size": 2}
    pairs = [make_pair(n) for n in range(9)]
    first, second = (
        assess(stage_context(tmp_path / str(index), engine, assessment=settings), pairs)
        for index, engine in enumerate(engines)
    )
    assert first == second and len({grade.score for row in first for grade in row.grades.values()}) > 3  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.numeric
def test_a_server_rates_with_constrained_scores(tmp_path: Path) -> None:
    with serving(Fake("lamb")) as served:
        server = [f"machine.server.url={served.url}", "machine.engine=openai", "assessment.read=constrained"]
        assert run("run", *SMALL, *server, "--out", tmp_path / "run") == 0
        prompts = [body["prompt"] for body in served.bodies]
    grades = grades_in(tmp_path / "run")
    assert all(grade["score"] for grade in grades) and sum("||" in grade["reply"] for grade in grades) == 16
    assert len(prompts) > 48


@pytest.mark.numeric
@pytest.mark.slow
def test_a_server_without_probabilities_chooses_the_score_itself(tmp_path: Path) -> None:
    with serving(Fake("lamb", logprobs=False, structured=True)) as served:
        server = [f"machine.server.url={served.url}", "machine.engine=openai", "assessment.read=constrained"]
        assert run("run", *SMALL, *server, "--out", tmp_path / "run") == 0
        allowed = [body["structured_outputs"]["choice"] for body in served.bodies if "structured_outputs" in body]
    assert allowed.count([f" {score}" for score in range(1, 11)]) == 16
    grades = grades_in(tmp_path / "run")
    assert {grade["score"] == grade["expected"] for grade in grades} == {True}
    assert len({grade["score"] for grade in grades}) > 3
    with serving(Fake("lamb", logprobs=False, structured=True)) as served:
        server = [f"machine.server.url={served.url}", "machine.engine=openai", "assessment.read=expected"]
        assert "gives no log-probabilities" in refused("run", *SMALL, *server, "--out", tmp_path / "expected")


def test_a_server_chooses_where_no_score_is_among_the_most_probable_tokens(tmp_path: Path) -> None:
    class Choosing(ScoringEngine):
        def gives_probabilities(self) -> bool:
            return True

        def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
            return [[0.0] * 10 if "thing 1" in prompt else [0.0] * 9 + [0.2] for prompt in prompts]

        def choose(self, prompts: Sequence[str], options: Sequence[str], sampling: Sampling, seed: int) -> list[int]:
            assert all("thing 1" in prompt for prompt in prompts) and options[3] == " 4"
            return [3 for _ in prompts]

    pairs = [make_pair(n, f"thing {n}") for n in range(3)]
    rows = assess(stage_context(tmp_path, Choosing([]), assessment={"read": "constrained", "explain": False}), pairs)
    grades = [row.grades["quality"] for row in rows if isinstance(row, AssessedPair)]
    assert grades == [Grade(score=score, reply=str(score), expected=score) for score in (10, 4, 10)]


def test_a_server_that_can_not_constrain_is_refused_before_the_run(tmp_path: Path) -> None:
    with serving(Fake("lamb", logprobs=False)) as served:
        server = [f"machine.server.url={served.url}", "machine.engine=openai", "assessment.read=constrained"]
        message = refused("run", *SMALL, *server, "--out", tmp_path / "run")
    assert "no log-probabilities and has no structured choice, so that scores can't be constrained" in message
    assert not (tmp_path / "run").exists()
    chat = ["machine.server.api=chat", "synthesis.chat=true", "assessment.chat=true"]
    message = refused("run", *SMALL, *server, *chat, "--out", tmp_path / "run")
    assert "assessment.explain: machine.server.api: chat can't continue a reply after its score" in message


def test_a_function_is_told_that_it_can_not_be_constrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(prompts: list[str]) -> list[str]:
        return ["9||good" if index % 2 else "fine" for index, _ in enumerate(prompts)]

    settings = {"read": "constrained", "explain": False}
    recipe = isheep.load_recipe("lamb", {"assessment": settings, "evaluation": [], "filters": []})
    with pytest.raises(UserError, match="pairs|tasks|candidates|replies"):
        list(isheep.align(recipe, tmp_path / "run", engine=write))
    assert "is a function, which can't be constrained" in capsys.readouterr().err
    [row, *_] = assess(
        stage_context(tmp_path, SeededFunctionEngine(lambda prompt, seed: "9||good"), assessment=settings),
        [make_pair()],
    )
    assert isinstance(row, AssessedPair) and row.grades["quality"] == Grade(score=9, reply="9", expected=9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["assessment.explain=false"], "assessment.explain: it is for read: constrained, and this recipe has read: ge"),
        (["assessment.opening=' <'"], "assessment.opening: it is for read: expected or constrained"),
    ],
)
def test_settings_without_an_effect_are_refused(words: list[str], message: str) -> None:
    assert message in refused("run", "lamb", *words)


# --- the best share


def rated(index: int, *grades: tuple[float | None, float | None]) -> AssessedPair:
    """Return a pair whose grades have these scores and expected scores."""
    by_criterion = {
        criterion: Grade(score=score, reply="", expected=expected)
        for criterion, (score, expected) in zip(CRITERIA, grades, strict=False)
    }
    return AssessedPair(**make_pair(index).model_dump(), grades=by_criterion)


def drop_reasons(pairs: Sequence[AssessedPair], **settings: Any) -> dict[str, str]:
    drops = find_drops(pairs, [ScoreFilter(**settings)], True, [])
    return {drop.row: drop.why for drop in drops}


def test_the_best_share_by_the_mean_rating_is_kept() -> None:
    scores = [(3, 3), (2, 5), (9, 9), (None, 10), (1, 1), (8, 9), (4, 2)]
    pairs = [rated(index, (a, None), (b, None)) for index, (a, b) in enumerate(scores)]
    assert drop_reasons(pairs, best=0.5) == {
        "t1-0": "rating 3 is number 4 of 6, and the best 3 are kept",
        "t1-3": "quality unreadable",
        "t1-4": "rating 1 is number 6 of 6, and the best 3 are kept",
        "t1-6": "rating 3 is number 5 of 6, and the best 3 are kept",
    }
    assert list(drop_reasons(pairs, best=0.01)) == ["t1-0", "t1-1", "t1-3", "t1-4", "t1-5", "t1-6"]
    by_following = drop_reasons(pairs, best=0.3, criteria=("following",))
    assert list(by_following) == ["t1-0", "t1-1", "t1-4", "t1-5", "t1-6"]


def test_equal_ratings_are_ordered_by_the_expected_score_and_then_by_position() -> None:
    pairs = [rated(0, (7, 5.1)), rated(1, (7, 6.2)), rated(2, (7, 6.2)), rated(3, (8, 1.5))]
    assert list(drop_reasons(pairs, best=0.5)) == ["t1-0", "t1-2"]
    unreadable = [rated(index, (None, None)) for index in range(3)]
    assert set(drop_reasons(unreadable, best=0.5).values()) == {"quality unreadable"}
    assert drop_reasons([*unreadable, rated(3, (1, None))], best=0.5).keys() == {"t1-0", "t1-1", "t1-2"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{kind: score, best: 0.3, at_least: 5}", "filters.0: give exactly one of at_least, above and best"),
        ("{kind: score, best: 1}", "filters.0.best: input should be less than 1; found 1"),
        ("{kind: score, best: 0}", "filters.0.best: input should be greater than 0; found 0"),
    ],
)
def test_a_share_is_between_0_and_1_and_alone(words: str, message: str) -> None:
    assert message in refused("run", "lamb", "evaluation=[]", f"filters=[{words}]")


@pytest.mark.slow
def test_a_run_with_the_best_share_is_read_by_every_command(tmp_path: Path) -> None:
    """The commands that read thresholds cope with a share; the control keeps as many pairs at random."""
    share = "{kind: score, best: 0.25}"
    words = [*SMALL, "assessment.read=constrained", "assessment.explain=false", f"filters=[{share}]"]
    assert run("run", *words, "--out", tmp_path / "run") == 0
    status = isheep_command("status", tmp_path / "run")
    assert status.code == 0 and "2 (25%)" in status.out
    high, low = (isheep_command("show", tmp_path / "run", "1", "--quality", band) for band in ("high", "low"))
    assert high.out.startswith("2 rows") and low.out.startswith("6 rows")
    dropped = isheep_command("show", tmp_path / "run", "1", "--dropped").out
    assert "dropped by score: rating" in dropped and "of 8, and the best 2 are kept" in dropped
    calibration = isheep_command("judge-calibration", tmp_path / "run", "--pairs", "4")
    assert calibration.code == 0 and "kept or not" in calibration.out
    assert isheep_command("plan", *words).code == 0
    control = ["filters=[{kind: random, as_many_as: {best: 0.25}}]"]
    assert run("run", *words, *control, "--out", tmp_path / "control") == 0
    assert len(json.loads((tmp_path / "control" / "iter-1" / "train.json").read_text())) == 2


# --- isheep show


SHARES = [0.01] * 6 + [0.3, 0.4, 0.2, 0.04]
EXPECTED_REPLY = ", ".join(f"{score}: {share:.4f}" for score, share in enumerate(SHARES, 1))


@pytest.mark.parametrize(
    ("grade", "line"),
    [
        (Grade(score=2, reply=" 2||Wrong, and long."), "quality 2: Wrong, and long."),
        (Grade(score=8, reply="<8>||Good || really"), "quality 8: Good || really"),
        (Grade(score=8, reply=" 8"), "quality 8"),
        (Grade(score=8, reply="Score: 8, good"), "quality 8: Score: 8, good"),
        (Grade(score=None, reply="eight||good"), "quality unreadable: eight||good"),
        (Grade(score=None, reply=""), "quality unreadable"),
        (Grade(score=8, reply="8||Good", expected=6.41), "quality 8 (expected 6.4): Good"),
        (Grade(score=3, reply="3", expected=6.41), "quality 3 (expected 6.4)"),
        (Grade(score=7.9, reply=EXPECTED_REPLY), "quality 7.9: most probable 8 (40%), 7 (30%), 9 (20%)"),
    ],
)
def test_show_prints_a_score_once_and_then_the_explanation(grade: Grade, line: str) -> None:
    row = AssessedPair(**make_pair().model_dump(), grades={"quality": grade})
    assert pair_card(row, Text("kept")).plain.splitlines()[-1] == f"  {line}"
