"""What a weighted sum of layers can do: tell voices apart, and find a sentence that somebody else says."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.speakers.trials import verify_trials
from unisat.interpret.statistics.error_rates import coded_eer_draws, eer, speaker_codes
from unisat.interpret.statistics.intervals import interval, resampled
from unisat.interpret.statistics.scaling import standardize

LEAST = 8
"""Fewest utterances: a rate over fewer is an accident."""

MOST = 400
"""Most utterances: scoring their pairs takes about ten milliseconds."""


DRAWS = 200
"""Draws of speakers for an interval: so few that a slider is answered at once."""


class WeightedSums:
    """Utterances as weighted sums of their layers, compared by cosine.

    Each layer is averaged over an utterance; the channels of the sum are then brought to mean 0 and variance 1, as
    `us.verify_trials` does with one layer. Nothing is fitted to labels.

    Parameters
    ----------
    bank : FeatureBank
        ``hidden.*`` of one row for each utterance, with the column ``speaker``. Where ``session`` is known, two
        utterances of one session are no trial of one speaker.
    sentence : str, optional
        The column that says which utterances are of the same words; None for no retrieval.
    normalize : {"zscore", "layer_norm"}, optional
        What is summed, as in `us.fit_layer_weights`: with ``"zscore"``, each layer's channels have mean 0 and variance
        1 over utterances; with ``"layer_norm"``, each vector has over its channels; with None, layers are as they are.

    Attributes
    ----------
    sites : tuple of str
    people : int
        How many speakers there are.
    chance : dict
        The ``eer`` and ``retrieval`` of features that know nothing.

    Raises
    ------
    ValueError
        If there are too few or too many utterances or speakers, or a sentence is never said by two.
    """

    def __init__(self, bank: FeatureBank, *, sentence: str | None = "sentence", normalize: str | None = None) -> None:
        if not bank.hidden:
            raise ValueError(f'the bank holds {", ".join(bank.sites)}, but no hidden states; collect "hidden.*".')
        if not LEAST <= len(bank) <= MOST:
            raise ValueError(
                f"{len(bank)} utterances are too {'few' if len(bank) < LEAST else 'many'}: "
                f"every sum is compared on all pairs of {LEAST} to {MOST}; "
                + ("collect more." if len(bank) < LEAST else f"take some, bank.take(range({MOST})).")
            )
        speakers = bank.labels("speaker")
        if len(set(speakers)) < 2:
            raise ValueError(
                f"all {len(bank)} utterances are of speaker {speakers[0]!r}; an error rate needs two speakers or more, "
                "with two utterances each: collect others too."
            )
        sessions = "session" in bank.table and bool(bank.table["session"].notna().all())
        trials = verify_trials(bank, bank.hidden[0], exclude_same_session=sessions)
        self.sites = tuple(bank.hidden)
        self._enrol, self._test, self._same = trials.enrol, trials.test, trials.same
        pool = "mean" if "reduce" in bank.settings else None
        self._layers = _normalized(np.stack([bank.features(site, pool) for site in self.sites]), normalize)
        self._sides = speaker_codes((speakers[self._enrol], speakers[self._test]))
        self._drawn = resampled(speakers, DRAWS)
        self.people = len(set(speakers))
        self._other = speakers[:, None] != speakers
        self.chance = {"eer": 0.5}
        self._alike: np.ndarray | None = None
        if sentence is not None:
            if sentence not in bank.table:
                raise ValueError(
                    f"the bank has no column {sentence!r}, it has {', '.join(map(str, bank.table))}; name the one that "
                    "tells equal words as sentence=, or pass sentence=None to look at voices alone."
                )
            words = bank.labels(sentence)
            self._alike = self._other & (words[:, None] == words)
            self._asked = self._alike.any(1)
            if not self._asked.any():
                raise ValueError(
                    f"no two speakers share a {sentence!r}, so there is nothing to find; name another column as "
                    "sentence=, or pass sentence=None to look at voices alone."
                )
            share = self._alike.sum(1) / self._other.sum(1)
            self.chance["retrieval"] = float(share[self._asked].mean())

    def cosines(self, weights: Float[np.ndarray, " layers"]) -> Float[np.ndarray, "utterances utterances"]:
        """Give the cosine of each pair of utterances in the space of a weighted sum."""
        summed = standardize(np.tensordot(np.asarray(weights, dtype=float), self._layers, axes=1))
        summed /= np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), np.finfo(float).tiny)
        return summed @ summed.T

    def measure(self, weights: Float[np.ndarray, " layers"]) -> dict[str, float]:
        """Measure ``eer``, the equal error rate of speakers, and ``retrieval``, where sentences are known.

        Retrieval asks each utterance whose sentence another speaker says too: it is the share of them whose nearest
        neighbour among other speakers says the same sentence.
        """
        cosines = self.cosines(weights)
        found = {"eer": eer(cosines[self._enrol, self._test], self._same)}
        if self._alike is not None:
            found["retrieval"] = float(self._found(cosines).mean())
        return found

    def intervals(self, weights: Float[np.ndarray, " layers"], level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Give intervals over speakers of what `measure` gives, from ``DRAWS`` draws, the same ones for all sums.

        For ``eer`` as in `us.verify_trials`. For ``retrieval`` the speakers who ask are drawn, among utterances that
        stay: an utterance that is there twice would find itself.
        """
        cosines = self.cosines(weights)
        scores = cosines[self._enrol, self._test]
        draws = {"eer": coded_eer_draws(scores, self._same, *self._sides, n_boot=DRAWS)}
        if self._alike is not None:
            asked = self._drawn[:, self._asked]
            with np.errstate(invalid="ignore"):  # draws of speakers who ask nothing are left out
                draws["retrieval"] = asked @ self._found(cosines) / asked.sum(1)
        return {name: interval(one, level, groups=self.people) for name, one in draws.items()}

    def _found(self, cosines: np.ndarray) -> np.ndarray:
        """Whether the nearest utterance by another speaker says the same, of each utterance that is asked."""
        assert self._alike is not None
        nearest = np.where(self._other, cosines, -np.inf).argmax(1)
        return self._alike[np.arange(len(nearest)), nearest][self._asked]

    def single_layers(self) -> pd.DataFrame:
        """Measure each layer alone: one row for each, with ``site`` and the columns of `measure`."""
        rows = [self.measure(alone) for alone in np.eye(len(self.sites))]
        return pd.DataFrame(rows).assign(site=self.sites)[["site", *rows[0]]]


def shares(weights: Float[np.ndarray, " layers"], norms: Float[np.ndarray, " layers"]) -> pd.DataFrame:
    """Give what each layer gives to a sum: ``weight``, ``norm``, and ``contribution``, the share of their product.

    Parameters
    ----------
    weights : (layers,)
        Which sum to 1.
    norms : (layers,)
        RMS norm of each layer.
    """
    product = weights * norms
    return pd.DataFrame({"weight": weights, "norm": norms, "contribution": product / product.sum()})


def mean_layer(contribution: Float[np.ndarray, " layers"]) -> float:
    """Where a sum lies among the layers: the mean of their places, weighed by their contributions."""
    return float(contribution @ np.arange(len(contribution)))


def with_weight(weights: Float[np.ndarray, " layers"], layer: int, weight: float) -> Float[np.ndarray, " layers"]:
    """Give one layer a weight between 0 and 1; the others share the rest as they did, or alike if they had nothing."""
    others = np.where(np.arange(len(weights)) == layer, 0.0, weights)
    others = others if others.any() else 1.0 - np.eye(len(weights))[layer]
    weight = min(max(weight, 0.0), 1.0)
    others = others * ((1 - weight) / others.sum())
    others[layer] = weight
    return others


def _normalized(layers: Float[np.ndarray, "layers utterances dim"], how: str | None) -> np.ndarray:
    if how is None:
        return layers
    axis = {"zscore": 1, "layer_norm": 2}.get(how)
    if axis is None:
        raise ValueError(f"normalize={how!r} must be None, 'zscore' or 'layer_norm'.")
    return standardize(layers, axis=axis)
