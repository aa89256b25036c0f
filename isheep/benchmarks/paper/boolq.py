"""BoolQ (Clark et al. 2019) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template, upper_first
from isheep.benchmarks.support.sources import BOOLQ


def prepare(row: DataRow, number: int) -> Prepared:
    """Remove the passage's title, and begin the question with a capital."""
    fields = {"passage": row["passage"].partition(" -- ")[2], "question": upper_first(row["question"])}
    return Prepared(fields, ["No", "Yes"], int(row["label"]))


TASK = PaperTask(
    name="paper/boolq",
    source=BOOLQ,
    prepare=prepare,
    template=load_template("boolq"),
)
BENCHMARK = TASK.benchmark()
