"""Keep a few pairs of each cluster of embeddings, so that the data cover what the model wrote."""

import warnings
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import model_validator

from isheep.batching import derive_seed
from isheep.filters.base import FilterContext, FilterSettings, Need, Reasons
from isheep.filters.perplexity import PerplexityText, perplexity_of
from isheep.records import Count, Pair, PairEmbedding

# With at least this many pairs, k-means works on mini-batches.
MINI_BATCH_SIZE = 20_000


class DensityFilter(FilterSettings):
    """Keep `keep` pairs of each cluster of embeddings (Section 4.3), by k-means where the paper says "KNN"."""

    kind: Literal["density"] = "density"
    """Which filter this is."""
    clusters: Count = 3000
    """The number of clusters, the paper's K (Section 4.3)."""
    keep: Count = 1
    """The number of pairs kept of each cluster."""
    choose: Literal["random", "lowest_perplexity"] = "random"
    """Which pairs of a cluster are kept: random draws (the paper's Density) or those with the lowest perplexity (its
    Density and PPL)."""
    of: PerplexityText | None = None
    """The text whose perplexity counts, for `choose: lowest_perplexity`; null: the output."""

    @model_validator(mode="after")
    def uses_of_only_for_perplexity(self) -> "DensityFilter":
        """Raise ValueError if `of` is set although no perplexity is read."""
        if self.of and self.choose == "random":
            raise ValueError("of is for choose: lowest_perplexity, and choose is random")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The embeddings, and the perplexities if they decide."""
        if self.choose == "random":
            return frozenset({"embeddings"})
        return frozenset({"embeddings", "perplexities"})

    @property
    def max_kept(self) -> int:
        """The number of clusters times the pairs kept of each."""
        return self.clusters * self.keep

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield all pairs of a cluster but the best ranked. A pair without a perplexity comes last."""
        embeddings = {row.id: row for row in context.embeddings}
        perplexities = {row.id: row for row in context.perplexities}
        ids = [pair.id for pair in pairs]
        labels = find_clusters([embeddings[id] for id in ids], self.clusters, context.seed)
        groups: dict[int, list[str]] = defaultdict(list)
        for id, label in zip(ids, labels, strict=True):
            groups[label].append(id)
        text = self.of or "output"

        def rank(id: str) -> float:
            return derive_seed(context.seed, id) if self.choose == "random" else perplexity_of(perplexities[id], text)

        for label, group in groups.items():
            ranked = sorted(group, key=rank)
            for id in ranked[self.keep :]:
                why = f"cluster {label + 1} has {len(group)} pairs, {self.keep} kept"
                if self.choose == "random":
                    yield id, f"{why} at random"
                else:
                    yield id, f"{why} up to perplexity {rank(ranked[self.keep - 1]):.4g} of {text}: {rank(id):.4g}"


def find_clusters(rows: Sequence[PairEmbedding], num_clusters: int, seed: int) -> list[int]:
    """Return the cluster of each row, from 0 to `num_clusters` - 1.

    Runs k-means on the embeddings as they are, from one k-means++ start that `seed` decides. Each row is a cluster of
    its own if there are no more rows than clusters.
    """
    if len(rows) <= num_clusters:
        return list(range(len(rows)))
    import numpy as np
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points = np.stack([np.frombuffer(b64decode(row.values), "<f4") for row in rows])
    algorithm = MiniBatchKMeans if len(rows) >= MINI_BATCH_SIZE else KMeans
    # One thread, because several threads add up in an order that differs from run to run.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than clusters are no problem here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels: list[int] = algorithm(num_clusters, n_init=1, random_state=seed % 2**32).fit_predict(points).tolist()
    return labels
