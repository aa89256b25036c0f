"""ARC-e (Clark et al. 2018) as OpenCompass scores it."""

from isheep.benchmarks.support.opencompass import PaperTask, PromptTemplate, prepare_arc
from isheep.benchmarks.support.sources import ARC_EASY

TASK = PaperTask(
    name="paper/arc_easy",
    source=ARC_EASY,
    prepare=prepare_arc,
    template=PromptTemplate(
        source="open-compass/opencompass, configs/datasets/ARC_e/ARC_e_ppl_2ef631.py",
        licence="Apache-2.0",
        score="loss",
        user="{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}",
        assistant="Answer: {option}",
    ),
)
BENCHMARK = TASK.benchmark()
