"""TriviaQA (Joshi et al. 2017) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, PromptTemplate
from isheep.benchmarks.support.sources import TRIVIAQA


def prepare(row: DataRow, number: int) -> Prepared:
    return Prepared({"question": row["question"]}, list(row["answer"]["aliases"]))


TASK = PaperTask(
    name="paper/triviaqa",
    source=TRIVIAQA,
    prepare=prepare,
    template=PromptTemplate(
        source="open-compass/opencompass, configs/datasets/triviaqa/triviaqa_gen_2121ce.py",
        licence="Apache-2.0",
        score="contains",
        user=(
            "Answer these questions, your answer should be as simple as possible, "
            "start your answer with the prompt 'The answer is '.\nQ: {question}?"
        ),
        assistant="A:",
        cut=("answer is", "a:", "answer:"),
    ),
)
BENCHMARK = TASK.benchmark()
