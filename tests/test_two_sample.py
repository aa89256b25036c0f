"""The distance of two samples of texts: near zero for one distribution, large for another, whatever is added later."""

import random

import pytest

from isheep.diagnostics import two_sample
from isheep.diagnostics.two_sample import WordFeatures, halves_mmd, kernel_width, project, sample_texts, squared_mmd

ANIMALS = "cat dog horse cow sheep goat hen duck goose pig".split()  # noqa: SIM905
NUMBERS = "sum add minus times divide seven eight nine ten twelve".split()  # noqa: SIM905


def texts_of(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=8)) for _ in range(count)]


def test_the_same_distribution_is_near_zero_and_other_words_are_far() -> None:
    reference = texts_of(ANIMALS, 120, 0)
    features = WordFeatures(reference)
    vectors = features(reference)
    width = kernel_width(vectors)
    near = squared_mmd(vectors, features(texts_of(ANIMALS, 200, 1)), width)
    far = squared_mmd(vectors, features(texts_of(NUMBERS, 200, 2)), width)
    halves = halves_mmd(vectors, width)
    assert abs(near.value) < 0.02 and near.low < 0.02
    assert far.low > 0.3 and far.low <= far.value <= far.high < 2
    assert abs(halves.value) < 0.005 and halves.low < 0 < halves.high < 0.05
    assert near.num_items == 200 and halves.num_items == 120


def test_a_mixture_lies_between_the_two() -> None:
    reference = texts_of(ANIMALS, 120, 0)
    features = WordFeatures(reference)
    vectors = features(reference)
    width = kernel_width(vectors)
    distances = [
        squared_mmd(vectors, features(texts_of(ANIMALS, 100 - part, 1) + texts_of(NUMBERS, part, 2)), width).value
        for part in (0, 50, 100)
    ]
    assert distances[0] + 0.05 < distances[1] < distances[2] - 0.05


def test_the_estimate_equals_the_formula_of_gretton() -> None:
    """The unbiased estimate (Gretton et al. 2012, equation 3), written out with loops over three and two vectors."""
    import numpy as np

    first, second = np.array([[0.0], [1.0], [3.0]]), np.array([[2.0], [5.0]])

    def kernel(a: float, b: float) -> float:
        return float(np.exp(-((a - b) ** 2) / (2 * 1.5**2)))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    within = [
        mean([kernel(side[i, 0], side[j, 0]) for i in range(len(side)) for j in range(len(side)) if i != j])
        for side in (first, second)
    ]
    between = mean([kernel(a, b) for a in first[:, 0] for b in second[:, 0]])
    assert squared_mmd(first, second, 1.5).value == pytest.approx(sum(within) - 2 * between)


def test_numbers_of_an_iteration_do_not_depend_on_later_ones() -> None:
    reference = texts_of(ANIMALS, 50, 0)
    generated = texts_of(ANIMALS + NUMBERS[:3], 50, 1)
    first = WordFeatures(reference)(generated)
    again = WordFeatures(reference)(generated + texts_of(NUMBERS, 20, 2))[:50]
    assert (first != again).nnz == 0


def test_few_or_equal_texts_give_no_error() -> None:
    features = WordFeatures(["a b", "a b", "c", "", "a b"])
    vectors = features(["a b", "a b", "c", "", "a b"])
    width = kernel_width(vectors)
    assert width > 0
    assert squared_mmd(vectors, vectors[:1], width).value != squared_mmd(vectors, vectors[:1], width).value
    assert halves_mmd(vectors[:2], width).num_items == 2
    assert kernel_width(features(["same", "same"])) == 1


def test_the_sample_is_fixed_and_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sample, "MAX_TEXTS", 5)
    texts = [str(number) for number in range(20)]
    sample = sample_texts(texts)
    assert len(sample) == 5 and sample == sample_texts(texts) and sample == sorted(sample, key=int)
    assert sample_texts(texts[:5]) == texts[:5]


def test_pca_is_fitted_on_the_reference_alone() -> None:
    features = WordFeatures(texts_of(ANIMALS, 60, 0))
    reference = features(texts_of(ANIMALS, 60, 0))
    points, first, shares = project(reference, [features(texts_of(ANIMALS, 9, 1))])
    again, second, _ = project(reference, [features(texts_of(ANIMALS, 9, 1)), features(texts_of(NUMBERS, 30, 2))])
    assert abs(points - again).max() < 1e-6 and abs(first[0] - second[0]).max() < 1e-6
    assert points.shape == (60, 2) and 1 > shares[0] >= shares[1] > 0
