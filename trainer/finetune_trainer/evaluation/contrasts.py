"""Each group of rows against all other rows: signed differences with intervals and p-values. Pure.

What is compared is the mean of a number over some of the rows: whether each is right, or whether a
class is told of those that have it. Where a row holds many things (tokens, words), it is the mean
over those, a ratio of two sums over rows. Rows are independent, or come in clusters (an author's
texts), which may lie in one group or in several; the things of a row never are independent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from finetune_trainer.evaluation.metrics import Floats, Integers

FEWEST_ROWS = 30
"""Of a denominator; with fewer a group is not compared."""
FEWEST_CLUSTERS = 10
_UPPER = 0.975


@dataclass(frozen=True, kw_only=True)
class RowValues:
    """A number of each row, and the rows that count; ``is_share`` where it is 0 or 1.

    With ``sizes`` the number is a sum over as many things, and ``is_share`` says that each of them
    adds from 0 to 1; the rows that count have at least one.
    """

    values: Floats
    counted: NDArray[np.bool_]
    is_share: bool
    sizes: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The group of each row, from 0 to ``groups`` - 1, and its cluster, if rows have one."""

    group: Integers
    groups: int
    cluster: Integers | None = None


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means of some rows with their 95 % intervals, ``[groups]`` each; nan where there is none."""

    value: Floats
    low: Floats
    high: Floats
    rows: Integers
    clusters: Integers

    @property
    def enough(self) -> NDArray[np.bool_]:
        """Whether there are rows and clusters enough to compare them."""
        return (self.rows >= FEWEST_ROWS) & (self.clusters >= FEWEST_CLUSTERS)


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """Each group's mean less that of all other rows, ``[groups]`` each.

    ``comparable`` says where both sides have rows enough; elsewhere ``p_values`` are 1.
    """

    group: Means
    rest: Means
    low: Floats
    high: Floats
    p_values: Floats
    comparable: NDArray[np.bool_]

    @property
    def difference(self) -> Floats:
        """The group's less the rest's."""
        return self.group.value - self.rest.value


@dataclass(frozen=True)
class _Sums:
    """Sums of the values, of what they are means over, and the rows: each cluster in each group."""

    values: Floats
    sizes: Floats
    rows: Integers

    def of_rest(self) -> "_Sums":
        return _Sums(
            self.values.sum(axis=1, keepdims=True) - self.values,
            self.sizes.sum(axis=1, keepdims=True) - self.sizes,
            self.rows.sum(axis=1, keepdims=True) - self.rows,
        )

    def pull(self, mean: Floats) -> Floats:
        """How far each cluster pulls the mean of its side away from ``mean``, a value a side."""
        total = np.maximum(self.sizes.sum(axis=0), 1.0)
        pulls: Floats = (self.values - mean * self.sizes) / total
        return pulls


def contrast(rows: RowValues, grouping: Grouping) -> Contrasts:
    """Compare each group with the rest.

    Intervals of single means are Wilson's for shares (with the effective number of rows where
    these are clustered: Korn & Graubard 1998), and Student's otherwise, with the clusters' sandwich
    variance. Those of differences are put together from them (MOVER: Zou & Donner 2008; for
    independent shares Newcombe's hybrid, 1998), with the correlation that shared clusters bring.
    A row of many things is a cluster of them, or a part of its own cluster.

    The test of independent shares is Fisher's exact one, doubled. Others must stand two tests, and
    get the larger p-value: a score test with the sandwich variance and Student's t, which allows
    for groups that vary more than others, and, where no cluster lies in two groups, the
    permutation of the groups over the clusters, by its three exact moments (Pearson III: Mielke &
    Berry 2007), which allows for skew.
    """
    sums = _sums(rows, grouping)
    rest = sums.of_rest()
    independent = rows.sizes is None and grouping.cluster is None
    alike = None if independent else _intracluster(sums, rest)
    one, other = (_means(side, is_share=rows.is_share, alike=alike) for side in (sums, rest))
    low, high = _mover(one, other, _correlation(sums, one, rest, other))
    comparable = one.enough & other.enough
    if rows.is_share and independent:
        p_values = _fisher(sums, rest)
    else:
        p_values = _score_test(sums, rest, np.minimum(one.clusters, other.clusters))
        if ((sums.rows > 0).sum(axis=1) == 1).all():
            p_values = np.maximum(p_values, _permuted(sums, rest))
    return Contrasts(
        group=one,
        rest=other,
        low=low,
        high=high,
        p_values=np.where(comparable, p_values, 1.0),
        comparable=comparable,
    )


def holm(p_values: Floats) -> Floats:
    """P-values that hold for all of them together (Holm 1979): found at 0.05, found at all."""
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def _sums(rows: RowValues, grouping: Grouping) -> _Sums:
    group = grouping.group[rows.counted]
    values = rows.values[rows.counted]
    if grouping.cluster is not None:
        _, cluster = np.unique(grouping.cluster[rows.counted], return_inverse=True)
    elif rows.is_share and rows.sizes is None:
        # Of independent shares nothing but the counts is asked.
        cluster = np.zeros(len(group), int)
    else:
        cluster = np.arange(len(group))
    clusters = int(cluster.max()) + 1 if len(cluster) else 0
    place, shape = cluster * grouping.groups + group, (clusters, grouping.groups)

    def summed(weights: Floats | None) -> Floats:
        made = np.bincount(place, weights=weights, minlength=clusters * grouping.groups)
        return made.astype(np.float64).reshape(shape)

    count = summed(None)
    sizes = count if rows.sizes is None else summed(rows.sizes[rows.counted])
    return _Sums(summed(values), sizes, count.astype(np.int64))


def _means(sums: _Sums, *, is_share: bool, alike: Floats | None) -> Means:
    """Means of each column; ``alike`` is how alike what lies in a cluster is, where it may be."""
    rows, size = sums.rows.sum(axis=0), sums.sizes.sum(axis=0)
    clusters = (sums.rows > 0).sum(axis=0)
    if is_share and alike is None:
        clusters = rows
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums.values.sum(axis=0) / size
        variance = clusters / (clusters - 1) * np.square(sums.pull(mean)).sum(axis=0)
        quantile = special.stdtrit(np.maximum(clusters - 1, 1), _UPPER)
        if not is_share:
            low, high = mean - quantile * np.sqrt(variance), mean + quantile * np.sqrt(variance)
        elif alike is None:
            low, high = _wilson(mean, size, np.full(len(size), special.ndtri(_UPPER)))
        else:
            # The own variance of a few clusters may be small by chance: the rest helps out.
            own = variance / (mean * (1 - mean) / size)
            expected = 1 + (np.square(sums.sizes).sum(axis=0) / size - 1) * alike
            effective = size / np.maximum(np.fmax(own, expected), 1.0)
            low, high = _wilson(mean, effective, quantile)
    return Means(value=mean, low=low, high=high, rows=rows, clusters=clusters)


def _intracluster(sums: _Sums, rest: _Sums) -> Floats:
    """The correlation within a cluster about the means of group and rest, 0 to 1.

    Where nothing varies, nothing shows it, and it is taken as 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = [(one, one.values.sum(axis=0) / one.sizes.sum(axis=0)) for one in (sums, rest)]
        left = sum(np.nan_to_num(one.values - mean * one.sizes) for one, mean in sides)
        spread = sum(
            np.nan_to_num(one.sizes.sum(axis=0) * mean * (1 - mean)) for one, mean in sides
        )
        sizes = sums.sizes + rest.sizes
        clusters = np.float64(len(sizes))
        design = clusters / (clusters - 1) * np.square(left).sum(axis=0) / spread
        size = np.square(sizes).sum(axis=0) / sizes.sum(axis=0)
        alike = (design - 1) / (size - 1)
    return np.clip(np.where(np.isnan(alike), np.where(size > 1, 1.0, 0.0), alike), 0.0, 1.0)


def _wilson(share: Floats, rows: Floats, quantile: Floats) -> tuple[Floats, Floats]:
    """Wilson's score interval (1927)."""
    square = np.square(quantile) / rows
    middle = (share + square / 2) / (1 + square)
    half = quantile / (1 + square) * np.sqrt(share * (1 - share) / rows + square / (4 * rows))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def _correlation(one_sums: _Sums, one: Means, rest_sums: _Sums, rest: Means) -> Floats:
    """Of the two means, because clusters lie on both sides; 0 where none does."""
    first, second = one_sums.pull(one.value), rest_sums.pull(rest.value)
    together = (first * second).sum(axis=0)
    spread = np.sqrt(np.square(first).sum(axis=0) * np.square(second).sum(axis=0))
    both: Floats = np.divide(together, spread, out=np.zeros_like(together), where=spread > 0)
    return both


def _mover(one: Means, rest: Means, correlation: Floats) -> tuple[Floats, Floats]:
    down, up = one.value - one.low, one.high - one.value
    rest_down, rest_up = rest.value - rest.low, rest.high - rest.value

    def length(first: Floats, second: Floats) -> Floats:
        square = first**2 + second**2 - 2 * correlation * first * second
        return np.sqrt(np.maximum(square, 0.0))

    difference = one.value - rest.value
    return difference - length(down, rest_up), difference + length(up, rest_down)


def _fisher(sums: _Sums, rest: _Sums) -> Floats:
    """Exact under the null hypothesis that which rows are in the group is chance."""
    hits, rows = (part.sum(axis=0).round().astype(np.int64) for part in (sums.values, sums.rows))
    others = (part.sum(axis=0).round().astype(np.int64) for part in (rest.values, rest.rows))
    below, above = np.zeros(len(rows)), np.zeros(len(rows))
    for place, (other_hits, other_rows) in enumerate(zip(*others, strict=True)):
        all_hits, all_rows = hits[place] + other_hits, rows[place] + other_rows
        possible = np.arange(max(0, all_hits - other_rows), min(rows[place], all_hits) + 1)
        chance = stats.hypergeom.pmf(possible, all_rows, all_hits, rows[place])
        below[place] = chance[possible <= hits[place]].sum()
        above[place] = chance[possible >= hits[place]].sum()
    return _two_sided(below, above)


def _score_test(sums: _Sums, rest: _Sums, clusters: Integers) -> Floats:
    size = sums.sizes.sum(axis=0) + rest.sizes.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (sums.values.sum(axis=0) + rest.values.sum(axis=0)) / size
        pulls = sums.pull(mean) - rest.pull(mean)
        number = (sums.rows + rest.rows > 0).sum(axis=0)
        spread = np.sqrt(number / (number - 1) * np.square(pulls).sum(axis=0))
        statistic = np.abs(pulls.sum(axis=0)) / spread
    p_values = 2 * special.stdtr(np.maximum(clusters - 1, 1), -statistic)
    return np.where(np.isnan(p_values), 1.0, p_values)


def _permuted(sums: _Sums, rest: _Sums) -> Floats:
    """Clusters' sums about the common mean, drawn without replacement: exact to three moments."""
    sizes = sums.sizes + rest.sizes
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (sums.values + rest.values).sum(axis=0) / sizes.sum(axis=0)
        left = (sums.values + rest.values) - mean * sizes
        total, drawn = np.float64(len(sizes)), (sums.rows > 0).sum(axis=0)
        second, third = (left**2).sum(axis=0) / total, (left**3).sum(axis=0) / total
        variance = drawn * (total - drawn) / (total - 1) * second
        moment = variance * (total - 2 * drawn) / (total - 2) * third / second
        scale = np.sqrt(variance)
        standard = (sums.values.sum(axis=0) - mean * sums.sizes.sum(axis=0)) / scale
        skew = moment / scale**3
    known = np.isfinite(standard) & np.isfinite(skew)
    standard, skew = np.where(known, standard, 0.0), np.where(known, skew, 0.0)
    return _two_sided(stats.pearson3.cdf(standard, skew), stats.pearson3.sf(standard, skew))


def _two_sided(below: Floats, above: Floats) -> Floats:
    """Twice the smaller tail."""
    p_values: Floats = np.minimum(1.0, 2 * np.minimum(below, above))
    return p_values
