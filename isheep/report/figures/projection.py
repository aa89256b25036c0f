"""Figure 4 of the paper: generated pairs on the first two principal components of reference texts, with a distance."""

from collections.abc import Sequence
from typing import Any

from isheep.diagnostics.two_sample import halves_mmd, kernel_width, project, sample_texts, squared_mmd
from isheep.evaluation.statistics import Estimate
from isheep.records import Pair
from isheep.report.figures import Figure
from isheep.report.reference import load_reference, open_vectors
from isheep.report.run_data import RunData
from isheep.stages.measure import pair_text

CAPTION = (
    "As the paper's Figure 4: {embedding}. The two axes are the first principal components of the reference, {label}; "
    "they hold {variance:.0%} of its variance, so the picture leaves out the rest, and the distance does not. The "
    "reference's points lie further out because the axes are fitted on them. The distance is the squared maximum mean "
    "discrepancy over all dimensions (Gaussian kernel; 0: the same distribution; at most 2) with its bootstrap 95% "
    "interval. The grey band is where two random halves of the reference lie in 95% of 1000 splits. At most 1000 texts "
    "of each are measured, and {num_points} drawn."
)
BY_WORDS = "each text (instruction, input and output) is the vector of its words' TF-IDF weights"
BY_MODEL = "each text (instruction, input and output) is the mean last hidden state of the base model"
REFERENCE, GENERATED = "reference", "generated"
HALVES = "two halves of the reference"
# Points of each kind that are drawn in a panel; more hide each other.
MAX_POINTS = 200
SIDE = 200


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for each iteration of a run and one with the distances; None for several runs, or without pairs.

    The reference is the run's `reference`, or its own seed tasks.
    """
    if len(runs) != 1 or not any(iteration.pairs for iteration in runs[0].iterations):
        return None
    run = runs[0]
    reference = run.reference or load_reference(None, run.path / "seeds.jsonl")
    generated = {iteration.number: iteration.pairs for iteration in run.iterations if iteration.pairs}
    with open_vectors(reference, run.recipe) as vectors:
        reference_vectors = vectors(sample_texts(reference.texts))
        by_iteration = {number: vectors(_texts(pairs)) for number, pairs in generated.items()}
    if reference_vectors.shape[0] < 3:
        return None
    width = kernel_width(reference_vectors)
    halves = halves_mmd(reference_vectors, width)
    distances = {number: squared_mmd(reference_vectors, entry, width) for number, entry in by_iteration.items()}
    reference_points, points, variance = project(reference_vectors, list(by_iteration.values()))
    rows = [_row(f"iteration {number}", number, distance) for number, distance in distances.items()]
    rows.append(_row(HALVES, None, halves))
    caption = CAPTION.format(
        embedding=BY_MODEL if reference.by_model else BY_WORDS,
        label=reference.label,
        variance=sum(variance),
        num_points=MAX_POINTS,
    )
    clouds = [_points(reference_points, REFERENCE) + _points(entry, GENERATED) for entry in points]
    domains = [_domain([point[axis] for cloud in clouds for point in cloud]) for axis in ("x", "y")]
    panels = [
        _panel(cloud, number, distances[number], variance, domains)
        for number, cloud in zip(by_iteration, clouds, strict=True)
    ]
    return Figure("figure-4", "Generated pairs and the reference", caption, _layout(panels, rows), rows)


def _domain(values: Sequence[float]) -> list[float]:
    """Return the range of an axis: the same in all panels, with a margin."""
    margin = 0.05 * (max(values) - min(values))
    return [min(values) - margin, max(values) + margin]


def _texts(pairs: Sequence[Pair]) -> list[str]:
    return [pair_text(pair) for pair in sample_texts(pairs)]


def _row(source: str, iteration: int | None, distance: Estimate) -> dict[str, Any]:
    return {
        "source": source,
        "iteration": iteration,
        "squared_mmd": distance.value,
        "low": distance.low,
        "high": distance.high,
        "texts": distance.num_items,
    }


def _points(points: Any, source: str) -> list[dict[str, Any]]:
    """Return at most MAX_POINTS of the points, evenly spaced in their order."""
    step = max(1, -(-len(points) // MAX_POINTS))
    return [{"source": source, "x": round(float(x), 4), "y": round(float(y), 4)} for x, y in points[::step]]


def _panel(
    points: Sequence[dict[str, Any]],
    number: int,
    distance: Estimate,
    variance: tuple[float, float],
    domains: Sequence[Sequence[float]],
) -> Any:
    import altair as alt

    sources = alt.Scale(domain=[REFERENCE, GENERATED])
    axis = alt.Axis(grid=False, tickCount=4)
    x_scale, y_scale = (alt.Scale(domain=list(domain), nice=False) for domain in domains)
    interval = f"{distance.value:.4f} [{distance.low:.4f}, {distance.high:.4f}]"
    return (
        alt.Chart(alt.Data(values=points))
        # A description of each point for screen readers would be three quarters of an image, and say nothing.
        .mark_point(filled=True, opacity=0.55, size=16, aria=False)
        .encode(
            x=alt.X("x:Q", title=f"component 1 ({variance[0]:.1%} of variance)", axis=axis, scale=x_scale),
            y=alt.Y("y:Q", title=f"component 2 ({variance[1]:.1%} of variance)", axis=axis, scale=y_scale),
            color=alt.Color("source:N", title=None, scale=sources),
            shape=alt.Shape("source:N", title=None, scale=sources),
        )
        .properties(
            width=SIDE, height=SIDE, title=alt.TitleParams(f"iteration {number}", subtitle=f"distance {interval}")
        )
    )


def _layout(panels: Sequence[Any], rows: Sequence[dict[str, Any]]) -> Any:
    """Return the panels, and as the last one the distances with the band of the reference's halves."""
    import altair as alt

    distances = [row for row in rows if row["iteration"]]
    halves = [row for row in rows if row["source"] == HALVES]
    title = "squared MMD from the reference"
    band = (
        alt.Chart(alt.Data(values=halves))
        .mark_rect(opacity=0.25, color="#8a8f98")
        .encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    )
    base = alt.Chart(alt.Data(values=distances)).encode(
        x=alt.X("iteration:O", title="iteration", axis=alt.Axis(labelAngle=0))
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    values = base.mark_point(filled=True, size=60, opacity=1).encode(y=alt.Y("squared_mmd:Q", title=title))
    side_title = alt.TitleParams("distance", subtitle=f"grey: {HALVES}")
    side = alt.layer(band, bars, values).properties(width=SIDE, height=SIDE, title=side_title)
    return alt.concat(*panels, side, columns=2)
