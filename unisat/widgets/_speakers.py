"""Utterances as points: two maps of a site, the nearest neighbours in its features, and a recording of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ipywidgets import Combobox, Dropdown, SelectionSlider, SelectMultiple
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.path import Path as Outline
from torch import Tensor

from unisat.audio import load
from unisat.corpus import Batch, Corpus
from unisat.frames import SAMPLE_RATE
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.speakers.maps import Embedding, embed, every_other, nearest_utterances
from unisat.interpret.speakers.trials import several_sessions, verify_trials
from unisat.interpret.speakers.xvectors import collect_like_each, xvectors
from unisat.modules import versions
from unisat.plots._speakers import axis_names, class_at, class_legend, marks, point_map, ring_points, set_point_map
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.widgets._picture import Look, Picture, answers, content, control, new_figure, upload
from unisat.widgets._sound import checked
from unisat.xvector import UniSpeechSatForXVector

LEAST = 8
"""Fewest utterances for which a map of neighbourhoods shows anything."""

XVECTOR = "xvector"
SIZES = (5, 15, 50)  # of UMAP's neighbourhoods
NEAREST = 5
REACH = 1  # pixels between a click and the point that it means: the page sends the place of the point, rounded
ROWS = 8  # of a selection that are shown
CLASSES_FIRST = ("speaker", "sex", "sentence", "session")
NO_CLASSES = ("id", "path", "seconds", "text")
FOUND = 3  # of the ids that a search finds, which are named
SELECT = {"what is outlined": "lasso", f"the {NEAREST} nearest": "nearest", "its class": "class", "nothing": "nothing"}
SHARES = {"original": "purity in the features", "drawn": "purity in the map", "chance": "purity by chance"}


class _Heard(NamedTuple):
    name: str
    samples: Float[Tensor, " samples"]
    banks: dict[str, FeatureBank]  # by site, of this one recording


class SpeakersView(Picture):
    """Maps of utterances; made by `speakers`.

    Attributes
    ----------
    maps : dict of str to Embedding
        The two maps that are shown.
    numbers : dict
        Measured in the features, not in the picture: ``eer`` and its ``interval``, None with ``why_not`` where there is
        none; ``purity`` and ``trustworthiness`` of each map.
    neighbours : DataFrame
        Nearest to the recording, or else to the utterance: rows of the bank's table with their ``similarity``.
    selection : DataFrame
        Rows of the bank's table that the reader outlined, or that ``select`` chooses, and that are not hidden.
    shown : (utterances,) of bool
        False on those of the classes that are hidden.
    """

    maps: dict[str, Embedding]
    numbers: dict[str, Any]
    neighbours: pd.DataFrame
    selection: pd.DataFrame
    shown: np.ndarray
    waits = ("site", "beside", "n_neighbors", "color", "hide", "search")

    def __init__(
        self,
        banks: dict[str, FeatureBank],
        speech: Corpus | Batch | None,
        model: UniSpeechSatPreTrainedModel | None,
        pool: str,
    ) -> None:
        self.banks, self.speech, self.model, self.pool = banks, speech, model, pool
        self.table = table = next(iter(banks.values())).table
        self.outlined = np.zeros(len(table), dtype=bool)
        self._points = [_name(row) for _, row in table.iterrows()]
        self.fitted, self.sessions = every_other(table), several_sessions(table)
        known = [str(name) for name in table if table[name].notna().all()]
        self._kept: dict[Any, Any] = {}
        self._heard: tuple[Any, _Heard | None] = (None, None)
        self._seen: Any = None
        self._asked: Any = None
        columns = [name for name in known if name not in NO_CLASSES and 1 < table[name].nunique() < len(table)]
        columns.sort(key=lambda name: CLASSES_FIRST.index(name) if name in CLASSES_FIRST else len(CLASSES_FIRST))
        columns = columns or ["speaker" if "speaker" in known else "id"]
        sizes = [size for size in SIZES if size < len(table)]
        names = [(str(name), row) for row, name in enumerate(table["id"])]
        controls = [
            control(Dropdown, "site", "whose features", options=list(banks), value=list(banks)[-1]),
            control(Dropdown, "beside", "the map beside UMAP", options=["pca", "lda"]),
            control(SelectionSlider, "n_neighbors", "of UMAP", options=sizes, value=sizes[len(sizes) > 1]),
            control(Dropdown, "color", "column that colours the points", options=columns),
            control(SelectMultiple, "hide", "a click on a name in the legend does the same", rows=3),
            control(
                Combobox,
                "search",
                "a part of an id, which chooses its utterance",
                options=[str(one) for one, _ in names],
            ),
            control(Dropdown, "utterance", "whom to hear; a click on its point does the same", options=names),
            control(Dropdown, "select", "which rows are ringed and listed", options=list(SELECT.items())),
        ]
        if model is not None:
            controls.append(upload("recording", "an audio file to place on the maps, up to a minute"))
        super().__init__(*controls)
        self._offer(columns[0])
        self.first()

    def redraw(self, change: Any = None) -> None:
        """Let a search choose its utterance, and what can be hidden follow the column; then show the maps."""
        moved = None if change is None else change["owner"].description
        with self.held():
            if moved == "color":
                self._offer(change["new"])
            elif moved == "search" and len(found := self._found(change["new"])) == 1:
                self.controls["utterance"].value = found[0]
        super().redraw(change)

    def look(
        self,
        site: str,
        beside: str,
        n_neighbors: int,
        color: str,
        hide: tuple[str, ...],
        search: str,
        utterance: int,
        select: str,
        recording: dict[str, Any] | None = None,
    ) -> Look:
        """Show two maps of a site, ring what is chosen, and list what is near it in the features."""
        heard = self._hear(recording)
        self.maps = {method: self._map(site, method, n_neighbors) for method in ("umap", beside)}
        self.numbers = {
            **self._once((site, "trials"), lambda: self._trials(site)),
            "purity": {name: one.purity(color) for name, one in self.maps.items()},
            "trustworthiness": {name: one.trustworthiness for name, one in self.maps.items()},
        }
        asked = site, utterance, heard and self._heard[0]
        if asked != self._asked:
            whom = utterance if heard is None else self._features(site, heard.banks)[0]
            self.neighbours = nearest_utterances(self.banks[site], site, whom, count=NEAREST, pool=self._pool(site))
            self._asked = asked
        self.shown = shown = ~self.table[color].astype(str).isin(hide).to_numpy()
        self._draw(site, color, hide, heard)
        alike = self.table[color].astype(str) == str(self.table[color].iloc[utterance])
        near = self.table.index.isin(self.neighbours.index)
        none = np.zeros(len(self.table), dtype=bool)
        chosen = {"lasso": self.outlined, "nearest": near, "class": alike.to_numpy(), "nothing": none}[select] & shown
        self.selection = self.table[chosen]
        for drawn, where in zip(self.drawn, self._where, strict=True):
            ring_points(drawn, where, utterance, chosen, near & shown)
        sounds = {} if self.speech is None else {str(self.table["id"].iloc[utterance]): self._sound(utterance)}
        sounds |= {} if heard is None else {heard.name: heard.samples}
        html = self._html(color, utterance, heard)
        caption = self._search_result(search) + self._caption(site, color, utterance, heard) + self._unseen(hide)
        return Look(caption=caption, sounds=sounds, html=html)

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Choose the utterance whose point is there, and play it; in the legend, hide a class or show it again."""
        if ax is self.names:
            menu = self.controls["hide"]
            name = class_at(self.table[self.controls["color"].value].astype(str), ax, x, y)
            if name is not None:
                menu.value = [one for one in menu.options if (one in menu.value) != (one == name)]
            return
        for drawn, where in zip(self.drawn, self._where, strict=True):
            if ax is drawn.ax:
                away = np.hypot(*(ax.transData.transform(where) - ax.transData.transform((x, y))).T)
                away[~self.shown] = np.inf
                if away.min() <= REACH:
                    self.controls["utterance"].value = int(away.argmin())
                    self.play()

    def lassoed(self, ax: Axes, vertices: Float[np.ndarray, "vertices 2"]) -> None:
        """Choose the utterances whose points are inside."""
        for drawn, where in zip(self.drawn, self._where, strict=True):
            if ax is drawn.ax:
                self.outlined = Outline(vertices).contains_points(where) & self.shown
                self.set(select="lasso")

    def reset(self) -> None:
        """Put every control back, and forget what was outlined."""
        self.outlined = np.zeros_like(self.outlined)
        super().reset()

    def _offer(self, color: str) -> None:
        """Let the classes of a column be hidden; at first all are shown."""
        labels = self.table[color].astype(str)
        named = list(marks(labels))
        self.controls["hide"].options = [*named, *sorted(set(labels) - set(named))]

    def _found(self, search: str) -> list[int]:
        """Give the rows whose ids contain a text, in capitals or not; one whose whole id it is comes alone."""
        wanted, ids = search.strip().lower(), [str(one).lower() for one in self.table["id"]]
        if wanted in ids:
            return [ids.index(wanted)]
        return [row for row, one in enumerate(ids) if wanted and wanted in one]

    # measuring

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self.stage.alt = "Measuring … The first UMAP of a session takes some seconds, for it is compiled."
            try:
                self._kept[key] = make()
            finally:
                self.stage.alt = self.caption
        return self._kept[key]

    def _pool(self, site: str) -> str | None:
        return self.pool if self.banks[site].settings.get("reduce") in ("mean", "mean+std") else None

    def _features(self, site: str, banks: dict[str, FeatureBank]) -> Float[np.ndarray, "utterances dim"]:
        return banks[site].features(site, self._pool(site))

    def _map(self, site: str, method: str, n_neighbors: int) -> Embedding:
        how: dict[str, Any] = {"method": method, "pool": self._pool(site)}
        how["n_neighbors"] = n_neighbors if method == "umap" else min(15, len(self.table) - 1)
        how |= {"color": "speaker", "fit_on": self.fitted} if method == "lda" else {"color": "id"}
        return self._once((site, method, how["n_neighbors"]), lambda: embed(self.banks[site], site, **how))

    def _trials(self, site: str) -> dict[str, Any]:
        how: dict[str, Any] = {"exclude_same_session": self.sessions, "n_boot": 200, "pool": self._pool(site)}
        try:
            scored = verify_trials(self.banks[site], site, **how)
        except ValueError as error:
            return {"eer": None, "interval": None, "why_not": str(error)}
        return {"eer": scored.eer(), "interval": scored.interval(), "why_not": ""}

    def _hear(self, recording: dict[str, Any] | None) -> _Heard | None:
        """Run a recording as the bank's utterances were run; what cannot be run is refused once, and then left out."""
        if recording is None or self.model is None:
            return None
        key = recording["name"], recording["content"], versions(self.model)
        if key != self._heard[0]:
            self._heard = key, None
            data, name = content(recording)
            samples = checked(load(data, name=name), name, self.model.config)
            batch = Batch.from_arrays(samples, sampling_rate=SAMPLE_RATE, ids=[name])
            banks = collect_like_each(self.model, self.banks.values(), batch)
            self._heard = key, _Heard(name, samples, {site: banks[one] for site, one in self.banks.items()})
        return self._heard[1]

    def _sound(self, row: int) -> Float[Tensor, " samples"]:
        """What the model heard of an utterance."""
        seconds = next(iter(self.banks.values())).settings.get("max_seconds")
        if isinstance(self.speech, Batch):
            samples = self.speech.waveforms[row]
        else:
            assert self.speech is not None
            samples = self.speech.waveform(row)
        return samples if seconds is None else samples[: round(seconds * SAMPLE_RATE)]

    # showing

    def _new_figure(self) -> None:
        self.figure = new_figure(8.4, 4.4)
        left, right, self.names = self.figure.subplots(1, 3, width_ratios=(3, 3, 1.35))
        self.names.set_axis_off()
        left.set(xticks=[], yticks=[])  # distances mean nothing in UMAP
        self.drawn = point_map(left), point_map(right)

    def _draw(self, site: str, color: str, hide: tuple[str, ...], heard: _Heard | None) -> None:
        """Draw the points, where others are to be seen than before."""
        wanted = [*map(id, self.maps.values()), color, heard and self._heard[0], hide]
        if wanted == self._seen:
            return
        if self.figure is None:
            self._new_figure()
        labels = self.table[color].astype(str)
        self._where = []
        for drawn, (method, one) in zip(self.drawn, self.maps.items(), strict=True):
            where = one.place(self._features(site, self.banks)) if one.held_out else one.coordinates
            new = np.empty((0, 2)) if heard is None else one.place(self._features(site, heard.banks))
            grey = (one.held_out is True) & self.fitted
            set_point_map(drawn, where, labels, self._points, grey=grey, shown=self.shown, star=new)
            drawn.ax.set(**dict(zip(("xlabel", "ylabel"), axis_names(method, one.explained), strict=True)))
            how = {"pca": "", "lda": ", grey: what it was fitted on"}
            title = method.upper() + how.get(method, f", {one.settings['n_neighbors']} neighbours")
            pure = f"trustworthiness {one.trustworthiness:.2f}, purity {self.numbers['purity'][method]['drawn']:.0%}"
            drawn.ax.set_title(f"{title}\n{pure}", fontsize=10)
            self._where.append(where)
        if self._seen is None or (self._seen[2], self._seen[-1]) != (color, hide):
            class_legend(labels, color, self.names, hide)
        self._seen = wanted

    def _caption(self, site: str, color: str, utterance: int, heard: _Heard | None) -> str:
        found, count = self.numbers["purity"]["umap"], len(self.selection)
        speakers = self.table["speaker"].nunique() if "speaker" in self.table else 0
        rate = "no error rate, which needs two speakers with two utterances each; collect more to compare voices"
        if self.numbers["eer"] is not None:
            low, high = self.numbers["interval"]
            rate = f"equal error rate by cosine {self.numbers['eer']:.0%} ({low:.0%} to {high:.0%})"
        near, whose = self.neighbours.iloc[0], "it" if heard is None else f"the star, {heard.name},"
        star = "" if heard is None else " UMAP has it between its 3 nearest; the maps are not fitted again."
        return (
            f"{' and '.join(name.upper() for name in self.maps)} of {site}, {len(self.table)} utterances of "
            f"{speakers or 'unknown'} speaker{'s' * (speakers != 1)}: {rate}. Of {found['neighbors']:.0f} nearest "
            f"neighbours in the features {found['original']:.0%} have the same {color} (chance {found['chance']:.0%}). "
            f"Ringed: {_name(self.table.iloc[utterance])}. Nearest to {whose} in the features: {_name(near)}, cosine "
            f"{near['similarity']:.2f}.{star} {count} row{'s' * (count != 1)} selected."
        )

    def _search_result(self, search: str) -> str:
        found = self._found(search)
        if not search.strip() or len(found) == 1:
            return ""
        if not found:
            return f"No id contains {search.strip()!r}. "
        some = ", ".join(str(self.table["id"].iloc[row]) for row in found[:FOUND]) + ", …" * (len(found) > FOUND)
        return f"{search.strip()!r} is in {len(found)} ids ({some}); type more of one. "

    def _unseen(self, hide: tuple[str, ...]) -> str:
        if not hide:
            return ""
        count = int((~self.shown).sum())
        near = int((~self.shown[self.neighbours.index]).sum())
        return (
            f" Hidden: {', '.join(hide)}, {count} utterance{'s' * (count != 1)}, {near} of the {NEAREST} nearest among "
            "them; rates, purities and neighbours count them all."
        )

    def _html(self, color: str, utterance: int, heard: _Heard | None) -> str:
        whose = str(self.table["id"].iloc[utterance]) if heard is None else heard.name
        columns = [name for name in ("id", *CLASSES_FIRST) if name in self.table and self.table[name].notna().any()]
        kept = {name.upper(): {SHARES[k]: each[k] for k in SHARES} for name, each in self.numbers["purity"].items()}
        for name, trust in self.numbers["trustworthiness"].items():
            kept[name.upper()]["trustworthiness"] = trust
        count = len(self.selection)
        near = self.neighbours[[*columns, "similarity"]]
        if not self.shown.all():
            near = near.assign(map=np.where(self.shown[near.index], "shown", "hidden"))
        tables = (
            _table(near, f"Nearest to {whose} in the features, by cosine"),
            _table(pd.DataFrame(kept).rename_axis("").reset_index(), f"How much of {color} each map keeps"),
            _table(self.selection[columns].head(ROWS), f"Selected: {count}" + f", the first {ROWS}" * (count > ROWS)),
        )
        return f'<div style="display: flex; flex-wrap: wrap; gap: 2em; min-height: 20em">{"".join(tables)}</div>'


def _name(row: pd.Series) -> str:
    known = "speaker" in row and pd.notna(row["speaker"])
    return f"{row['id']} (speaker {row['speaker']})" if known else str(row["id"])


def _table(frame: pd.DataFrame, title: str) -> str:
    body = frame.to_html(index=False, border=0, float_format="{:.2f}".format, na_rep="")
    return f'<figure style="margin: 0"><figcaption>{escape(title)}</figcaption>{body}</figure>'


@answers
def speakers(
    bank: FeatureBank | Sequence[FeatureBank],
    speech: Corpus | Batch | None = None,
    model: UniSpeechSatPreTrainedModel | None = None,
    *,
    pool: str = "mean",
) -> SpeakersView:
    """Two maps of a corpus' utterances: choose a site, click on a point to hear it, outline points to list them.

    UMAP, and PCA or LDA beside it (fitted on every other utterance of each speaker, in grey; the others are judged).
    A part of an id, typed, finds its utterance; a click on a class in the legend hides it, and another shows it again.
    Numbers and neighbours come from the features themselves, their channels brought to mean 0 and variance 1. Each
    site is measured once; the first UMAP of a session takes some ten seconds, because it is compiled.

    Parameters
    ----------
    bank : FeatureBank or several
        From `us.collect`, one row for each utterance, and from `xvectors`; several must be of the same utterances.
    speech : Corpus or Batch, optional
        To hear the utterances; if None, the files that the bank's column ``path`` names.
    model : optional
        The one the bank was made with: a recording of the reader's own can then be uploaded, which is run and pooled
        as the others were, and placed on the maps (`Embedding.place`). With an x-vector model, x-vectors are a site.
    pool : {"mean", "mean+std"}
        What of a site to look at.
    """
    banks = [bank] if isinstance(bank, FeatureBank) else list(bank)
    ids, about = banks[0].ids, banks[0].settings
    if len(ids) < LEAST:
        raise ValueError(
            f"a map of neighbourhoods needs {LEAST} utterances or more, got {len(ids)}; collect more of them with "
            "us.collect, or compare a few by us.verify_trials."
        )
    if speech is None and "path" in banks[0].table and banks[0].table["path"].notna().all():
        speech = Corpus(banks[0].table)
    speech = None if speech is None else _those(speech, ids)
    if isinstance(model, UniSpeechSatForXVector) and speech is not None and not any(XVECTOR in one for one in banks):
        how = {name: about[name] for name in ("max_seconds", "do_normalize") if name in about}
        banks.append(xvectors(model, speech, **how))
    if any(one.ids != ids for one in banks):
        raise ValueError("the banks are of different utterances, or in another order; collect them from one corpus.")
    sites = {site: one for one in banks for site in one.sites if not one.is_frames(site)}
    if not sites:
        raise ValueError("the bank has a row for each frame; collect it with reduce='mean' or 'mean+std'.")
    return SpeakersView(sites, speech, model, pool)


def _those(speech: Corpus | Batch, ids: Sequence[str]) -> Corpus | Batch:
    """The utterances of these names, in their order."""
    there = {name: row for row, name in enumerate(speech.ids if isinstance(speech, Batch) else speech.table["id"])}
    if missing := [name for name in ids if name not in there]:
        raise ValueError(
            f"{len(missing)} utterances of the bank are not in speech (first: {missing[0]!r}); pass what the bank "
            "was collected from."
        )
    rows = [there[name] for name in ids]
    return speech[rows]
