"""AlpacaEval: its figures from preferences, its judges' prompts, orders and parsers, its files; the verb on them."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from isheep.benchmarks import HalfSettings, alpaca_eval, alpaca_eval_2
from isheep.benchmarks.support import alpaca_evaluators, win_rate
from isheep.benchmarks.support.alpaca_evaluators import Evaluator, is_switched
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.judges.base import LocalJudge
from isheep.models.chat_template import load_chat_template
from isheep.openai_client import ServerReply
from isheep.recipe.evaluation import BenchmarkSettings, JudgeSettings
from tests.helpers.command import isheep, refused
from tests.helpers.judge_server import Answer, known, said, serving
from tests.helpers.judged import alpaca_files, exam, gamed

# --- figures


@pytest.mark.parametrize(
    ("wins", "losses", "draws", "rate", "error"),
    [  # rows of AlpacaEval's published leaderboards, whose verdicts are 1, 2 and ties
        (158, 641, 6, 20.0, 1.4024527464425107),
        (160, 644, 1, 19.937888198757765, 1.4076743478646596),
        (284, 520, 1, 35.3416149068323, 1.684737662232649),
        (135, 665, 4, 17.039800995024876, 1.320962077510413),
    ],
)
def test_published_win_rates_come_out(wins: int, losses: int, draws: int, rate: float, error: float) -> None:
    arguments = [2.0] * wins + [1.0] * losses + [1.5] * draws
    random.Random(1).shuffle(arguments)
    outcome = win_rate.win_rate(arguments)
    assert outcome.win_rate == pytest.approx(rate, rel=1e-14) and outcome.discrete_win_rate == outcome.win_rate
    assert outcome.standard_error == pytest.approx(error, rel=1e-13)
    assert (outcome.n_wins, outcome.n_wins_base, outcome.n_draws, outcome.n_total) == (
        wins,
        losses,
        draws,
        804 + (wins != 135),
    )


def test_what_is_no_verdict_is_left_out_and_counted() -> None:
    arguments = [2, 1, 0, 1.5, 1.25, None, -1, float("nan"), "2", True, 2.5]
    values = win_rate.preferences([{"preference": value} for value in arguments] + [{}])
    assert values == [2, 1, 1.5, 1.5, 1.25, *[None] * 7]
    outcome = win_rate.win_rate(values)
    assert outcome == win_rate.win_rate([2, 1, 1.5, 1.5, 1.25])._replace(unread=7)
    assert outcome.win_rate == pytest.approx(45) and outcome.discrete_win_rate == pytest.approx(40)
    assert outcome.standard_error == pytest.approx(
        100 * math.sqrt(0.1375 / 5)
    )  # squares of 55, 45, 5, 5 and 20 %: .55 / 4
    assert (outcome.n_wins, outcome.n_wins_base, outcome.n_draws) == (1, 2, 2)
    assert win_rate.win_rate([None])[:2] == (None, None) and win_rate.win_rate([2.0])[:2] == (100, None)


def test_the_verb_prints_all_digits(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([{"preference": value} for value in [2.0] * 158 + [1.0] * 641 + [0] * 6 + [None]]))
    done = isheep("scores", path)
    lines = {line.split()[0]: line.split()[1] for line in done.out.splitlines() if len(line.split()) == 2}
    assert done.code == 0 and lines["win_rate"] == "20.0" and lines["unread"] == "1"
    assert float(lines["standard_error"]) == pytest.approx(1.4024527464425107, rel=1e-14)
    assert "length_controlled_winrate" not in lines and "raw unless the name" in done.out
    assert json.loads(isheep("scores", path, "--json").out)["standard_error"] == float(lines["standard_error"])
    path.write_text("[3]")
    assert "row 1: an object is needed, found 3" in refused("scores", path)
    path.write_text('[{"preference": 1},')
    assert "not JSON" in refused("scores", path)


def test_a_file_as_it_is_published(tmp_path: Path) -> None:
    """Rows of all keys; verdicts of old and new evaluators, and what else stands there."""
    arguments = [1, 2, 2.0, 1.0, 0, 0.0, 1.5, 1.0000143, 1.99987, 1.5000001, None, math.nan, -1, 0.5, 2.5]
    rows = [
        {"instruction": f"Do {n}", "output_1": "a" * n, "generator_1": "gpt4_1106_preview", "dataset": "helpful_base",
         "datasplit": "eval", "output_2": "b" * (2 * n), "generator_2": "mine", "annotator": "weighted",
         "preference": value, "raw_completion": {"finish_reason": "length", "logprobs": {"content": []}, "text": "M"},
         "time_per_example": 0.1, "price_per_example": 0.01, "date": "2024-06-01"}
        for n, value in enumerate(arguments)
    ]  # fmt: skip
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    outcome = json.loads(isheep("scores", path, "--json").out)
    read = [1, 2, 2, 1, 1.5, 1.5, 1.5, 1.0000143, 1.99987, 1.5000001]
    mean = math.fsum(read) / 10
    spread = math.sqrt(math.fsum((entry - mean) ** 2 for entry in read) / 9)
    assert outcome["win_rate"] == pytest.approx(100 * (mean - 1), rel=1e-14)
    assert outcome["standard_error"] == pytest.approx(100 * spread / math.sqrt(10), rel=1e-13)
    counts = {"n_wins": 4, "n_wins_base": 3, "n_draws": 3, "n_total": 10, "unread": 5, "avg_length": 14}
    assert {name: outcome[name] for name in counts} == counts
    assert outcome["discrete_win_rate"] == pytest.approx(100 * (4 + 1.5) / 10)
    path.write_text(json.dumps([*rows, rows[0] | {"generator_2": "other"}]))
    assert "annotations of 2 models: choose one with --model: mine, other" in refused("scores", path)
    assert json.loads(isheep("scores", path, "--json", "--model", "mine").out) == outcome
    assert "has no model 'nobody', only mine, other" in refused("scores", path, "--model", "nobody")


def judged(count: int, longer: int, bias: float) -> list[dict[str, Any]]:
    """Annotations of a model as good as its reference, `longer` by so many characters, by a judge that likes length."""
    chance = random.Random(5)
    rows = []
    for n in range(count):
        entry, two = 500 + chance.randrange(300), 500 + chance.randrange(300) + longer
        share = 1 / (1 + math.exp(-bias * (two - entry) / 300 - chance.gauss(0, 0.3)))
        rows.append({"instruction": str(n), "output_1": "x" * entry, "output_2": "y" * two, "preference": 1 + share,
                     "generator_1": "reference", "generator_2": "mine"})  # fmt: skip
    return rows


def test_length_is_controlled_for(tmp_path: Path) -> None:
    file, rows = gamed(tmp_path, 60), judged(60, 300, 1.0)
    raw = win_rate.win_rate(win_rate.preferences(rows)).win_rate
    controlled, error = win_rate.length_controlled(rows, file)
    assert raw is not None and raw > 70 and abs(controlled - 50) < 7  # neither is better but for its length
    unread = [row | {"preference": None} if n % 10 == 0 else row for n, row in enumerate(rows)]
    assert abs(win_rate.length_controlled(unread, file)[0] - controlled) < 5
    assert win_rate.length_controlled([row | {"generator_2": "reference"} for row in rows], file) == (50, 0)
    alike = [row | {"output_1": "one", "output_2": "two"} for row in rows]
    assert 50 < win_rate.length_controlled(alike, file)[0] < raw  # no difference to control for, and no error
    with pytest.raises(UserError, match="has 60 instructions, and there are 61 annotations"):
        win_rate.length_controlled([*rows, rows[0]], file)
    with pytest.raises(UserError, match="annotation 2 has no output_1 or output_2"):
        win_rate.length_controlled([rows[0], {"preference": 1}], file)
    file.write_text("index,preference\n0,1\n")
    with pytest.raises(UserError, match="is no df_gamed.csv"):
        win_rate.length_controlled(rows, file)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    gamed(tmp_path, 60)
    printed = isheep("scores", path, "--data", tmp_path).out
    assert (
        f"length_controlled_winrate  {controlled!r}" in printed and f"lc_standard_error          {error!r}" in printed
    )
    outcome = json.loads(isheep("scores", path, "--json", "--data", tmp_path / win_rate.GAMED).out)
    assert outcome["lc_standard_error"] == error
    assert outcome["avg_length"] == int(sum(len(row["output_2"]) for row in rows) / 60)
    file.unlink()
    assert "df_gamed.csv is not there" in refused("scores", path, "--data", tmp_path)


def test_length_control_against_a_fit_of_our_own(tmp_path: Path) -> None:
    """The same penalized likelihood, minimized by scipy: liblinear stops a little earlier."""
    import numpy as np
    from scipy.optimize import minimize

    file, rows = gamed(tmp_path, 60), judged(60, 200, 1.0)
    reference = [line.split(",") for line in file.read_text().splitlines()[1:]]
    longer = np.array([len(row["output_1"]) - len(row["output_2"]) for row in rows])
    hard = [float(row[4]) for row in reference[:60]]
    x = [[math.tanh(float(row[3])), float(row[4]), row[5] == "True"] for row in reference]
    x = np.array(x + [[math.tanh(value), hard[n], 1] for n, value in enumerate(longer / longer.std(ddof=1))])
    share = np.array([float(row[2]) for row in reference] + [row["preference"] - 1 for row in rows])
    weight = np.array([1 if row[5] == "True" else 0.1 for row in reference] + [1] * 60)

    def losses(beta: Any) -> Any:
        return weight * (np.logaddexp(0, x @ beta) - share * (x @ beta))

    def fit(strength: float, subset: Any) -> Any:
        """L1 as the sum of positive and negative parts."""
        complete = minimize(
            lambda parts: parts.sum() + strength * losses(parts[:3] - parts[3:])[subset].sum(),
            np.full(6, 0.1), bounds=[(0, None)] * 6, method="L-BFGS-B", options={"ftol": 1e-12},
        )  # fmt: skip
        return complete.x[:3] - complete.x[3:]

    indices, strengths = np.arange(len(x)), np.logspace(-4, 4, 10)
    from sklearn.model_selection import GroupKFold

    folds = list(GroupKFold(5).split(x, groups=indices))
    waiting = [np.mean([losses(fit(entry, train))[test].mean() for train, test in folds]) for entry in strengths]
    beta = fit(strengths[int(np.argmin(waiting))], indices)
    chances = 1 / (1 + np.exp(-(x[-60:] @ (beta * [0, 1, 1]))))
    assert win_rate.length_controlled(rows, file) == pytest.approx(
        (100 * chances.mean(), 100 * chances.std(ddof=1) / math.sqrt(60)), abs=0.05
    )


# --- judges


def lengths(message: str) -> tuple[int, int]:
    """Of the two outputs in the order in which they are shown."""
    first, second = message.rpartition("{m}: ")[2].split("#\n{M}: ")
    return len(first), len(second.rstrip("#\n"))


def ranks(message: str, earlier: int) -> Answer:
    """Prefers the longer output, wherever it stands; can't say where the second is three longer than the first."""
    first, second = lengths(message)
    if abs(first - second) == 3:
        return said("Both are fine.")
    order = (1, 2) if first > second else (2, 1)
    return said(f"[{{'model': 'model_1', 'rank': {order[0]}}}, {{'model': 'model_2', 'rank': {order[1]}}}]")


def weighs(message: str, earlier: int) -> Answer:
    """m with 3 to 1 where the first is longer, M with 3 to 1 where it is not; at 3 longer it says something else."""
    first, second = lengths(message)
    if abs(first - second) == 3:
        return Answer(200, b"{}")
    shares = {"m": 0.6, "M": 0.2} if first > second else {"M": 0.6, "m": 0.2}
    top = [{"token": token, "logprob": math.log(share)} for token, share in (shares | {"The": 0.2}).items()]
    return said(top[0]["token"], logprobs={"content": [{**top[0], "top_logprobs": top}]})


def test_the_order_of_the_outputs_changes_nothing(tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = alpaca_files(tmp_path / "data", 12)
    orders = {is_switched(f"Do {n} {{output_1}}") for n in range(12)}
    assert orders == {True, False}
    with serving(ranks) as server:
        known(server, monkeypatch)
        result = alpaca_eval.BENCHMARK.run(exam(tmp_path / "run", data, qwen2, answer=lambda prompt, seed: "w" * 6))
    expected = [
        100,
        100,
        None,
        100,
        100,
        50,
        0,
        0,
        None,
        0,
        0,
        0,
    ]  # the reference's output n is n + 1 long, ours always 6
    assert result.scores["win rate, %"].items == expected
    leaderboard = result.details["leaderboard"]
    assert leaderboard["win_rate"] == pytest.approx(100 * 4.5 / 10) and leaderboard["unread"] == 2
    assert result.details["judge"]["outcomes"] == {"ok": 9, "unreadable": 2, "error": 0}
    assert len(server.bodies) == 11  # nobody is asked about equal outputs
    assert {(body["model"], body["max_tokens"], body["temperature"], body["top_p"]) for body in server.bodies} == {
        ("judge-0", 100, 0, 1.0)
    }
    assert "requires_chatml" not in server.bodies[0]
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": "Compare."}
    assert all("{output_1}\n{m}: w" in body["messages"][1]["content"] for body in server.bodies)
    outputs = json.loads((tmp_path / "run/iter-1/eval/exam/model_outputs.json").read_text())
    assert outputs[3] == {
        "instruction": "Do 3 {output_1}", "output": "wwwwww", "generator": "iter-1", "dataset": "ours",
    }  # fmt: skip
    path = tmp_path / "run/iter-1/eval/exam/annotations.json"
    rows = json.loads(path.read_text())
    assert [row["preference"] for row in rows[:7]] == [2, 2, None, 2, 2, 1.5, 1]
    assert set(rows[0]) == {
        *("instruction", "output_1", "generator_1", "dataset", "output_2", "generator_2", "annotator", "preference"),
        "raw_completion",
    }
    assert rows[0]["annotator"] == "alpaca_eval_gpt4" and rows[0]["raw_completion"].startswith("[{'model'")
    assert f"win_rate           {leaderboard['win_rate']!r}" in isheep("scores", path).out


def test_version_2_weighs_by_the_judges_probabilities(
    tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = alpaca_files(tmp_path / "data", 12)
    gamed(data, 12)
    settings = BenchmarkSettings(name="alpaca_eval_2", data=str(data), max_tokens=9)
    with serving(weighs) as server:
        known(server, monkeypatch)
        arguments = exam(tmp_path / "run", data, qwen2, answer=lambda prompt, seed: "w" * 6, settings=settings)
        result = alpaca_eval_2.BENCHMARK.run(arguments)
    expected = [75, 75, None, 75, 75, 50, 25, 25, None, 25, 25, 25]
    assert result.scores["win rate, %"].items == [None if value is None else pytest.approx(value) for value in expected]
    assert result.details["leaderboard"]["win_rate"] == pytest.approx(100 * 4.75 / 10)
    assert result.details["leaderboard"]["discrete_win_rate"] == pytest.approx(45)
    assert 0 < result.details["leaderboard"]["length_controlled_winrate"] < 100
    assert server.bodies[0]["logprobs"] is True and server.bodies[0]["top_logprobs"] == 5
    row = json.loads((arguments.folder.path / "annotations.json").read_text())[0]
    assert row["raw_completion"]["logprobs"]["content"][0]["token"] in "mM"
    assert row["raw_completion"]["total_tokens"] == 107


@pytest.mark.parametrize("part", [{"num_items": 8}, {"half": "reported half"}])
def test_a_part_of_the_instructions_has_a_length_controlled_win_rate_of_its_own(
    tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch, part: dict[str, Any]
) -> None:
    data = alpaca_files(tmp_path / "data", 12)
    gamed(data, 12)
    settings_type = HalfSettings if "half" in part else BenchmarkSettings
    settings = settings_type.model_validate({"name": "alpaca_eval_2", "data": str(data), "max_tokens": 9, **part})
    with serving(weighs) as server:
        known(server, monkeypatch)
        arguments = exam(tmp_path / "run", data, qwen2, answer=lambda prompt, seed: "w" * 6, settings=settings)
        result = alpaca_eval_2.BENCHMARK.run(arguments)
    assert len(result.scores["win rate, %"].items) < 12
    leaderboard = result.details["leaderboard"]
    path = arguments.folder.path / "annotations.json"
    rows = json.loads(path.read_text())
    # "Do 7 {output_1}" is the instruction of index 7, which has a difficulty of its own.
    indices = [int(row["instruction"].split()[1]) for row in rows]
    assert indices != list(range(len(rows)))
    expected = win_rate.length_controlled(rows, data / win_rate.GAMED, indices)
    assert leaderboard["length_controlled_winrate"] == expected.length_controlled_winrate
    assert any("length-controlled win rate" in note for note in result.notes)
    # The instructions are looked up in the reference outputs; without these, no difficulty is guessed.
    figures = json.loads(isheep("scores", path, "--json", "--data", data).out)
    assert figures["lc_standard_error"] == expected.lc_standard_error
    for version in (alpaca_eval.ONE, alpaca_eval.TWO):
        (data / version.reference).unlink()
    assert f"has 12 instructions, and there are {len(rows)} annotations: put" in refused("scores", path, "--data", data)


def test_a_model_of_ours_weighs_too(tmp_path: Path, qwen2: Path) -> None:
    data = alpaca_files(tmp_path / "data", 6)
    selected = "<|im_start|>assistant\n"

    def judge(prompt: str, seed: int) -> str:
        assert prompt.endswith(selected)
        first, second = lengths(prompt.removesuffix(f"<|im_end|>\n{selected}"))
        return "m" if first > second else "neither" if first < second - 3 else "M"

    actual = LocalJudge("mine", lambda: (SeededFunctionEngine(judge), load_chat_template("qwen", str(qwen2))), 1)
    result = alpaca_eval_2.BENCHMARK.run(exam(tmp_path / "run", data, qwen2, actual, lambda prompt, seed: "w" * 6))
    assert "a model of ours" in result.notes[0] and result.details["judge"]["kind"] == "local"
    read = [value for value in result.scores["win rate, %"].items if value is not None]
    assert set(read) <= {50, 100} and result.details["judge"]["outcomes"]["unreadable"] == 6 - len(read)


# --- evaluator configurations


def read(parser: str, text: Any, **how: Any) -> float | None:
    """The preference that a parser reads in what a judge wrote, or in a whole choice."""
    complete = parser == "logprob_parser"
    choice = text if complete else {"message": {"content": text}}
    return Evaluator("name", "model", [], {}, parser, how, complete).preference(ServerReply(key="", choice=choice))


def test_parsers_read_one_preference_or_none() -> None:
    a_or_b = {"outputs_to_match": {1: r"\(a\)", 2: r"\(b\)"}}
    assert [read("regex_parser", text, **a_or_b) for text in ("(b) it is", "so (a)", "(a) or (b)", "none", "")] == [
        *(2, 1, None, None, None)
    ]
    first = "[{'model': 'model_1', 'rank': 1}]"
    assert [read("ranking_parser", text) for text in (first, first.replace("1}", "3}"), "[]", "x", "")] == [
        *(1, None, None, None, None)
    ]
    chain = {"json_parser": {"annotation_key": "order"}, "ranking_parser": {"model_1_name": "m"}}
    order = '{"order": [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}'
    assert read("pipeline_meta_parser", f"so:\n```json\n{order}\n```", parsers_to_kwargs=chain) == 2
    assert read("pipeline_meta_parser", "{}", parsers_to_kwargs=chain) is None

    def top(**shares: float) -> dict[str, Any]:
        return {"top_logprobs": [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]}

    how = {"numerator_token": "m", "denominator_tokens": ["m", "M"]}
    weigh = {**how, "is_binarize": False}
    assert read("logprob_parser", {"logprobs": {"content": [top(m=0.3, M=0.1)]}}, **weigh) == pytest.approx(1.25)
    assert read("logprob_parser", {"logprobs": {"content": [top(m=0.3, M=0.1)]}}, **how) == 1
    assert read("logprob_parser", {"logprobs": {"content": [top(M=0.1, The=0.9)]}}, **weigh) == 2
    assert read("logprob_parser", {"logprobs": {"content": [top(The=0.9)]}}, **weigh) is None
    assert read("logprob_parser", {"logprobs": {"content": [top(m=0.9)] * 2}}, **weigh) is None
    assert read("logprob_parser", {"logprobs": {"content": [top(M=1), top(m=1)]}}, **weigh, log_prob_index=-1) == 1
    assert read("logprob_parser", {"logprobs": None}, **weigh) is None
    huge = {"token": "m", "top_logprobs": [{"token": "m", "logprob": 1e4}]}
    assert read("logprob_parser", {"logprobs": {"content": [huge]}}, **weigh) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("ranking_parser", "lmsys_parser"), "parser 'lmsys_parser' is not known here"),
        (("openai_completions", "anthropic_completions"), "only openai_completions with batch_size 1"),
        (("batch_size: 1", "batch_size: 5"), "only openai_completions with batch_size 1"),
        (("max_tokens: 100", "tokens_to_favor: [a]"), "need the judge's tokenizer"),
        (("ranking_parser", "logprob_parser"), "belong together"),
        (("batch_size: 1", "is_randomize_output_order: false"), "the order of two outputs is drawn here"),
        (("max_tokens: 100", 'max_tokens: "100"'), "completions_kwargs.max_tokens must be a number, found '100'"),
        (("max_tokens: 100", "top_p: true"), "completions_kwargs.top_p must be a number, found True"),
        (("batch_size: 1", "completion_parser_kwargs: [1]"), "completion_parser_kwargs must be a mapping"),
        (("batch_size: 1", "random_seed_keys: [output_1]"), "'random_seed_keys' is not known here"),
        (("alpaca_eval_gpt4/prompt", "nowhere/prompt"), "can't be read"),
        (("alpaca_eval_gpt4:", "- 1"), "not YAML"),
        ((None, "[]"), "one annotator is wanted"),
    ],
)
def test_a_configuration_that_is_not_for_us_is_refused(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    data = alpaca_files(tmp_path / "data", 1)
    path = data / "evaluators_configs/alpaca_eval_gpt4/configs.yaml"
    path.write_text(change[1] if change[0] is None else path.read_text().replace(*change))
    with pytest.raises(UserError, match=why):
        alpaca_evaluators.load_evaluator(data, "alpaca_eval_gpt4")


def test_another_configuration_and_a_single_file(tmp_path: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = alpaca_files(tmp_path / "data", 2)
    (data / "mine.json").write_text((data / alpaca_eval.ONE.reference).read_text())
    settings = BenchmarkSettings(name="alpaca_eval", judge=JudgeSettings(config=alpaca_eval.TWO.config))
    with serving(weighs) as server:
        known(server, monkeypatch)
        arguments = exam(tmp_path / "run", data / "mine.json", qwen2, answer=lambda p, seed: "w" * 6, settings=settings)
        result = alpaca_eval.BENCHMARK.run(arguments)
    assert result.scores["win rate, %"].items == [pytest.approx(75)] * 2
    assert result.details["judge"]["config"] == "weighted_alpaca_eval_gpt4_turbo"
    settings = BenchmarkSettings(name="alpaca_eval", data=str(data))
    prompts = [module.BENCHMARK.prompts(settings) for module in (alpaca_eval, alpaca_eval_2)]
    assert prompts[0] == prompts[1] == ["Do 0 {output_1}", "Do 1 {output_1}"]
    with pytest.raises(UserError, match="give a folder with AlpacaEval's files"):
        alpaca_eval.reference(tmp_path / "nowhere", alpaca_eval.ONE)


def cut_off_each_match(text: str, patterns: dict[int, str]) -> list[int]:
    """alpaca_eval's rule as it is written there: the text is cut off at the end of each match."""
    keys = []
    while text:
        matches = [(match, key) for key, regex in patterns.items() if (match := re.search(regex, text))]
        if not matches:
            break
        match, key = min(matches, key=lambda pair: pair[0].start())
        keys.append(key)
        text = text[max(match.end(), 1) :]
    return keys


def test_patterns_match_as_in_a_text_that_is_cut_off() -> None:
    rng = random.Random(1)
    pieces = ["Output (a)", "Output (b)", "\n", " ", "(a)", "x", "or"]
    for patterns in (
        {1: r"(?:^|\n) ?Output \(a\)", 2: r"(?:^|\n) ?Output \(b\)"}, {1: r"^Output", 2: r"\(b\)|$"}, {1: "a", 2: "b?"},
    ):  # fmt: skip
        for _ in range(1500):
            text = "".join(rng.choices(pieces, k=rng.randrange(9)))
            assert alpaca_evaluators.regex_parser(text, patterns) == cut_off_each_match(text, patterns), repr(text)
