"""How far generated texts are from reference texts: the maximum mean discrepancy (MMD, Gretton et al. 2012).

The squared MMD of two samples compares the similarities within each with those between them. It is 0 if both come from
one distribution, and at most 2 for the kernel used here. Its estimate is unbiased, so it may fall slightly below 0.

Without a model, a text is the vector of its words' TF-IDF weights (scikit-learn). The weights come from the reference
alone, so that a further iteration changes no number of an earlier one.
"""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from isheep.evaluation.statistics import Estimate
from isheep.text.novelty import Language, split_words

T = TypeVar("T")

# Texts of each sample, at most: more cost memory in their square and narrow the interval little.
MAX_TEXTS = 1000
# Bootstrap resamples of a distance, and random splits of the reference.
RESAMPLES = 1000
# Words are mapped to this many features by their hashes, so that no vocabulary has to be learned.
NUM_FEATURES = 2**16


class WordFeatures:
    """TF-IDF vectors of texts, with the word weights of the reference texts."""

    def __init__(self, reference: Sequence[str], language: Language = "any") -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        self.vectorizer = HashingVectorizer(
            analyzer=lambda text: split_words(text, language),
            n_features=NUM_FEATURES,
            alternate_sign=False,
            norm=None,
        )
        self.weights = TfidfTransformer(sublinear_tf=True).fit(self.vectorizer.transform(reference))

    def __call__(self, texts: Sequence[str]) -> Any:
        """Return a sparse matrix with a row of length 1 for each text; a text without words has a row of zeros."""
        return self.weights.transform(self.vectorizer.transform(texts))


def sample_texts(texts: Sequence[T], seed: int = 0) -> list[T]:
    """Return at most MAX_TEXTS of the texts, drawn without replacement, in their order."""
    if len(texts) <= MAX_TEXTS:
        return list(texts)
    return [texts[index] for index in sorted(random.Random(seed).sample(range(len(texts)), MAX_TEXTS))]


def kernel_width(reference: Any) -> float:
    """Return the width of the Gaussian kernel: the median distance between two different reference vectors."""
    import numpy as np
    from sklearn.metrics import pairwise_distances

    distances = pairwise_distances(reference)
    distances = distances[np.triu_indices_from(distances, k=1)]
    distances = distances[distances > 0]
    return float(np.median(distances)) if len(distances) else 1.0


def squared_mmd(reference: Any, vectors: Any, width: float) -> Estimate:
    """Return the unbiased squared MMD between two samples of vectors, with a bootstrap 95% interval.

    A resample draws the texts of both samples with replacement. A text and its own copy in a resample are not counted
    as a pair: their similarity of 1 would raise every resampled distance.
    """
    import numpy as np

    sizes = reference.shape[0], vectors.shape[0]
    if min(sizes) < 2:
        return Estimate(np.nan, np.nan, np.nan, sizes[1])
    kernels = (
        _kernel(reference, reference, width),
        _kernel(vectors, vectors, width),
        _kernel(reference, vectors, width),
    )
    generator = np.random.default_rng(0)
    resamples = [generator.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(float) for size in sizes]
    value = _weighted_mmd(kernels, *(np.ones((1, size)) for size in sizes))[0]
    # A resample of few texts may hold one text alone, which has no similarity within.
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(_weighted_mmd(kernels, *resamples), (0.025, 0.975))
    return Estimate(float(value), float(low), float(high), sizes[1])


def halves_mmd(reference: Any, width: float) -> Estimate:
    """Return the squared MMD between two random halves of the reference: the mean and the 95% range of many splits.

    It says which distances chance alone gives between samples of one distribution.
    """
    import numpy as np

    size = reference.shape[0]
    if size < 4:
        return Estimate(np.nan, np.nan, np.nan, size)
    kernel = _kernel(reference, reference, width)
    order = np.random.default_rng(0).random((RESAMPLES, size)).argsort(axis=1)
    first = (order < size // 2).astype(float)
    values = _weighted_mmd((kernel, kernel, kernel), first, 1 - first)
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high), size)


def _kernel(a: Any, b: Any, width: float) -> Any:
    import numpy as np
    from sklearn.metrics.pairwise import euclidean_distances

    return np.exp(-euclidean_distances(a, b, squared=True) / (2 * width**2))


def _weighted_mmd(kernels: tuple[Any, Any, Any], first: Any, second: Any) -> Any:
    """Return the squared MMD for each row of weights; `first` and `second` say how often a text is drawn."""

    def within(kernel: Any, weights: Any) -> Any:
        # Without the pairs of a text and itself.
        sums = ((weights @ kernel) * weights).sum(axis=1) - (weights**2 @ kernel.diagonal())
        return sums / (weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1))

    between = ((first @ kernels[2]) * second).sum(axis=1) / (first.sum(axis=1) * second.sum(axis=1))
    return within(kernels[0], first) + within(kernels[1], second) - 2 * between


def project(reference: Any, samples: Sequence[Any]) -> tuple[Any, list[Any], tuple[float, float]]:
    """Fit PCA on the reference vectors; return its points, those of the samples, and the shares of explained variance.

    The points have two coordinates, the first two principal components of the reference (Figure 4 of the paper).
    """
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="arpack", random_state=0)
    points = pca.fit_transform(reference)
    shares = [float(share) for share in pca.explained_variance_ratio_]
    return points, [pca.transform(vectors) for vectors in samples], (shares[0], shares[1])
