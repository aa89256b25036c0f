"""NQ (Lee et al. 2019) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, PromptTemplate
from isheep.benchmarks.support.sources import NQ


def prepare(row: DataRow, number: int) -> Prepared:
    return Prepared({"question": row["question"]}, list(row["answer"]))


TASK = PaperTask(
    name="paper/nq",
    source=NQ,
    prepare=prepare,
    template=PromptTemplate(
        source="open-compass/opencompass, configs/datasets/nq/nq_gen_c788f6.py",
        licence="Apache-2.0",
        score="contains",
        user=(
            "Answer these questions, your answer should be as simple as possible, "
            "start your answer with the prompt 'The answer is '.\nQ: {question}?"
        ),
        assistant="A:",
        cut=("answer is",),
    ),
)
BENCHMARK = TASK.benchmark()
