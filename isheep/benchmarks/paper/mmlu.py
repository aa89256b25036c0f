"""MMLU (Hendrycks et al. 2020) as OpenCompass scores it, after five examples of the subject."""

from dataclasses import replace

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template, subject_of
from isheep.benchmarks.support.sources import MMLU


def prepare(row: DataRow, number: int) -> Prepared:
    choices = dict(zip("ABCD", map(str, row["choices"]), strict=True))
    fields = {"question": row["question"], "subject": subject_of(row), **choices}
    return Prepared(fields, list("ABCD"), int(row["answer"]))


TASK = PaperTask(
    name="paper/mmlu",
    source=MMLU,
    prepare=prepare,
    examples=replace(MMLU, hub=("cais/mmlu", "all", "dev"), files=("*_dev.csv",)),
    template=load_template("mmlu"),
)
BENCHMARK = TASK.benchmark()
