"""Weigh the layers of a sum by hand, and see what it then knows of voices and of words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from ipywidgets import Dropdown, FloatSlider
from matplotlib.axes import Axes
from torch import Tensor, nn

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.layers.weighted_sums import DRAWS, WeightedSums, mean_layer, shares, with_weight
from unisat.interpret.layers.weights import LayerWeights
from unisat.interpret.layers.weights import layer_weights as measured
from unisat.plots._layer_weights import layer_shares, set_layer_shares, set_own_sum, sum_result
from unisat.widgets._picture import Look, Picture, answers, control, new_figure

TRAINED, UNIFORM, OWN = "trained", "uniform", "own"
START = "start from"
NAMES = {TRAINED: "Trained weights", UNIFORM: "Uniform weights", OWN: "Own weights"}
TITLES = {"eer": "equal error rate of speakers", "retrieval": "nearest other voice says the same"}
GOOD = {"eer": "share (low is good)", "retrieval": "share (high is good)"}
WORDS = {
    "eer": "Voices by cosine: equal error rate",
    "retrieval": "The nearest utterance by another speaker says the same sentence:",
}


class LayerWeightsView(Picture):
    """A weighted sum of layers; made by `layer_weights`.

    Attributes
    ----------
    weights : (layers,)
        The reader's, which sum to 1.
    table : DataFrame
        One row for each layer: ``site``, ``weight``, RMS ``norm``, ``contribution``, and of the layer alone ``eer`` and
        ``retrieval``.
    numbers : dict
        ``eer`` and ``retrieval`` of the sum now shown.
    intervals : dict
        Of the numbers, 95 %, over speakers.
    references : dict of str to dict
        The same of uniform and of trained weights, and by chance.
    """

    weights: np.ndarray
    table: pd.DataFrame
    numbers: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def __init__(self, sums: WeightedSums, norms: np.ndarray, trained: np.ndarray | None) -> None:
        self.sums, self.norms, count = sums, norms, len(sums.sites)
        self.alone = sums.single_layers()
        self.starts = {UNIFORM: np.full(count, 1 / count)}
        if trained is not None:
            self.starts = {TRAINED: trained, **self.starts}
        self.references = {name: sums.measure(weights) for name, weights in self.starts.items()}
        self.references["chance"] = sums.chance
        self.starts |= {f"only {site}": one for site, one in zip(sums.sites, np.eye(count), strict=True)}
        first = next(iter(self.starts))
        slider: dict[str, Any] = {"max": 1.0, "step": 0.01, "orientation": "vertical"}
        slider["layout"] = {"width": "5.3em", "height": "12em"}  # beside one another, like a mixing desk's
        amounts = self._amounts(first)
        sliders = [
            control(FloatSlider, site, "how much of this layer, beside the others", value=amounts[site], **slider)
            for site in sums.sites
        ]
        names = [*self.starts, OWN]
        self._busy, self._seen = False, (first, amounts)
        alone = {"width": "20em", "margin": "2px calc(100% - 22em) 2px 2px"}  # in a row of its own
        menu = control(Dropdown, START, "puts the sliders there", options=names, value=first, layout=alone)
        super().__init__(menu, *sliders)
        self.first()

    def redraw(self, change: object = None) -> None:
        """Let the sliders follow ``start from``, and ``start from`` the sliders; then show the sum."""
        if self._busy:
            return
        start, amounts = self._read()
        if start != self._seen[0] and start != OWN:
            self._put(self._amounts(start))
        elif amounts != self._seen[1]:
            self._put({START: OWN})
        self._seen = self._read()
        super().redraw(change)

    def look(self, **values: Any) -> Look:
        """Show the layers' shares in the sum of the sliders' weights, and what that sum knows."""
        start, sliders = values[START], {site: values[site] for site in self.sums.sites}
        if start == self._seen[0] and sliders != self._seen[1]:
            start = OWN  # where `redraw` has not moved it: a look for sliders that were not moved yet
        amounts = self.starts.get(start, np.array(list(sliders.values())))
        if not amounts.any():
            raise ValueError("all layers are at 0, which leaves nothing to sum; move one slider up.")
        self.weights = amounts / amounts.sum()
        self.table, self.numbers = self._table(self.weights), self.sums.measure(self.weights)
        self.intervals = self.sums.intervals(self.weights)
        if self.figure is None:
            self._build()
        set_layer_shares(self.table, self.shares)
        middle = mean_layer(self.table["contribution"].to_numpy())
        for name, ax in self.results.items():
            set_own_sum(middle, self.numbers[name], ax, self.intervals[name])
        style: dict[str, Any] = {"index": False, "border": 0, "float_format": "{:.3f}".format}
        return Look(caption=self._caption(start), html=self.table.to_html(**style))

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Give the layer that was clicked in the bars the weight there; in the results, start from that layer."""
        layer = min(max(round(x), 0), len(self.weights) - 1)
        if ax is self.shares:
            self.set(**self._sliders(with_weight(self.weights, layer, y)))
        elif ax in self.results.values():
            self.controls[START].value = f"only {self.sums.sites[layer]}"

    def _sliders(self, weights: np.ndarray) -> dict[str, float]:
        """Where sliders stand: the largest weight is at 1, and all at steps, for the page would send others back."""
        return dict(zip(self.sums.sites, (weights / weights.max()).round(2).tolist(), strict=True))

    def _amounts(self, start: str) -> dict[str, float]:
        return self._sliders(self.starts[start])

    def _read(self) -> tuple[str, dict[str, float]]:
        return self.controls[START].value, {site: self.controls[site].value for site in self.sums.sites}

    def _put(self, values: dict[str, Any]) -> None:
        self._busy = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self._busy = False

    def _table(self, weights: np.ndarray) -> pd.DataFrame:
        table = shares(weights, self.norms)
        table.insert(0, "site", self.sums.sites)
        return table.join(self.alone.drop(columns="site"))

    def _build(self) -> None:
        self.figure = new_figure(8.4, 4.2)
        grid = self.figure.add_gridspec(len(self.numbers), 2, width_ratios=(1.25, 1))
        marks = self._table(self.starts[TRAINED]) if TRAINED in self.starts else None
        self.shares = layer_shares(self.table, marks=marks, ax=self.figure.add_subplot(grid[:, 0]))
        self.results: dict[str, Axes] = {}
        for row, name in enumerate(self.numbers):
            ax = self.figure.add_subplot(grid[row, 1])
            others = {key: one[name] for key, one in self.references.items() if key != "chance"}
            self.results[name] = sum_result(self.alone[name].to_numpy(), self.sums.sites, references=others, ax=ax)
            ax.set_title(f"{TITLES[name]} (chance {self.sums.chance[name]:.0%})", fontsize=9, loc="left")
            ax.set_ylabel(GOOD[name], fontsize=8)
            if row + 1 < len(self.numbers):
                ax.set_xlabel("")
        keys, names = ax.get_legend_handles_labels()
        style: dict[str, Any] = {"frameon": False, "fontsize": 8, "columnspacing": 1.2}
        self.figure.legend(keys, names, loc="outside lower right", ncols=len(keys), **style)

    def _caption(self, start: str) -> str:
        rows = self.table.set_index("site")
        most, largest = rows["weight"].idxmax(), rows["contribution"].idxmax()
        heaviest = f"{most} has the largest weight, {rows['weight'][most]:.0%}"
        if np.ptp(rows["weight"]) < 1e-6:
            heaviest = f"every layer has the same weight, {rows['weight'][most]:.0%}"
        parts = [
            f"{NAMES.get(start, start.capitalize())}: {heaviest}; "
            f"weight times norm is largest for {largest}, {rows['contribution'][largest]:.0%} of all."
        ]
        for measure, value in self.numbers.items():
            best = rows[measure].idxmin() if measure == "eer" else rows[measure].idxmax()
            others = ", ".join(f"{key} {one[measure]:.0%}" for key, one in self.references.items())
            alone = f"best alone {best}, {rows[measure][best]:.0%}"
            low, high = self.intervals[measure]
            parts.append(f"{WORDS[measure]} {value:.0%} ({low:.0%} to {high:.0%}; {others}; {alone}).")
        parts.append(f"Ranges: 95 %, from {DRAWS} draws of the {self.sums.people} speakers.")
        return " ".join(parts)


@answers
def layer_weights(
    bank: FeatureBank,
    trained: nn.Module | Tensor | np.ndarray | LayerWeights | None = None,
    *,
    sentence: str | None = "sentence",
) -> LayerWeightsView:
    """A mixer of layers: a slider for each, weights beside contributions, and what the sum knows, with intervals.

    The equal error rate of speakers, and the share of utterances whose nearest neighbour by another speaker says the
    same sentence, both by cosine of the summed means (`unisat.interpret.layers.weighted_sums`), beside single layers,
    equal weights and trained ones. Sliders are relative to one another. A click on the bars sets a layer's weight.

    Parameters
    ----------
    bank : FeatureBank
        ``us.collect(model, corpus, "hidden.*")``, of 8 to 400 utterances by two speakers or more.
    trained : head, (layers,) array or LayerWeights, optional
        A model with ``config.use_weighted_layer_sum``, weights before the softmax, or what `us.layer_weights` or
        `us.fit_layer_weights` found, of whose runs the mean is taken, and whose ``normalize`` is done here as well.
    sentence : str, optional
        Column that says which utterances are of the same words; None to look at voices alone.
    """
    normalize = trained.settings.get("normalize") if isinstance(trained, LayerWeights) else None
    sums = WeightedSums(bank, sentence=sentence, normalize=normalize)
    if isinstance(trained, LayerWeights):
        found = trained
    else:
        found = measured(torch.zeros(len(sums.sites)) if trained is None else trained, bank)
    if found.sites != sums.sites:
        raise ValueError(f"the weights are of {', '.join(found.sites)}, the bank holds {', '.join(sums.sites)}.")
    weights, norms = found.averaged()
    return LayerWeightsView(sums, norms, None if trained is None else weights)
