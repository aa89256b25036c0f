"""isheep report and the report that a run writes: what the page says of runs in every state, without a browser."""

import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import isheep as package
from isheep.report import examples, write_report
from isheep.report.figures import FIGURES, all_figures
from isheep.report.hook import live_report
from isheep.report.page import inert_json
from isheep.report.run_data import load_run_data
from isheep.report.sections import without_paths
from isheep.rundir import progress
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import lock_run
from tests.helpers.command import isheep, refused
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.report_runs import ATTACKS, NAME, attacking_run, page_data, page_rows, write_scores
from tests.helpers.runs import fake_models, make_run, write_result


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attacking_run(tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def page(attacked: Path) -> str:
    """The page of the attacking run, as the command writes it."""
    done = isheep("report", attacked)
    assert done.code == 0 and done.out == f"report   {attacked / 'report.html'}\n"
    return (attacked / "report.html").read_text(encoding="utf-8")


def without_scripts(page: str) -> str:
    """Return a page with empty scripts and styles."""
    return re.sub(r"(<(script|style)\b[^>]*>).*?</\2>", r"\1</\2>", page, flags=re.DOTALL)


def visible_text(page: str) -> str:
    """Return the text of a page without its scripts and styles, white space reduced."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", without_scripts(page))).split())


# --- the command


def test_a_run_of_lamb_has_its_figures_and_rows(tmp_path: Path) -> None:
    run = tmp_path / "lamb-run"
    words = ("synthesis.tasks=6", "synthesis.batch_size=8", "synthesis.budget=40", "iterations=1", "filters=[]")
    small = (
        "training.max_steps=2",
        "training.held_out=0.2",
        "training.eval_every=1",
        "machine.threads=1",
    )
    assert isheep("run", "lamb", *words, *small, "evaluation=[]", "--out", run).code == 0
    assert not (run / "report.html").exists()
    isheep("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    rows = page_rows(page)["generated"]
    assert rows["outcome"].count("kept") == 6 and rows["words quality"][0]
    names = [figure["name"] for figure in page_data(page)["figures"]]
    assert names == ["loss", "costs", "ratings", "figure-3", "table-6", "figure-4", "diversity"]
    text = visible_text(page)
    assert "1 of 1 iterations are trained" in text and "The model rated its own answers" in text
    assert "isheep run lamb-run.yaml --out runs/lamb-run" in text and "python 3" in text
    assert str(tmp_path) not in page


def test_refusals(tmp_path: Path) -> None:
    assert "is not a run folder: it has no recipe.yaml, and neither has a folder in it" in refused("report", tmp_path)


def test_damaged_files_are_named_with_the_way_out(tmp_path: Path, attacked: Path) -> None:
    run = Path(shutil.copytree(attacked, tmp_path / "run"))
    # As in a run of an earlier version; otherwise the digest is compared first.
    (run / "manifest.json").unlink()
    (run / "iter-1" / "assessed.jsonl").write_text("")
    assert re.search(r"assessed.jsonl: 0 rated pairs, and pairs.jsonl has \d+", refused("report", run))
    (run / "iter-1" / "assessed.jsonl").unlink()
    (run / "iter-1" / "adapter" / "training.json").write_text("{")
    assert re.search(
        r"training.json: not JSON .*; delete the folder .*adapter to have it made again", refused("report", run)
    )


def test_another_file(tmp_path: Path, attacked: Path) -> None:
    assert isheep("report", attacked, "--out", tmp_path / "new" / "x.html").code == 0
    assert (tmp_path / "new" / "x.html").stat().st_size > 1e6


# --- what the page says


def test_the_headline_says_what_got_better_and_worse(page: str) -> None:
    text = visible_text(page)
    assert "25.0% → 100.0% +75.0" in text
    assert "and iteration 2, the best by this score, 100.0%" in text
    better, worse = text.index("Got better"), text.index("Got worse")
    assert better < text.index("right 25.0%", better) < worse < text.index("content 75.0% → 0.0% -75.0", worse)
    assert "flatters it" in text


def test_the_page_has_no_path_of_the_machine(page: str) -> None:
    assert "/home/someone" not in page and "…/tiny aligned on its own data" in visible_text(page)
    assert "model: …/tiny" in unescape(page) and "…/file.yaml" in page


def test_text_that_holds_markup_is_escaped(page: str) -> None:
    page = without_scripts(page)
    assert page.count("<script") == 5 and "49 {%" not in page
    assert "<title>run &lt;b&gt;&amp;amp; &#39;x&#39; · isheep report</title>" in page
    assert not {tag for tag in re.findall(r"<(\w+)", page) if tag in ("img", "svg", "b", "i")} - {"b"}
    assert "\x00" not in page and "\u202e" not in page


def test_the_rows_have_their_quadrants_reasons_and_the_judges_words(page: str) -> None:
    rows = page_rows(page)["generated"]
    assert rows["quadrant"][:5] == [
        "quality high, following high",
        "quality high, following low",
        "quality low, following high",
        "quality low, following low",
        "quality unreadable, following high",
    ]
    assert rows["score quality"][:5] == [9, 9, 3, 1, None] and rows["outcome"][:2] == ["kept", "dropped"]
    assert rows["why"][1].startswith("quality 1 < 8") and rows["words quality"][0] == f"9||{ATTACKS[0]}"
    assert rows["outcome"].count("rejected") == 2 * len(ATTACKS)
    items = page_rows(page)["items"]
    assert items["verdicts"][15] == [False, True, True] and items["answers"][3][2].startswith("iter-2 ")
    assert page_rows(page)["models"] == ["base", "iteration 1", "iteration 2"]


def test_every_figure_has_titles_on_its_axes(attacked: Path) -> None:
    figures = list(all_figures([load_run_data(attacked)]))
    assert len({figure.name for figure in figures}) == len(figures) >= len(FIGURES) - 2
    for figure in figures:
        assert figure.rows and figure.caption.endswith(".")
        for encoding in encodings(figure.chart.to_dict()):
            for channel in ("x", "y"):
                axis = encoding.get(channel, {})
                assert axis.get("type") != "quantitative" or axis.get("title"), (figure.name, channel)


def encodings(spec: Any) -> Iterator[dict[str, Any]]:
    """Yield every encoding in a chart."""
    if isinstance(spec, list):
        for part in spec:
            yield from encodings(part)
    elif isinstance(spec, dict):
        if "encoding" in spec:
            yield spec["encoding"]
        for part in spec.values():
            yield from encodings(part)


def test_figures_of_one_run_are_not_drawn_for_several(attacked: Path) -> None:
    run = load_run_data(attacked)
    own = {"scores", "compute", "loss", "costs", "ratings", "diversity"}
    assert not own & {figure.name for figure in all_figures([run, run])}


# --- runs in other states


def test_an_unfinished_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", iterations=3, assessment=None)
    write_result(run, "base", "own", {"scores": {"right": {"items": [True, False]}}})
    (run / "iter-3" / "adapter").rmdir()
    text = visible_text(write_report(run).read_text(encoding="utf-8"))
    assert "2 of 3 iterations are trained" in text and "not finished" in text
    assert "right: 50.0%. There is no score of the base and of an iteration to compare yet." in text
    assert "The recipe has no assessment" in text and "No iteration is measured yet" in text


def test_a_new_run_without_anything(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", iterations=1)
    (run / "iter-1" / "adapter").rmdir()
    text = visible_text(write_report(run).read_text(encoding="utf-8"))
    assert "0 of 1 iterations are trained" in text and "No pair is rated yet." in text
    assert "isheep eval scores a run at any time" in text


def test_a_base_that_was_asked_in_another_template_is_named(tmp_path: Path) -> None:
    """Part of the difference may be the template's."""
    for templates, is_said in ((("plain", "qwen"), True), (("qwen", "qwen"), False)):
        run = make_run(tmp_path / str(is_said), iterations=1)
        for folder, template in zip(("base", "iter-1"), templates, strict=True):
            write_result(run, folder, "own", {"template": template, "scores": {"right": {"items": [True, False] * 50}}})
        assert isheep("report", run).code == 0
        text = " ".join((run / "report.html").read_text(encoding="utf-8").split())
        assert ("asked as plain text and the iteration in the chat template “qwen”:" in text) is is_said


def test_the_result_by_a_stop_rule(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", stop={"benchmark": "lamb"}, evaluation=["lamb"])
    for name, right in (("base", 0), ("iter-1", 2), ("iter-2", 1)):
        path = run / name / "validation" / "lamb.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        items = [n < right for n in range(4)]
        path.write_text(f'{{"scores": {{"right": {{"items": {str(items).lower()}}}}}}}')
        with lock_run(run) as folder:
            write_scores(folder, name, num_right=20 + (name == "iter-2"))
    text = visible_text(write_report(run).read_text(encoding="utf-8"))
    assert "The result of the run is iteration 1, the best by lamb's validation part" in text
    assert "chosen on items of lamb that are not reported" in text
    assert "Of the run's result, iteration 1, it is 50.0% (+0.0" in text


def test_a_judge_that_is_no_model_of_the_run(tmp_path: Path) -> None:
    judge = {"model": "gpt <i>", "local": False}
    run = make_run(tmp_path / "run", assessment={"judge": judge})
    page = write_report(run).read_text(encoding="utf-8")
    assert "rated by gpt <i> at an endpoint: not self-assessment" in visible_text(page)
    assert "<i>" not in without_scripts(page)


def test_a_benchmark_of_code_that_is_not_allowed_is_read_and_not_loaded(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("raise SystemExit('loaded')")
    run = make_run(tmp_path / "run", evaluation=[f"{code}:thing"])
    for name, right in (("base", True), ("iter-1", False)):
        write_result(run, name, "thing", {"scores": {"right": {"items": [right, True]}}})
    assert "right 100.0% → 50.0%" in visible_text(write_report(run).read_text(encoding="utf-8"))


def test_the_judge_by_kind_of_task(page: str) -> None:
    text = visible_text(page)
    start = text.index("The same by kind of task (lamb, iteration 2)")
    assert "family: not understood 9 0.0%" in text[start : start + 300]


def test_the_answers_to_lambs_items_are_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_models(monkeypatch)
    run = make_run(tmp_path / "run", iterations=1, evaluation=["lamb"])
    assert isheep("eval", run).code == 0
    items = page_rows(write_report(run).read_text(encoding="utf-8"))["items"]
    assert len(items["prompt"]) == 30 and set(items["score"]) == {"right"}
    assert [answer.split(",")[0] for answer in items["answers"][0]] == ["base", "iter-1"]
    assert items["verdicts"][0] == [False, False]
    assert all(reason.startswith("expected content: ") for reason in items["why"][0])
    # Files that do not belong together: the verdicts stand without reasons.
    answers = run / "base" / "eval" / "lamb" / "greedy.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[1:]))
    items = page_rows(write_report(run).read_text(encoding="utf-8"))["items"]
    assert items["why"][0][0] == "" and items["why"][0][1] and items["verdicts"][0] == [False, False]


# --- limits


def test_a_long_run_says_what_is_left_out(attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run_data(attacked)
    whole = examples.make_examples(run)
    assert not whole.notes and whole.num_generated == 4 * len(ATTACKS)
    monkeypatch.setattr(examples, "SAMPLE_STEP", 1)
    monkeypatch.setattr(examples, "TEXT_LIMITS", (20_000, 30))
    monkeypatch.setattr(examples, "MAX_BYTES", int(0.9 * len(whole.data)))
    cut = examples.make_examples(run)
    assert "texts are cut after 30 characters" in cut.notes[0] and len(cut.data) < len(whole.data)
    monkeypatch.setattr(examples, "MAX_BYTES", len(cut.data) // 2)
    assert examples.make_examples(run).num_generated <= whole.num_generated / 2 + 1
    monkeypatch.setattr(examples, "MOST_ROWS", 12)
    assert "only one generated row in" in " ".join(examples.make_examples(run).notes)


def test_data_can_not_end_their_element() -> None:
    text = inert_json({"a": "</script><!--", "b": float("nan"), "c": "\ud800\u2028"})
    assert not {"<", ">", "&"} & set(text) and '"b": null' in text and "\\ud800\\u2028" in text


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/me/x.yaml", "…/x.yaml"),
        ("taken from /tmp/a b", "taken from …/a b"),
        ("'~/models/tiny', 3/4 and a/b, https://host/x", "'…/tiny', 3/4 and a/b, https://host/x"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
    ],
)
def test_paths_are_shortened(text: str, short: str) -> None:
    assert without_paths(text) == short


# --- while a run goes on


@pytest.mark.report
def test_a_run_writes_its_report_also_if_it_is_interrupted(tmp_path: Path) -> None:
    models = package.align(package.load_recipe("lamb", SMALL), tmp_path / "run", engine=write_texts)
    steps = iter(models)
    next(steps)
    steps.close()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "not finished" in visible_text(page) and not page_data(page)["underWay"]
    assert "http-equiv" in page
    list(package.align(package.load_recipe("lamb", SMALL), tmp_path / "run", engine=write_texts))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "1 of 1 iterations are trained" in visible_text(page) and len(page_rows(page)["generated"]["id"]) >= 8
    assert not (tmp_path / "run" / "report.html.part").exists()
    # A complete run that is started again has nothing new to report.
    written_at = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    list(package.align(package.load_recipe("lamb", SMALL), tmp_path / "run", engine=write_texts))
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns == written_at


@pytest.mark.report
def test_a_recipe_can_switch_the_report_off(tmp_path: Path) -> None:
    recipe = package.load_recipe("lamb", {**SMALL, "machine.report": False})
    list(package.align(recipe, tmp_path / "run", engine=write_texts))
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.report
def test_the_page_is_written_again_between_stages_but_not_too_often(attacked: Path) -> None:
    run, times = RunFolder(attacked, attacked), iter([0.0, 1.0, 10.0, 10.0, 12.0, 14.0, 75.0, 75.0, 76.0, 76.0, 80.0])
    page = attacked / "report.html"
    page.unlink(missing_ok=True)
    written = []
    with live_report(run, True, clock=lambda: next(times)):
        for _ in range(2):
            with progress.stage("iter-1/pairs.jsonl"):
                written.append(page.exists())
    # Due after 5 seconds, then after 30 times the 2 seconds that the report took; once more at the end.
    assert written == [False, True]
    assert not page_data(page.read_text(encoding="utf-8"))["underWay"]


@pytest.mark.report
def test_the_page_of_a_complete_run_is_written_again_only_if_something_is_new(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")

    def written_at() -> int:
        with live_report(RunFolder(run, run), True):
            pass
        return (run / "report.html").stat().st_mtime_ns

    first = written_at()
    assert written_at() == first
    (run / "judge.jsonl").write_text("")
    second = written_at()
    assert second > first
    # The page of a process that was killed says that the run is under way.
    write_report(run, is_under_way=True)
    third = written_at()
    assert third > second and not page_data((run / "report.html").read_text(encoding="utf-8"))["underWay"]


@pytest.mark.report
def test_an_error_in_the_report_does_not_end_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with live_report(RunFolder(run, run), True):
        pass
    [note] = [event["note"] for event in read_events(run) if "note" in event]
    assert note.startswith("report.html can't be written (") and note.endswith("the run is not affected")


@pytest.mark.report
def test_a_page_written_while_another_process_works_refreshes_itself(attacked: Path) -> None:
    with lock_run(attacked):
        page = write_report(attacked).read_text(encoding="utf-8")
    assert page_data(page)["underWay"] and "The run is under way" in visible_text(page)
    page = write_report(attacked).read_text(encoding="utf-8")
    assert not page_data(page)["underWay"] and NAME in visible_text(page)
