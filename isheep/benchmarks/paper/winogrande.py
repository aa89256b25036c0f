"""WinoGrande (Sakaguchi et al. 2019) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import WINOGRANDE


def prepare(row: DataRow, number: int) -> Prepared:
    sentences = [row["sentence"].replace("_", row[f"option{n}"]) for n in (1, 2)]
    return Prepared({}, sentences, int(row["answer"]) - 1)


TASK = PaperTask(
    name="paper/winogrande",
    source=WINOGRANDE,
    prepare=prepare,
    template=load_template("winogrande"),
)
BENCHMARK = TASK.benchmark()
