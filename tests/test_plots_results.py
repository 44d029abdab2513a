"""Every picture of a measurement: drawn where told, with named axes, by the result's own plot."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import shuffled, small_config
from matplotlib.figure import Figure

import unisat as us
from unisat import plots
from unisat.interpret.features.bank import FeatureBank, Part

SECONDS = torch.arange(4).double() / 50


@cache
def bank():
    """40 utterances of 8 speakers saying 5 sentences; 6 frames each for units."""
    draw = np.random.default_rng(0)
    speaker, sentence = (codes.ravel() for codes in np.meshgrid(range(8), range(5), indexing="ij"))
    table = pd.DataFrame({"speaker": speaker, "sentence": sentence}).astype(str)
    table["id"] = table["speaker"] + "-" + table["sentence"]
    table["session"] = table["id"]
    voices, words = draw.normal(size=(8, 6)), draw.normal(size=(5, 6))
    features = {
        site: voices[speaker] + words[sentence] + 0.3 * draw.normal(size=(40, 6))
        for site in ["hidden.0", "hidden.1", "hidden.2", *(f"untrained.0.hidden.{k}" for k in range(3)), "logmel"]
    }
    frames = {"conv.out": np.repeat(features["hidden.0"], 6, axis=0), "conv.out#frames": np.full(40, 6)}
    return FeatureBank(table, [Part(np.arange(40), {**features, **frames})])


@cache
def codes():
    """20 masked frames of each utterance, two groups of 8 entries."""
    counts = np.random.default_rng(1).multinomial(20, np.full(8, 1 / 8), size=(40, 2))
    return us.codebook_usage(FeatureBank.from_arrays(bank().table, {"quant.codes": counts}, {"frames": "masked"}))


@cache
def probed():
    return us.probe_layers(
        bank(), "speaker", groups="sentence", controls=["shuffle", "untrained", "logmel"], seeds=1, progress=False
    )


@cache
def compared():
    options = {"groups": "sentence", "controls": ["untrained", "logmel"], "seeds": 1, "n_boot": 50, "progress": False}
    return us.compare({"A": bank(), "B": bank()}, "speaker", metrics=["bal_acc"], **options)


@cache
def swept():
    model = shuffled(us.UniSpeechSatModel(small_config()))
    batches = [
        us.Batch.from_arrays(
            list(torch.randn(8, 1000, generator=torch.Generator().manual_seed(s))), sampling_rate=16_000
        )
        for s in (0, 1)
    ]
    metric = lambda output: output.last_hidden_state[..., 0].mean(1)  # noqa: E731
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "clean and corrupt")  # an untrained model tells nobody apart
        return us.sweep(model, *batches, "block.*.attn.z", metric, placebo=1, n_boot=10, progress=False)


@cache
def clustered():
    return us.units(bank(), "conv.out", 3)


def lens_table():
    rows = {"layer": [0, 1], "frames": [4, 4], "agreement": [0.5, 1.0], "constant": [0.5, 0.5]}
    return pd.DataFrame(rows)


def kmeans_table():
    one = {"model": "trained", "metric": "pnmi", "value": 0.5, "low": 0.4, "high": 0.6, "floor": 0.1}
    return pd.DataFrame([{"layer": layer, **one} for layer in (0, 1)])


RESULTS = {
    "abx": lambda **o: us.abx(bank(), label="sentence", by=()).plot(**o),
    "analogies": lambda **o: us.analogies(
        bank(), "sentence", [("0", "1"), ("2", "3")], sites=["hidden.0", "logmel"], draws=2, n_boot=5
    ).plot(**o),
    "attribution": lambda **o: plots.attribution(torch.zeros(1500), torch.ones(4), seconds=SECONDS, **o),
    "code_heat_map": lambda **o: codes().heatmap("speaker", **o),
    "code_usage": lambda **o: codes().plot(**o),
    "comparison": lambda **o: compared().plot(**o),
    "det": lambda **o: us.verify_trials(bank(), 0, n_boot=10).plot("det", **o),
    "differences": lambda **o: compared().plot("differences", **o),
    "direction": lambda **o: us.direction(bank(), "hidden.0", "speaker", "0", "1", groups=None, draws=2).plot(**o),
    "effect_map": lambda **o: swept().heatmap(**o),
    "effects": lambda **o: swept().plot(**o),
    "embedding": lambda **o: us.embed(bank(), "hidden.0", method="pca", n_neighbors=5).plot(**o),
    "kmeans_lens": lambda **o: plots.kmeans_lens(kmeans_table(), **o),
    "layer_similarity": lambda **o: us.layer_similarity(bank()).plot(**o),
    "layer_similarity to one": lambda **o: us.layer_similarity(bank()).plot(to="hidden.1", **o),
    "layer_similarity of two models": lambda **o: us.layer_similarity(bank(), bank(), names=("A", "B")).plot(**o),
    "layer_weights": lambda **o: us.layer_weights(torch.zeros(3), norms()).plot(**o),
    "lens": lambda **o: plots.lens(
        torch.rand(2, 4), torch.zeros(2, 4).long(), seconds=SECONDS, label="entropy (bits)", limits=(0.0, 1.0), **o
    ),
    "lens_layers": lambda **o: plots.lens_layers(lens_table(), **o),
    "probe_curves": lambda **o: probed().plot(**o),
    "rarefaction": lambda **o: codes().rarefaction(**o),
    "subspaces": lambda **o: us.subspaces(bank(), ["hidden.0"], draws=5).plot(**o),
    "trial_scores": lambda **o: us.verify_trials(bank(), 0, n_boot=10).plot("scores", **o),
    "unit_durations": lambda **o: clustered().plot(**o),
    "unit_labels": lambda **o: clustered().plot(np.tile(["a", "b"], 120), **o),
}


def norms():
    table = pd.DataFrame({"id": ["a", "b"]})
    return FeatureBank.from_arrays(table, {f"hidden.{k}": np.ones((2, 1)) for k in range(3)}, {"reduce": "norms"})


@pytest.mark.parametrize("name", RESULTS)
def test_draws_where_told_or_into_a_new_figure_and_names_what_it_draws(name):
    given = Figure().add_subplot()
    assert RESULTS[name](ax=given) is given
    alone = RESULTS[name]()
    assert alone.figure is not given.figure
    assert alone.figure.png().startswith(b"\x89PNG")  # what a notebook shows
    assert alone.get_xlabel()
    assert alone.get_ylabel()
    assert all(bar.get_ylabel() for bar in alone.figure.axes[1:])
    if alone.get_legend() is not None:  # which lies beside the data, never over them
        alone.figure.draw_without_rendering()
        legend, inside = alone.get_legend().get_window_extent(), alone.get_window_extent()
        assert legend.x0 >= inside.x1 or legend.y0 >= inside.y1 - 1


def test_a_result_is_saved_as_two_files(tmp_path):
    report = probed()
    report.save(tmp_path / "report.csv")
    read = pd.read_csv(tmp_path / "report.csv")
    np.testing.assert_allclose(read["value"], report.table()["value"])
    assert '"target": "speaker"' in (tmp_path / "report.json").read_text()
    with pytest.raises(ValueError, match=r"'report.txt' must end in \.csv"):
        report.save(tmp_path / "report.txt")
