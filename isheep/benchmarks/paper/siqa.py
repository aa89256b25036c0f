"""SIQA (Sap et al. 2019) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import SIQA


def prepare(row: DataRow, number: int) -> Prepared:
    answers = {letter: str(row[f"answer{letter}"]) for letter in "ABC"}
    fields = {"context": row["context"], "question": row["question"], **answers}
    return Prepared(fields, list("ABC"), int(row["label"]) - 1)


TASK = PaperTask(
    name="paper/siqa",
    source=SIQA,
    prepare=prepare,
    template=load_template("siqa"),
)
BENCHMARK = TASK.benchmark()
