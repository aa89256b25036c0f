"""lamb's suite with sampled answers, beside the greedy ones of the benchmark lamb."""

from pathlib import Path

import pytest

from isheep.benchmarks import lamb
from isheep.evaluation.results import load_result
from isheep.lamb.suite import suite
from isheep.records import Answer
from isheep.rundir.run import open_run
from tests.helpers.command import isheep
from tests.helpers.report_runs import page_rows
from tests.helpers.runs import make_run

NUM_ITEMS = 12
FILES = {"lamb": "greedy.jsonl", "lamb_sampled": "sampled.jsonl"}


def test_sampled_answers_differ_from_greedy_ones_and_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lamb, "suite", lambda: suite()[:NUM_ITEMS])
    outputs: list[dict[str, list[str]]] = []
    for number in (1, 2):
        run = make_run(tmp_path / str(number), iterations=1, model="lamb", evaluation=list(FILES))
        done = isheep("eval", run, "--iteration", "0")
        assert done.code == 0 and "lamb_sampled" in done.out, done.err
        folder = open_run(run)[1] / "base" / "eval"
        outputs.append({name: [row.output for row in folder.read(f"{name}/{FILES[name]}", Answer)] for name in FILES})
    assert outputs[0] == outputs[1] and {len(texts) for texts in outputs[0].values()} == {NUM_ITEMS}
    different = [greedy != sampled for greedy, sampled in zip(*outputs[0].values(), strict=True)]
    assert sum(different) > NUM_ITEMS // 3
    results = [load_result(open_run(run)[1], 0, name) for name in FILES]
    assert all(result and len(result.scores["right"].items) == NUM_ITEMS for result in results)
    # The report shows the answers and what is wrong with them.
    assert isheep("report", run).code == 0
    items = page_rows((run / "report.html").read_text(encoding="utf-8"))["items"]
    assert [row[0] for row in items["answers"]] == [text for texts in outputs[1].values() for text in texts]
