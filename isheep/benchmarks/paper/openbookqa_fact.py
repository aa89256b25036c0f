"""OpenBookQA with its fact (Mihaylov et al. 2018) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template, prepare_choices
from isheep.benchmarks.support.sources import OPENBOOKQA_FACT


def prepare(row: DataRow, number: int) -> Prepared:
    return prepare_choices(row, {"question": row["question_stem"], "fact": row["fact1"]})


TASK = PaperTask(
    name="paper/openbookqa_fact",
    source=OPENBOOKQA_FACT,
    prepare=prepare,
    template=load_template("openbookqa_fact"),
)
BENCHMARK = TASK.benchmark()
