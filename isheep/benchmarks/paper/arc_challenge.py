"""ARC-c (Clark et al. 2018) as OpenCompass scores it."""

from isheep.benchmarks.support.opencompass import PaperTask, PromptTemplate, prepare_arc
from isheep.benchmarks.support.sources import ARC_CHALLENGE

TASK = PaperTask(
    name="paper/arc_challenge",
    source=ARC_CHALLENGE,
    prepare=prepare_arc,
    template=PromptTemplate(
        source="open-compass/opencompass, configs/datasets/ARC_c/ARC_c_ppl_2ef631.py",
        licence="Apache-2.0",
        score="loss",
        user="{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}",
        assistant="Answer: {option}",
    ),
)
BENCHMARK = TASK.benchmark()
