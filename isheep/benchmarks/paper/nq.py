"""NQ (Lee et al. 2019) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import NQ


def prepare(row: DataRow, number: int) -> Prepared:
    return Prepared({"question": row["question"]}, list(row["answer"]))


TASK = PaperTask(
    name="paper/nq",
    source=NQ,
    prepare=prepare,
    template=load_template("nq"),
)
BENCHMARK = TASK.benchmark()
