"""Ratings that every model can give: constrained scores, what happens if ratings can't be read, and the best share."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import isheep
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Assessment, score_openings
from isheep.records import AssessedPair, Completion, Grade, Model, Sampling
from isheep.stages.assess import assess, check_score_tokens, render_rating_prompt
from isheep.stages.grades import draw_score
from tests.helpers.command import refused
from tests.helpers.hashes import hash_files
from tests.helpers.openai_server import Fake, serving
from tests.helpers.rows import make_pair
from tests.helpers.stages import stage_context, write_killed_stage

# The tiny checkpoints read 256 tokens.
SHORT_PROMPT = {name: f"Rate the {name} of {{output}} for {{instruction}}:" for name in ("quality", "following")}
CRITERIA = ("quality", "following")
# A run of lamb in seconds. No rating passes or fails a filter, so that the run always has rows to train on.
SMALL = [
    *("lamb", "iterations=1", "evaluation=[]", "synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=4"),
    *("assessment.batch_size=4", "assessment.sampling.max_tokens=8", "filters=[]"),
    *("training.batch_size=4", "training.max_steps=2", "training.eval_every=1"),
]


class ScoringEngine(SeededFunctionEngine):
    """A fake engine: every prompt has the same probabilities of the scores, and each text is `text`."""

    def __init__(self, probabilities: Sequence[float], text: str = "no score") -> None:
        super().__init__(lambda prompt, seed: text)
        self.probabilities = list(probabilities)
        self.prompts: list[str] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.prompts += prompts
        return super().generate(prompts, sampling, seed)

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        return [self.probabilities for _ in prompts]


def run(*words: Any) -> int:
    """Run the command line, and return the exit status."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    return int(end.value.code or 0)


def grades_in(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "iter-1" / "assessed.jsonl").read_text().splitlines()]
    return [grade for row in rows for grade in row["grades"].values()]


def unfinish(folder: Path, num_bytes: int) -> None:
    """Leave a run as a kill during its ratings does, with the first bytes of their file."""
    file = folder / "iter-1" / "assessed.jsonl"
    content = file.read_bytes()
    file.with_name("assessed.jsonl.part").write_bytes(content[:num_bytes])
    file.unlink()
    for name in ("dropped.jsonl", "train.json"):
        (folder / "iter-1" / name).unlink()
    shutil.rmtree(folder / "iter-1" / "adapter")


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


@pytest.mark.parametrize("explain", ["true", "false"])
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


@pytest.mark.numeric
def test_a_server_rates_with_constrained_scores(tmp_path: Path) -> None:
    with serving(Fake("lamb")) as served:
        server = [f"machine.server.url={served.url}", "machine.engine=openai", "assessment.read=constrained"]
        assert run("run", *SMALL, *server, "--out", tmp_path / "run") == 0
        prompts = [body["prompt"] for body in served.bodies]
    grades = grades_in(tmp_path / "run")
    assert all(grade["score"] for grade in grades) and sum("||" in grade["reply"] for grade in grades) == 16
    assert len(prompts) > 48


def test_a_server_that_can_not_constrain_is_refused_before_the_run(tmp_path: Path) -> None:
    with serving(Fake("lamb", logprobs=False)) as served:
        server = [f"machine.server.url={served.url}", "machine.engine=openai", "assessment.read=constrained"]
        message = refused("run", *SMALL, *server, "--out", tmp_path / "run")
    assert "gives no log-probabilities: take assessment.read: generate" in message and not (tmp_path / "run").exists()
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
