"""Items on validity: what scores measure and do not, the judge, people, threats."""

from collections import Counter
from collections.abc import Callable, Iterator
from statistics import fmean

from isheep import annotation
from isheep.benchmarks import is_readable, load_benchmark
from isheep.benchmarks.support.measures import Measures, load_measures
from isheep.evaluation.statistics import win_rate
from isheep.report import sections
from isheep.report.rigor.evidence import Evidence, RigorAnswer, command_on, count, shorten
from isheep.report.rigor.leakage import benchmark_names_of
from isheep.report.run_data import RunData
from isheep.rundir.iterations import model_words

MEASURES = "isheep/benchmarks/measures.yaml"


def construct(evidence: Evidence) -> RigorAnswer:
    """Answer with what each benchmark and each headline score of the runs measures."""

    def lines_of(name: str, text: Measures) -> Iterator[str]:
        yield f"{name}: {text.measures}."
        titles = {b.title for run in evidence.runs for b in run.benchmarks if b.benchmark == name}
        scores = [score for title, score in (evidence.scores.columns if evidence.scores else ()) if title in titles]
        yield from (f"{name} {score}: {text.scores[score]}." for score in dict.fromkeys(scores) if score in text.scores)

    return _from_measures(evidence, lines_of)


def proxy(evidence: Evidence) -> RigorAnswer:
    """Answer with what each benchmark of the runs does not measure."""
    return _from_measures(evidence, lambda name, text: iter([f"{name} does not measure {text.does_not}."]))


def _from_measures(evidence: Evidence, lines_of: Callable[[str, Measures], Iterator[str]]) -> RigorAnswer:
    names = benchmark_names_of(evidence)
    if not names:
        path = evidence.runs[0].path
        return RigorAnswer("not done", ["No model is scored on a benchmark."], command=command_on("eval", path))
    texts = {name: load_measures(name) for name in names}
    lines = [line for name, text in texts.items() if text for line in lines_of(name, text)]
    missing = [name for name, text in texts.items() if text is None]
    lines += [f"isheep has no text on {', '.join(missing)}: say it yourself."] if missing else []
    if len(missing) == len(names):
        return RigorAnswer("not done", lines)
    return RigorAnswer("partly" if missing else "answered", lines, MEASURES)


def judge(evidence: Evidence) -> RigorAnswer:
    """Answer with how well the ratings of the loop tell right pairs from wrong ones, and agree with other ratings."""
    rated = [run for run in evidence.runs if any(iteration.assessed for iteration in run.iterations)]
    if not rated:
        return RigorAnswer(
            "answered", ["No pair is rated, so that no rating selects data."], "recipe.yaml (assessment)"
        )
    lines = [line for run in rated for line in _judge_lines(evidence, run)]
    calibrated = [run for run in rated if any(iteration.calibration for iteration in run.iterations)]
    command = next((command_on("judge-calibration", run.path) for run in rated if run not in calibrated), "")
    if not lines:
        return RigorAnswer("not done", ["The ratings were compared with nothing."], command=command)
    look = "iter-*/judge_calibration.json; isheep report DIR (“Judge”)"
    if command:
        lines.append("Not rated again, nor compared with another judge: " + _names(evidence, rated, calibrated))
    return RigorAnswer("partly" if command else "answered", shorten(lines, look), look, command)


def _names(evidence: Evidence, rated: list[RunData], calibrated: list[RunData]) -> str:
    missing = [run for run in rated if run not in calibrated]
    return "any run" if len(missing) == len(evidence.runs) else ", ".join(map(evidence.name_of, missing))


def _judge_lines(evidence: Evidence, run: RunData) -> Iterator[str]:
    """Yield the newest figures on a run's judge, those of the report."""
    for table in sections.judge_tables(run):
        if "iteration" not in table.columns[:1] or table.title == "Ratings":
            continue
        newest = max((row[0] for row in table.rows), key=int)
        for row in table.rows:
            if row[0] == newest:
                figures = ", ".join(f"{name} {text}" for name, text in zip(table.columns[1:], row[1:], strict=True))
                yield f"{evidence.name_of(run)}, iteration {newest}: {figures}"


def human_check(evidence: Evidence) -> RigorAnswer:
    """Answer with the ratings and choices by people; without any, with what programs check instead."""
    lines = [line for run in evidence.runs for line in _annotation_lines(evidence.name_of(run), run)]
    if lines:
        return RigorAnswer("answered", shorten(lines), f"{annotation.RATINGS}, {annotation.CHOICES}")
    command = command_on("annotate", evidence.runs[0].path)
    names = [name for name in benchmark_names_of(evidence) if is_readable(name) and load_measures(name)]
    judged = [name for name in names if load_benchmark(name).needs_judge]
    checked = [name for name in names if name not in judged]
    if not checked:
        return RigorAnswer("not done", ["No person rated or compared an answer."], command=command)
    lines = ["No person rated or compared an answer.", f"Scored by a program, not by a judge: {', '.join(checked)}."]
    lines += [f"Scored by a judge model alone: {', '.join(judged)}."] if judged else []
    return RigorAnswer("partly", lines, "recipe.yaml (evaluation)", command)


def _annotation_lines(name: str, run: RunData) -> Iterator[str]:
    """Yield how many answers people rated and compared in a run, and how often they preferred the later model's."""
    ratings, _ = annotation.read_annotations(run.path / annotation.RATINGS, annotation.Rating)
    scored = [row for row in ratings if row.scores]
    if scored:
        people = len({row.by for row in scored})
        by_pair = annotation.mean_ratings(scored)
        means = {
            criterion: fmean(scores[criterion] for scores in by_pair.values() if criterion in scores)
            for criterion in dict.fromkeys(criterion for scores in by_pair.values() for criterion in scores)
        }
        listed = ", ".join(f"{criterion} {mean:.2f}" for criterion, mean in means.items())
        yield f"{name}: {count(people, 'person')} rated {len({row.row for row in scored})} pairs; mean {listed}."
    choices, _ = annotation.read_annotations(run.path / annotation.CHOICES, annotation.Choice)
    people = len({row.by for row in choices} - {annotation.NOBODY})
    for (earlier, later), points in annotation.points_of_later(choices).items():
        if people:
            rate = win_rate(points)
            yield (
                f"{name}: {people} people compared {len(points)} answers; {model_words(later)} preferred to "
                f"{model_words(earlier)} in {100 * rate.value:.0f}% [{100 * rate.low:.0f},{100 * rate.high:.0f}]."
            )


def threats(evidence: Evidence) -> RigorAnswer:
    """Answer with what threatens the figures of these runs, each with the number of runs that it holds for."""
    texts = Counter(text for run in evidence.runs for text in dict.fromkeys(_threats_to(run)))
    lines = list(_threats_to_all(evidence))
    for text, number in texts.items():
        lines.append(text if number == len(evidence.runs) else f"{text} ({number} of {len(evidence.runs)} runs)")
    return RigorAnswer(
        "answered", shorten(lines, "isheep report DIR (“Rigor”)"), "isheep report DIR (“Rigor”), run.jsonl"
    )


def _threats_to_all(evidence: Evidence) -> Iterator[str]:
    single = [setting.name for setting in evidence.settings if not setting.has_seeds]
    if single:
        yield f"One random seed ({', '.join(single)}): how much another seed would change is not known."
    if len({run.recipe.model for run in evidence.runs}) == 1:
        yield "One base model: nothing says that another one would gain as much."


def _threats_to(run: RunData) -> Iterator[str]:
    yield from sections.finding_texts(run)
    yield from sections.selection_threats(run)
    yield from sections.rating_threats(run)
    for benchmark in run.benchmarks:
        templates = dict.fromkeys(filter(None, benchmark.templates))
        if len(templates) > 1:
            yield f"{benchmark.title}: models were asked in different chat templates ({', '.join(templates)})."
    yield from sections.benchmark_notes(run)
