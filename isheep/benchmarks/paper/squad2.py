"""SQuAD 2.0 (Rajpurkar et al. 2018) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import SQUAD2


def prepare(row: DataRow, number: int) -> Prepared:
    """Return the answers as references; for a passage without any, the plausible ones and a refusal to answer."""
    texts = list(row["answers"]["text"])
    references = texts or [*row.get("plausible_answers", ()), "impossible to answer"]
    return Prepared({"context": row["context"], "question": row["question"]}, sorted(set(references)))


TASK = PaperTask(
    name="paper/squad2",
    source=SQUAD2,
    prepare=prepare,
    template=load_template("squad2"),
)
BENCHMARK = TASK.benchmark()
