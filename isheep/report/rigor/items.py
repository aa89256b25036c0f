"""The items of the rigor sheet in one list. A new item is one function of the evidence and one line here."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from isheep.report.rigor import controls, leakage, setup, statistics, validity
from isheep.report.rigor.evidence import Evidence, RigorAnswer


class RigorItem(NamedTuple):
    """An item: its name, the function that answers it, and the names of the items of a review that it stands for."""

    name: str
    answer: Callable[[Evidence], RigorAnswer]
    review: tuple[str, ...]


ITEMS = (
    RigorItem("environment", setup.environment, ("environment_specified",)),
    RigorItem("reproduction", setup.reproduction, ("reproduction_instructions",)),
    RigorItem("number of runs", setup.num_runs, ("number_of_runs_stated",)),
    RigorItem("intervals", statistics.intervals, ("confidence_intervals_or_error_bars",)),
    RigorItem("significance", statistics.significance, ("significance_tests", "effect_sizes_reported")),
    RigorItem("correction", statistics.correction, ("multiple_comparison_correction",)),
    RigorItem("sample size", statistics.sample_size, ("sample_size_justified",)),
    RigorItem("variance", statistics.variance, ("variance_reported",)),
    RigorItem("seeds", statistics.seeds, ("seed_sensitivity_reported",)),
    RigorItem("search budget", setup.search_budget, ("hyperparameter_search_budget",)),
    RigorItem("compute against score", setup.compute_and_score, ("compute_budget_vs_performance",)),
    RigorItem("alternative explanations", controls.alternative_explanations, ("alternative_explanations_discussed",)),
    RigorItem(
        "contamination",
        leakage.pretraining,
        ("benchmark_contamination_addressed", "training_cutoff_stated", "temporal_leakage_addressed"),
    ),
    RigorItem("overlap", leakage.overlap, ("train_test_overlap_discussed", "non_independence_addressed")),
    RigorItem(
        "leakage detection", leakage.leakage_detection, ("leakage_detection_method", "feature_leakage_addressed")
    ),
    RigorItem("construct validity", validity.construct, ("benchmark_construct_validity",)),
    RigorItem("proxy and outcome", validity.proxy, ("proxy_outcome_distinction",)),
    RigorItem("judge", validity.judge, ("circular_self_assessment",)),
    RigorItem("human check", validity.human_check, ("human_evaluation",)),
    RigorItem("scope", setup.scope, ("scope_boundaries_stated", "generalization_bounded")),
    RigorItem("threats", validity.threats, ("threats_to_validity_specific",)),
)


class RigorRow(NamedTuple):
    """An item with its answer."""

    item: RigorItem
    answer: RigorAnswer


def answer_items(evidence: Evidence) -> Sequence[RigorRow]:
    """Answer all items from the evidence."""
    return [RigorRow(item, item.answer(evidence)) for item in ITEMS]
