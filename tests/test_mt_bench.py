"""MT-Bench: FastChat's judge prompts to the byte, its ratings, its averages, its files; and the verbs on such files."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import mt_bench
from isheep.benchmarks.support import fastchat
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.evaluation.statistics import estimate
from isheep.judges.endpoint import EndpointJudge
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Completion, Sampling
from tests.helpers.command import isheep, refused
from tests.helpers.data_files import MT_BENCH
from tests.helpers.judge_server import known, said, serving
from tests.helpers.judged import HASTE, exam, mt_bench_files, write_lines

original = pytest.mark.skipif(not MT_BENCH.is_dir(), reason=f"no files of MT-Bench: {MT_BENCH} (set ISHEEP_DATA)")
# Of the messages that FastChat 0.2.36's own gen_judgment sends for the answers of the test below.
FASTCHAT = "91f6ec6d48db0229b032f7f19ae8695b3e3980da74bf38b47b38dfaf83def4ed"
ODD = ["{question}", "a {0} b", "}}{{", "[[5]]", "", "é\u2028\x00", "line\n\n### User:\n"]


def raw(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (MT_BENCH / name).read_text(encoding="utf-8").splitlines()]


def by_hand(template: str, holes: dict[str, str]) -> str:
    """A template cut at its holes and put together again, so that nothing that is put in is looked at."""
    texts, names = re.split(r"\{\w+\}", template), re.findall(r"\{(\w+)\}", template)
    return "".join(text + holes[name] for text, name in zip(texts, names, strict=False)) + texts[-1]


@original
def test_judge_prompts_are_those_of_the_original_files() -> None:
    files = fastchat.load_files(MT_BENCH, "gpt-4")
    answers = {q["question_id"]: [ODD[n % 7] + str(n), ODD[n % 5]] for n, q in enumerate(files.questions)}
    prompts_seen = {(entry.question_id, entry.turn): entry for entry in fastchat.judge_requests(files, answers)}
    prompts = {row["name"]: row for row in raw("judge_prompts.jsonl")}
    references = {row["question_id"]: row["choices"][0]["turns"] for row in raw("reference_answer/gpt-4.jsonl")}
    assert len(prompts_seen) == 160
    everything = json.dumps([prompts_seen[folder].messages for folder in sorted(prompts_seen)])
    assert hashlib.sha256(everything.encode()).hexdigest() == FASTCHAT
    assert Counter(entry.prompt for entry in prompts_seen.values()) == {
        **{"single-v1": 50, "single-v1-multi-turn": 50},
        **{"single-math-v1": 30, "single-math-v1-multi-turn": 30},
    }
    for question in raw("question.jsonl"):
        name, (first, second) = question["question_id"], answers[question["question_id"]]
        math = question["category"] in ("math", "reasoning", "coding")
        extra = {f"ref_answer_{n}": text for n, text in enumerate(references[name], 1)} if math else {}
        entry, two = prompts_seen[name, 1], prompts_seen[name, 2]
        single = prompts["single-math-v1" if math else "single-v1"]
        holes = {"question": question["turns"][0], "answer": first}
        holes |= {"ref_answer_1": extra["ref_answer_1"]} if math else {}
        assert entry.user == by_hand(single["prompt_template"], holes) and entry.system == single["system_prompt"]
        multi = prompts["single-math-v1-multi-turn" if math else "single-v1-multi-turn"]
        holes = {"question_1": question["turns"][0], "question_2": question["turns"][1]}
        assert two.user == by_hand(multi["prompt_template"], holes | {"answer_1": first, "answer_2": second} | extra)
        assert two.messages == [
            {"role": "system", "content": multi["system_prompt"]},
            {"role": "user", "content": two.user},
        ]


@original
def test_the_verb_writes_them_without_asking(tmp_path: Path) -> None:
    rows = [
        {"question_id": q["question_id"], "choices": [{"index": 0, "turns": ["one", "two"]}]}
        for q in raw("question.jsonl")
    ]
    write_lines(tmp_path / "mine.jsonl", rows)
    done = isheep("judge-prompts", tmp_path / "mine.jsonl", "--data", MT_BENCH, "--out", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert done.code == 0 and len(lines) == 160
    assert lines[0]["judge"] == ["gpt-4", "single-v1"] and lines[0]["model"] == "mine"
    assert "[The Start of Assistant's Answer]\none\n[The End of Assistant's Answer]" in lines[0]["user_prompt"]
    assert (
        isheep("judge-prompts", tmp_path / "mine.jsonl", "--data", MT_BENCH).out == (tmp_path / "out.jsonl").read_text()
    )
    write_lines(tmp_path / "mine.jsonl", rows[:79])
    assert "question 160 has no answer to it" in refused("judge-prompts", tmp_path / "mine.jsonl", "--data", MT_BENCH)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[5]]", 5),
        ("[3] first, then [[7.5]] and [[9]]", 7.5),
        ("only [8]", 8),
        ("[[10]]", 10),
        ("[[0]]", 0),
        ("[[85]]", 85),
        ("[[ 5 ]]", None),
        ("[[-3]]", None),
        ("[[7/10]]", None),
        ("[[08]]", None),  # FastChat stops here with a SyntaxError
        ("[[\u0665]]", None),  # an Arabic five: the same
        ("five", None),
        ("", None),
    ],
)
def test_ratings_are_read_as_fastchat_does(text: str, rating: float | None) -> None:
    assert fastchat.read_rating(text) == rating


def row(question: int, turn: int, score: float, model: str = "m", judgment: str = "well") -> dict[str, Any]:
    judge = ["gpt-4", "single-v1"]
    return {"question_id": question, "model": model, "judge": judge, "user_prompt": "?", "judgment": judgment,
            "score": score, "turn": turn, "tstamp": 1.5}  # fmt: skip


FILE = [
    *(row(81, 1, 10), row(81, 2, 4), row(82, 1, 7.5), row(82, 2, -1), row(83, 1, -1, judgment="$ERROR$")),
    *(row(83, 2, 2), row(81, 1, 1, "other [x]"), row(81, 1, 3, "other [x]")),
]


def test_averages_are_show_results() -> None:
    outcome = fastchat.averages(FILE)
    assert outcome["m"] == {
        **{"first_turn": 8.75, "second_turn": 3, "average": 23.5 / 4},
        **{"ok": 4, "unreadable": 1, "error": 1, "repeated": 0, "outside_scale": 0, "judges": ["gpt-4"]},
    }
    assert outcome["other [x]"]["average"] == 2 and outcome["other [x]"]["repeated"] == 1
    assert outcome["other [x]"]["second_turn"] is None


def test_the_verb_prints_them(tmp_path: Path) -> None:
    data = mt_bench_files(tmp_path / "data", 3)
    write_lines(tmp_path / "gpt-4_single.jsonl", FILE)
    done = isheep("scores", tmp_path / "gpt-4_single.jsonl", "--data", data)
    lines = [line.split() for line in done.out.splitlines()]
    assert ["m", "8.750000", "3.000000", "5.875000", "4", "1", "1"] in lines
    assert ["other", "[x]", "2.000000", "-", "2.000000", "2", "0", "0"] in lines
    assert "1 turns have more than one rating" in done.out
    assert ["writing", "10.00", "4.00", "7.00"] in lines  # one dialogue bounds nothing
    assert max(map(len, done.out.splitlines())) <= 80
    outcome = json.loads(isheep("scores", tmp_path / "gpt-4_single.jsonl", "--json").out)
    notes = [values.pop("notes") for values in outcome.values()]
    assert outcome == fastchat.averages(FILE) and all(
        "1 turns have more than one rating" in lines[0] for lines in notes
    )
    write_lines(tmp_path / "pair.jsonl", [{"question_id": 81, "model_1": "a", "g1_winner": "tie"}])
    assert "line 1: model is missing" in refused("scores", tmp_path / "pair.jsonl")
    write_lines(tmp_path / "text.jsonl", [row(81, 1, 3) | {"score": "3"}])
    assert 'score must be a number or null, found "3"' in refused("scores", tmp_path / "text.jsonl")
    assert "can't be read" in refused("scores", tmp_path / "nowhere.jsonl")


def test_the_turns_of_a_dialogue_are_one_cluster() -> None:
    import numpy as np
    import statsmodels.api as sm

    values = [float(value) for value in np.random.default_rng(1).integers(1, 11, 40)]
    clusters = [folder // 2 for folder in range(40)]
    fit = sm.OLS(values, np.ones(40)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    actual = estimate(values, clusters)[:3]
    half = fit.bse[0] * 2.093024  # t with 19 degrees of freedom
    assert actual == pytest.approx((np.mean(values), np.mean(values) - half, np.mean(values) + half), abs=1e-5)
    alone = estimate([None, *values])[:3]
    assert alone[2] - alone[0] == pytest.approx(2.022691 * np.std(values, ddof=1) / np.sqrt(40), abs=1e-5)
    assert math.isnan(estimate([3.0]).low) and estimate([3.0]).value == 3


class Listening(SeededFunctionEngine):
    """Keeps what it is asked, and how."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: f"answer to {prompt.count('Ask')} {prompt.count('And')}<|im_end|> more")
        self.asked: list[tuple[str, Sampling]] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.asked += [(prompt, sampling) for prompt in prompts]
        return super().generate(prompts, sampling, seed)


def test_two_turns_at_the_temperature_of_the_category(
    tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = mt_bench_files(tmp_path / "data", 4), Listening()
    with serving(lambda message, earlier: said("[[9]]")) as server:
        known(server, monkeypatch)
        aligned = exam(tmp_path / "run", data, qwen2, settings=BenchmarkSettings(name="mt_bench", max_tokens=9))
        result = mt_bench.run(replace(aligned, engine=model))
        base = exam(tmp_path / "base", data, qwen2, base=True)
        assert mt_bench.run(base).template == "plain" and result.template == "qwen"
    heat = {prompt: sampling.temperature for prompt, sampling in model.asked}
    first = [prompt for prompt in heat if "And" not in prompt]
    second = [prompt for prompt in heat if "And" in prompt]
    assert {prompt.partition("Ask ")[2][0]: heat[prompt] for prompt in first} == {"0": 0.7, "1": 0, "2": 0.1, "3": 0}
    assert {prompt.partition("Ask ")[2][0]: heat[prompt] for prompt in second} == {"0": 0.7, "1": 0, "2": 0.1, "3": 0}
    assert {(sampling.max_tokens, sampling.stop) for _, sampling in model.asked} == {(9, ("<|im_end|>",))}
    assert (
        "<|im_start|>user\nAsk 0?<|im_end|>\n<|im_start|>assistant\nanswer to 1 0<|im_end|>\n"
        "<|im_start|>user\nAnd 0 {again}?<|im_end|>\n<|im_start|>assistant\n"
    ) in next(prompt for prompt in second if "Ask 0" in prompt)
    rows = [json.loads(line) for line in (aligned.folder.path / "model_answer/iter-1.jsonl").read_text().splitlines()]
    assert [entry["question_id"] for entry in rows] == [81, 82, 83, 84]
    assert rows[0]["choices"] == [{"index": 0, "turns": ["answer to 1 0", "answer to 1 1"]}]
    assert len({entry["answer_id"] for entry in rows}) == 4 and {entry["model_id"] for entry in rows} == {"iter-1"}
    assert (
        fastchat.read_answers(aligned.folder.path / "model_answer/iter-1.jsonl")[84] == rows[3]["choices"][0]["turns"]
    )
    assert result.scores["MT-Bench"].clusters == [81, 81, 82, 82, 83, 83, 84, 84]
    assert result.details["ratings_by_category"]["second turn"] == {
        "writing": [9],
        "math": [9],
        "stem": [9],
        "coding": [9],
    }
    math = next(body for body in server.bodies if "single-math-v1-multi" in body["messages"][-1]["content"])
    assert math["messages"][0] == {"role": "system", "content": "Judge."}
    assert math["messages"][1]["content"] == (
        "single-math-v1-multi-turn {x} ref one|ref {two} Q: Ask 1?|answer to 1 0|And 1 {again}?|answer to 1 1"
    )


def test_a_number_that_is_no_rating_is_unreadable(tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = mt_bench_files(tmp_path / "data", 3)
    with serving(lambda message, earlier: said("[[85]]" if "Ask 0" in message else "[[8]]")) as server:
        known(server, monkeypatch)
        result = mt_bench.run(
            exam(tmp_path / "run", data, qwen2, EndpointJudge("j/1", HASTE, {"max_tokens": None, "n": 1}))
        )
    assert result.details["judge"]["outcomes"] == {"ok": 4, "unreadable": 2, "error": 0}
    assert result.details["averages"]["average"] == 8
    assert "max_tokens" not in server.bodies[0] and server.bodies[0]["model"] == "j/1"
    rows = fastchat.read_judgments(tmp_path / "run/iter-1/eval/exam/model_judgment/j-1_single.jsonl")
    assert [entry["score"] for entry in rows] == [-1, -1, 8, 8, 8, 8] and rows[0]["judge"] == ["j/1", "single-v1"]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    files = fastchat.load_files(data, "some/judge")  # which has no references of its own
    answers = {81: ["a", "b"], 82: ["a", "b"]}
    assert len(fastchat.judge_requests(files, answers)) == 4
    with pytest.raises(UserError, match="question 82 has no answer to its second turn"):
        fastchat.judge_requests(files, answers | {82: ["a"]})
    with pytest.raises(UserError, match=r"question 82 \(math\) has no reference answer"):
        fastchat.judge_requests(files._replace(references={}), answers)
    with pytest.raises(UserError, match="has no prompt 'single-v1-multi-turn', only single-v1"):
        fastchat.judge_requests(files._replace(prompts={"single-v1": files.prompts["single-v1"]}), answers)
    with pytest.raises(UserError, match="judge prompt 'single-v1' can't be filled for question 81: 'nobody'"):
        wrong = files.prompts | {"single-v1": {"prompt_template": "{nobody}", "system_prompt": ""}}
        fastchat.judge_requests(files._replace(prompts=wrong), answers)
    with pytest.raises(UserError, match="give FastChat's data/mt_bench"):
        fastchat.load_files(tmp_path / "nowhere", "gpt-4")
    (data / "question.jsonl").write_text('{"question_id": 81}\n')
    with pytest.raises(UserError, match="question.jsonl line 1: category is missing"):
        fastchat.load_files(data, "gpt-4")
    more = BenchmarkSettings(name="mt_bench", data=str(mt_bench_files(tmp_path / "more", 2)))
    assert mt_bench.prompts(more)[:2] == ["Ask 0?", "And 0 {again}?"]
