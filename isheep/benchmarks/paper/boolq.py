"""BoolQ (Clark et al. 2019) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, PromptTemplate, upper_first
from isheep.benchmarks.support.sources import BOOLQ


def prepare(row: DataRow, number: int) -> Prepared:
    """Remove the passage's title, and begin the question with a capital."""
    fields = {"passage": row["passage"].partition(" -- ")[2], "question": upper_first(row["question"])}
    return Prepared(fields, ["No", "Yes"], int(row["label"]))


TASK = PaperTask(
    name="paper/boolq",
    source=BOOLQ,
    prepare=prepare,
    template=PromptTemplate(
        source="open-compass/opencompass, configs/datasets/SuperGLUE_BoolQ/SuperGLUE_BoolQ_ppl_314797.py",
        licence="Apache-2.0",
        score="loss",
        user="Passage: {passage}\nQuestion: {question}?",
        assistant="Answer: {option}",
    ),
)
BENCHMARK = TASK.benchmark()
