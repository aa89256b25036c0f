"""TriviaQA (Joshi et al. 2017) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import TRIVIAQA


def prepare(row: DataRow, number: int) -> Prepared:
    return Prepared({"question": row["question"]}, list(row["answer"]["aliases"]))


TASK = PaperTask(
    name="paper/triviaqa",
    source=TRIVIAQA,
    prepare=prepare,
    template=load_template("triviaqa"),
)
BENCHMARK = TASK.benchmark()
