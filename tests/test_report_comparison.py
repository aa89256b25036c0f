"""isheep report over runs and sweeps: tables and figures with the numbers that the run folders hold."""

import csv
import json
import re
from pathlib import Path

import pytest

from benchmarks.paper_figures import replace_table
from isheep.evaluation.statistics import mcnemar
from isheep.report.comparison import find_run_dirs, load_runs
from isheep.report.figures import Figure, passing_shares, rating_plane
from isheep.report.run_data import load_run_data
from isheep.report.settings import group_settings
from isheep.report.table_formats import (
    PaperCell,
    PaperRow,
    PaperTable,
    latex_text,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
)
from isheep.report.tables import quadrant_table, score_table
from tests.helpers.command import isheep, refused
from tests.helpers.finished_runs import make_finished_run, rated, share, with_expected

IFEVAL = ("prompt strict", "instruction strict", "prompt loose", "instruction loose")
NASTY = r"""50% & <b>#1_x</b> {a} $y$ ~^\ "q" `t` 'a' | [b] *c* """


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cell_of(text: str) -> PaperTable:
    return PaperTable("t", text, text, ("x",), ((text, text),), (PaperRow((text,), (PaperCell(text, "", 1, "up"),)),))


# --- formats


def test_latex_escapes_every_special_character() -> None:
    assert latex_text(NASTY) == (
        r"50\% \& \textless{}b\textgreater{}\#1\_x\textless{}/b\textgreater{} \{a\} \$y\$ "
        r"\textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textquotesingle\textquotesingle{}q\textquotesingle\textquotesingle{} "
        r"\textasciigrave{}t\textasciigrave{} \textquotesingle{}a\textquotesingle{} \textbar{} {[}b{]} {*}c{*}"
    )
    assert latex_text("a\nb\tc \x1b[0m") == r"a b c \textbackslash{}x1b{[}0m"
    assert latex_text("-3.5 to -1, one-base") == "$-$3.5 to $-$1, one{-}base"


def test_a_latex_row_can_not_begin_with_an_argument_of_the_line_break() -> None:
    rows = tuple(PaperRow((text,), (PaperCell("1"),)) for text in ("a", "[2mm]", "*"))
    lines = to_latex(PaperTable("t", "T", "C", ("x",), (("", "y"),), rows)).splitlines()
    assert "{[}2mm{]} & 1 \\\\" in lines and "{*} & 1 \\\\" in lines


def test_latex_braces_balance_and_columns_fit() -> None:
    text = to_latex(cell_of(NASTY))
    without_escapes = re.sub(r"\\[{}\\]", "", text)
    assert without_escapes.count("{") == without_escapes.count("}")
    row = next(line for line in text.splitlines() if r"\textbf" in line)
    assert len(re.findall(r"(?<!\\)&", row)) == 1 and row.endswith(r"\\")


def test_html_and_markdown_show_text_as_it_is() -> None:
    assert "<b>#1" not in to_html(cell_of(NASTY)) and "&lt;b&gt;#1_x&lt;/b&gt;" in to_html(cell_of(NASTY))
    lines = to_markdown(cell_of(NASTY)).splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]] == [3, 3, 3]
    assert r"\<b\>\#1\_x" in lines[-1]
    assert "\n" not in to_markdown(cell_of("a\nb")).splitlines()[-1]


def test_csv_keeps_numbers_and_defuses_formulas() -> None:
    text = to_csv([{"a": "=1+1", "b": "-1"}, {"a": "x,y", "c": 0.1 + 0.2}])
    assert text == 'a,b,c\n\'=1+1,-1,\n"x,y",,0.30000000000000004\n'


# --- tables of scores


def test_table_of_one_run_marks_best_second_and_significance(tmp_path: Path) -> None:
    """Ten more right answers and no loss are p = 2 / 2**10; four are p = 0.125; the family has three tests."""
    scores = [
        {"ifeval": {name: share(20, 40) for name in IFEVAL}},
        {"ifeval": {name: share(30, 40) for name in IFEVAL}},
        {"ifeval": {name: share(24, 40) for name in IFEVAL}},
    ]
    run = make_finished_run(tmp_path / "run", scores=scores)
    done = isheep("report", run, "--out", tmp_path / "out", "--format", "svg")
    assert done.code == 0, done.err
    lines = (tmp_path / "out/tables/scores.md").read_text().splitlines()
    assert lines[2].count("ifeval: ") == 4
    base, first, second = lines[4:7]
    assert base.split(" | ")[2].startswith("50.0") and "**" not in base and "<ins>" not in base
    assert "**75.0**↑" in first and "<ins>60.0</ins> [" in second
    numbers = read_csv(tmp_path / "out/tables/scores.csv")
    assert {row["score"] for row in numbers} == {*IFEVAL} and len(numbers) == 12
    by_iteration = {row["iteration"]: row for row in numbers if row["score"] == "prompt strict"}
    assert float(by_iteration["1"]["p"]) == mcnemar(share(20, 40), share(30, 40)) == 2 / 2**10
    # The four scores have the same values, so there are two tests: the smaller p is doubled.
    assert float(by_iteration["1"]["p_holm"]) == pytest.approx(4 / 2**10)
    assert float(by_iteration["2"]["p_holm"]) == pytest.approx(0.125)
    assert "the 2 tests of this table" in lines[0]
    assert str(tmp_path / "out/report.html") in done.out and (tmp_path / "out/tables/scores.tex").exists()


def test_holm_counts_all_tests_of_the_table(tmp_path: Path) -> None:
    """Gains of 10, 6 and 5 items without a loss: p = 2 / 2**10, 2 / 2**6, 2 / 2**5; Holm: 3 p, 2 p, and at least that.

    The second one is 0.031 by itself, and 0.0625 in the table.
    """
    gains = {"prompt strict": 10, "instruction strict": 6, "prompt loose": 5}
    scores = [{"ifeval": {name: share(20 + gain * after, 40) for name, gain in gains.items()}} for after in (0, 1)]
    table = score_table(group_settings([load_run_data(make_finished_run(tmp_path / "run", scores=scores))]))
    numbers = {row["score"]: row for row in table.numbers if row["iteration"] == 1}
    assert [numbers[name]["p"] for name in gains] == [2 / 2**10, 2 / 2**6, 2 / 2**5]
    assert [numbers[name]["p_holm"] for name in gains] == pytest.approx([6 / 2**10, 4 / 2**6, 4 / 2**6])
    assert [cell.mark for cell in table.rows[1].cells] == ["up", "", ""]


def test_a_significant_fall_is_marked_down_and_missing_scores_are_dashes(tmp_path: Path) -> None:
    run = make_finished_run(
        tmp_path / "run",
        scores=[
            {"ifeval": {"prompt strict": share(20, 30)}},
            {"ifeval": {"prompt strict": share(5, 30)}, "lamb": {"right": share(1, 2)}},
        ],
    )
    table = score_table(group_settings([load_run_data(run)]))
    assert table.columns == (("ifeval", "prompt strict"), ("lamb", "right"))
    assert table.rows[1].cells[0].mark == "down" and table.rows[0].cells[1].text == "-"
    assert r"$\downarrow$" in to_latex(table) and 'class="down"' in to_html(table)


def seeds_sweep(folder: Path) -> Path:
    for setting, tasks, gains in (("small", 100, (2, 3, 4)), ("large", 200, (9, 10, 12))):
        for seed, gain in enumerate(gains):
            scores = [{"lamb": {"right": share(20, 40)}}, {"lamb": {"right": share(20 + gain, 40)}}]
            make_finished_run(folder / f"{setting},seed={seed}", scores=scores, seed=seed, synthesis={"tasks": tasks})
    return folder


def test_several_seeds_become_mean_and_deviation(tmp_path: Path) -> None:
    sweep = seeds_sweep(tmp_path / "sweep")
    done = isheep("report", sweep)
    assert done.code == 0, done.err
    numbers = read_csv(sweep / "report/tables/scores.csv")
    large = next(row for row in numbers if row["setting"] == "large" and row["iteration"] == "1")
    assert float(large["value"]) == pytest.approx((29 + 30 + 32) / 120)
    deviation = ((29 - 91 / 3) ** 2 + (30 - 91 / 3) ** 2 + (32 - 91 / 3) ** 2) ** 0.5 / 2**0.5 / 40
    assert float(large["sd_over_seeds"]) == pytest.approx(deviation) and large["seeds"] == "3"
    assert large["test"] == "paired t over seeds"
    text = (sweep / "report/tables/scores.md").read_text()
    # The base is the same model in all six runs, so it has one row.
    assert text.count("| base |") == 1 and "±3.8" in text and "over random seeds" in text
    rows = read_csv(sweep / "report/figures/figure-2b.csv")
    assert [(row["tasks"], row["iteration"]) for row in rows] == [
        ("100", "0"),
        ("100", "1"),
        ("200", "0"),
        ("200", "1"),
    ]
    assert float(rows[3]["value"]) == pytest.approx(100 * 91 / 120) and rows[3]["seeds"] == "3"
    assert (sweep / "report/figures/figure-2b.pdf").read_bytes().startswith(b"%PDF")
    assert not (sweep / "report/figures/figure-2a.csv").exists()


def test_scores_are_tested_against_another_setting(tmp_path: Path) -> None:
    sweep = seeds_sweep(tmp_path / "sweep")
    done = isheep("report", sweep, "--against", "small", "--out", tmp_path / "out", "--format", "png")
    assert done.code == 0, done.err
    numbers = read_csv(tmp_path / "out/tables/scores.csv")
    compared = {(row["setting"], row["iteration"]): row["difference"] for row in numbers if row["difference"]}
    assert compared.keys() == {("large", "1")}
    assert float(compared["large", "1"]) == pytest.approx((7 + 7 + 8) / 120)
    assert "than small in the same iteration" in (tmp_path / "out/tables/scores.md").read_text()
    assert (tmp_path / "out/figures/figure-2b.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_tested_against_an_iteration_of_the_same_run(tmp_path: Path) -> None:
    scores = [{"lamb": {"right": share(right, 40), "content": share(30, 40)}} for right in (10, 20, 30)]
    run = make_finished_run(tmp_path / "run", scores=scores)
    words = ("--against", "iteration-1", "--score", "right", "--format", "svg", "--out", tmp_path / "out")
    done = isheep("report", run, *words)
    assert done.code == 0, done.err
    numbers = read_csv(tmp_path / "out/tables/scores.csv")
    assert [(row["iteration"], row["score"]) for row in numbers] == [(t, "right") for t in "012"]
    assert [row["difference"] for row in numbers] == ["", "", "0.25"]
    text = (tmp_path / "out/tables/scores.md").read_text()
    assert "than iteration 1 of the same setting" in text and "corrected for one test" in text


@pytest.mark.parametrize(("name", "against"), [("base", "base"), ("iteration-1", "iteration-1")])
def test_a_run_folder_may_have_the_name_of_a_keyword(name: str, against: str, tmp_path: Path) -> None:
    scores = [{"lamb": {"right": share(right, 40)}} for right in (10, 20, 30)]
    runs = [
        make_finished_run(tmp_path / name, scores=scores),
        make_finished_run(tmp_path / "x", training={"epochs": 9}),
    ]
    words = ("--against", against, "--format", "svg", "--out", tmp_path / "out")
    assert isheep("report", *runs, *words).code == 0
    numbers = read_csv(tmp_path / "out/tables/scores.csv")
    assert [row["difference"] for row in numbers][-1] in ("0.5", "0.25") and "↑" in (
        tmp_path / "out/tables/scores.md"
    ).read_text(encoding="utf-8")


def test_runs_that_differ_in_the_seed_alone_are_one_setting(tmp_path: Path) -> None:
    paths = [make_finished_run(tmp_path / "runs" / str(seed), seed=seed) for seed in (4, 5)]
    paths.append(make_finished_run(tmp_path / "copy", seed=5))
    paths.append(make_finished_run(tmp_path / "other", training={"epochs": 5}))
    settings = group_settings([load_run_data(path) for path in paths])
    assert [(setting.name, len(setting.runs)) for setting in settings] == [("runs", 2), ("copy", 1), ("other", 1)]


# --- bad input


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    run = make_finished_run(tmp_path / "run", scores=[{"lamb": {"right": [True]}}])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no such folder" in refused("report", tmp_path / "missing", "--out", tmp_path / "o")
    assert "is not a run folder: it has no recipe.yaml, and neither has a folder in it" in refused(
        "report", empty, "--out", tmp_path / "o"
    )
    assert "'gif' is not known" in refused("report", run, "--format", "gif", "--out", tmp_path / "o")
    assert "'smal' is not known" in refused("report", run, "--against", "smal", "--out", tmp_path / "o")
    assert "'rigth' is not known: did you mean 'right'?" in refused(
        "report", run, "--score", "rigth", "--out", tmp_path / "o"
    )
    assert "no such file" in refused("report", run, "--reference", tmp_path / "x.json", "--out", tmp_path / "o")
    for words in ((run, "--score", "right"), (run, run.parent / "run2")):
        make_finished_run(tmp_path / "run2", seed=7)
        assert "tables and figures give a folder" in refused("report", *words, "--out", tmp_path / "o.html")
    assert "no setting has scores of iteration 9" in refused(
        "report", run, "--against", "iteration-9", "--out", tmp_path / "o"
    )
    (tmp_path / "few.json").write_text(json.dumps([{"instruction": "Say baa.", "output": "baa"}]))
    few = refused("report", run, "--reference", tmp_path / "few.json", "--out", tmp_path / "o")
    assert "reference" in few and "1 found, 4 needed" in few and "synthesis" not in few
    (tmp_path / "bad.json").write_text(json.dumps([{"instruction": "Say baa."}, {"instruction": ""}]))
    bad = refused("report", run, "--reference", tmp_path / "bad.json", "--out", tmp_path / "o")
    assert "reference" in bad and "entry 2: the instruction is missing or empty" in bad and "seed tasks" not in bad
    without_seeds = make_finished_run(tmp_path / "without-seeds", ratings=[PAIRS])
    (without_seeds / "seeds.jsonl").unlink()
    missing = refused("report", without_seeds)
    assert "seeds.jsonl is missing" in missing and "--reference FILE" in missing and "recipe" not in missing
    for out in (run / "recipe.yaml", run / "recipe.yaml" / "x.html"):
        assert "recipe.yaml is a file; give a folder" in refused("report", run, "--out", out)
    unscored = make_finished_run(tmp_path / "unscored")
    assert "no model is scored" in refused("report", unscored, "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_folder_of_sweeps_is_all_their_runs(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/1"):
        make_finished_run(tmp_path / name)
    assert find_run_dirs([tmp_path]) == [tmp_path / "a/1", tmp_path / "a/2", tmp_path / "b/1"]
    assert find_run_dirs([tmp_path / "a", tmp_path / "a/1"]) == [tmp_path / "a/1", tmp_path / "a/2"]
    # The other commands have the same rule.
    assert "a/1: 0 of 1 iterations are trained" in isheep("status", tmp_path).out
    assert "a/1, base: it has no results to compare" in refused("compare", tmp_path, tmp_path)


def test_a_run_of_another_version_is_left_out_of_a_folder_and_named_alone(tmp_path: Path) -> None:
    for name in ("new", "old"):
        make_finished_run(tmp_path / name)
    (tmp_path / "old/version.json").unlink()
    assert find_run_dirs([tmp_path]) == [tmp_path / "new"]
    assert "old" not in isheep("status", tmp_path).out
    for command in ("status", "report", "compare"):
        assert "was made by isheep 0.1" in refused(command, tmp_path / "old")


# --- figures and Table 6


PAIRS = [rated(0, 9, 9), rated(1, 8, 7), rated(2, 7, 10), rated(3, 10, 8), rated(4, None, 9), rated(5, 2, 1)]


def draw(path: Path, module: object) -> Figure:
    figure = module.draw([load_run_data(path)])  # type: ignore[attr-defined]
    assert isinstance(figure, Figure)
    return figure


def test_shares_that_pass_are_counted_from_the_files(tmp_path: Path) -> None:
    run = make_finished_run(tmp_path / "run", ratings=[PAIRS], dropped=[["t1-1", "t1-2", "t1-3", "t1-4", "t1-5"]])
    figure = draw(run, passing_shares)
    counts = {row["series"]: (row["passed"], row["pairs"], row["threshold"]) for row in figure.rows}
    assert counts == {
        "quality": (3, 6, "at least 8"), "following": (4, 6, "at least 8"), "both": (2, 6, ""), "kept": (1, 6, ""),
    }  # fmt: skip
    assert figure.rows[0]["value"] == 50 and figure.rows[0]["low"] < 50 < figure.rows[0]["high"]


@pytest.mark.parametrize(
    ("filters", "passed"),
    [
        ([{"kind": "score", "above": 8}], {"quality": 2, "following": 3}),
        ([{"kind": "score", "at_least": 7, "criteria": ["quality"]}], {"quality": 4, "following": 3}),
        # Without a threshold of the recipe's own: the paper's "greater than 8".
        ([{"kind": "score", "best": 0.5}], {"quality": 2, "following": 3}),
        ([], {"quality": 2, "following": 3}),
    ],
)
def test_shares_follow_the_threshold_of_the_recipe(tmp_path: Path, filters: object, passed: dict[str, int]) -> None:
    run = make_finished_run(tmp_path / "run", ratings=[PAIRS], filters=filters)
    rows = {row["series"]: row["passed"] for row in draw(run, passing_shares).rows}
    assert {name: rows[name] for name in passed} == passed


def test_expected_ratings_have_a_series_of_their_own(tmp_path: Path) -> None:
    pairs = [with_expected(rated(0, 9, 9), 7.9), with_expected(rated(1, 5, 5), 8.0)]
    figure = draw(make_finished_run(tmp_path / "run", ratings=[pairs]), passing_shares)
    counts = {(row["series"], row["reading"]): row["passed"] for row in figure.rows}
    assert counts["quality", "rating"] == 1 and counts["quality", "expected"] == 1 and counts["both", "expected"] == 1
    assert "expected rating" in figure.caption


def test_the_plane_and_its_quadrants(tmp_path: Path) -> None:
    run = make_finished_run(tmp_path / "run", ratings=[[*PAIRS, rated(6, 9, 9)]])
    figure = draw(run, rating_plane)
    cells = {(row["quality"], row["following"]): row["pairs"] for row in figure.rows}
    assert cells == {(9, 9): 2, (8, 7): 1, (7, 10): 1, (10, 8): 1, (2, 1): 1}
    table = quadrant_table(load_run_data(run))
    assert table
    assert [row.labels for row in table.rows] == [
        ("poor quality, poor following", "1 (17%)"),
        ("good quality, poor following", "1 (17%)"),
        ("poor quality, good following", "1 (17%)"),
        ("good quality, good following", "3 (50%)"),
    ]
    assert [cell.text for cell in table.rows[1].cells][-2:] == ["8", "7"]
    assert "1 of 7 pairs" in figure.caption


def test_thresholds_are_drawn_for_a_sweep_of_thresholds_alone(tmp_path: Path) -> None:
    def add(folder: str, name: str, right: int, **settings: object) -> None:
        scores = [{"lamb": {"right": share(10, 40)}}, {"lamb": {"right": share(right, 40)}}]
        make_finished_run(tmp_path / folder / name, scores=scores, **settings)

    add("sweep", "-1", 11, assessment=None, filters=[], synthesis={"rules": False, "novelty": None})
    add("sweep", "0", 12, assessment=None, filters=[])
    add("sweep", "7", 13, filters=[{"kind": "score", "at_least": 7}])
    add("sweep", "9", 15, filters=[{"kind": "score", "at_least": 9}])
    done = isheep("report", tmp_path / "sweep", "--format", "svg")
    assert done.code == 0, done.err
    rows = read_csv(tmp_path / "sweep/report/figures/figure-2a.csv")
    values = {float(row["threshold"]): float(row["value"]) for row in rows if row["iteration"] == "1"}
    assert values == pytest.approx({-1: 27.5, 0: 30, 7: 32.5, 9: 37.5})
    add("sweep", "other", 20, filters=[{"kind": "score", "at_least": 8}], training={"epochs": 9})
    (tmp_path / "sweep/report/figures/figure-2a.csv").unlink()
    assert isheep("report", tmp_path / "sweep", "--format", "svg").code == 0
    assert not (tmp_path / "sweep/report/figures/figure-2a.csv").exists()


def test_the_reference_of_figure_4_is_the_users(tmp_path: Path) -> None:
    words = "red green blue yellow pink white black brown grey orange".split()  # noqa: SIM905
    pairs = [rated(number, 9, 9, output=f"{words[number % 10]} {words[number % 7]}") for number in range(40)]
    run = make_finished_run(tmp_path / "run", ratings=[pairs], scores=[{"lamb": {"right": [True]}}])
    near = [{"instruction": pair.instruction, "output": pair.output} for pair in pairs[:20]]
    far = [{"instruction": f"Compute {n} times {n}", "output": f"It is {n * n}, of course"} for n in range(20)]
    distances = {}
    for name, tasks in (("near", near), ("far", far)):
        (tmp_path / f"{name}.json").write_text(json.dumps(tasks))
        done = isheep(
            "report", run, "--reference", tmp_path / f"{name}.json", "--out", tmp_path / name, "--format", "svg"
        )
        assert done.code == 0, done.err
        rows = read_csv(tmp_path / name / "figures/figure-4.csv")
        assert [row["source"] for row in rows] == ["iteration 1", "two halves of the reference"]
        distances[name] = float(rows[0]["squared_mmd"])
        assert f"{name}.json (20 texts)" in (tmp_path / name / "report.html").read_text()
    assert abs(distances["near"]) < 0.1 and distances["far"] > 0.25


def test_a_text_of_a_model_is_inert_in_the_page(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    run = make_finished_run(
        tmp_path / "run", ratings=[[rated(0, 9, 9, output=attack)]], scores=[{"lamb": {"right": [True]}}]
    )
    assert isheep("report", run, "--out", tmp_path / "out").code == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page and "onerror=alert(2)>" not in page and "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page and "http://" not in re.sub(r'"data:[^"]*"', "", page)


@pytest.mark.slow
def test_a_real_run_has_its_figures_and_the_model_embeds_the_texts(tmp_path: Path) -> None:
    run = tmp_path / "lamb"
    words = ("iterations=1", "synthesis.tasks=12", "synthesis.batch_size=4", "filters=[]", "training.max_steps=2")
    small = ("training.held_out=0.2", "training.eval_every=1", "evaluation=[]")
    assert isheep("run", "lamb", *words, *small, "--out", run).code == 0
    done = isheep("report", run, "--embed", "--out", tmp_path / "out", "--format", "svg")
    assert done.code == 0, done.err
    names = {path.name for path in (tmp_path / "out/figures").glob("*.svg")}
    assert {"figure-3.svg", "figure-4.svg", "table-6.svg"} <= names
    assert "mean last hidden state of the base model" in (tmp_path / "out/report.html").read_text()
    distance, halves = read_csv(tmp_path / "out/figures/figure-4.csv")
    assert float(distance["texts"]) == 12 and float(halves["texts"]) == 88
    assert float(distance["low"]) <= float(distance["squared_mmd"]) <= float(distance["high"])
    # Nothing was scored, so there is no table of scores.
    assert not (tmp_path / "out/tables/scores.md").exists()


def test_the_page_of_the_docs_takes_a_table_anew() -> None:
    page = "# Title\n<!-- t -->\nold | table\n<!-- end of t -->\nText\n"
    text = replace_table(page, cell_of("new"))
    assert "old" not in text and "| new |" in text and text.startswith("# Title\n") and text.endswith("\nText\n")
    assert replace_table(text, cell_of("new")) == text
    with pytest.raises(SystemExit, match="no marker"):
        replace_table("# Title\n", cell_of("new"))


def test_runs_of_one_recipe_are_loaded_with_the_reference(tmp_path: Path) -> None:
    run = make_finished_run(tmp_path / "run")
    assert load_runs([run])[0].reference is None
    reference = load_runs([run], by_model=True)[0].reference
    assert reference and reference.by_model and reference.label == "the run's own seed tasks (175 texts)"


def test_a_setting_of_a_sweep_with_seeds_is_one_setting_whatever_its_steps(tmp_path: Path) -> None:
    """The steps of compute-matched runs follow from the run with the same seed that they are matched with."""
    for seed in (4, 5):
        make_finished_run(tmp_path / "compute-matched" / f"seed-{seed}", seed=seed, training={"max_steps": seed})

    def settings() -> list[tuple[str, int]]:
        paths = sorted((tmp_path / "compute-matched").iterdir())
        return [(setting.name, len(setting.runs)) for setting in group_settings(list(map(load_run_data, paths)))]

    assert settings() == [("seed-4", 1), ("seed-5", 1)]
    (tmp_path / "sweep.json").write_text('{"settings": ["compute-matched"], "seeds": [4, 5]}')
    assert settings() == [("compute-matched", 2)]
