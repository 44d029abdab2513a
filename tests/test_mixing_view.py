"""The mixing widget: what is heard and shown against `unisat.mixing`, and limits that follow the loudness."""

import pytest
import torch

import unisat
from unisat import widgets
from unisat.corpus import Batch
from unisat.mixing import mix_pair
from unisat.widgets import mixing

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


def clips(*ids):
    """Utterances of 51 and 99 frames."""
    noise = torch.Generator().manual_seed(0)
    waveforms = [torch.rand(samples, generator=noise) - 0.5 for samples in (16_480, 32_000)]
    return Batch.from_arrays(waveforms[: len(ids)], sampling_rate=16_000, ids=list(ids))


def test_mixing_is_what_its_controls_say():
    batch = clips("amy <1>", "bob")
    widget = widgets.mixing(batch)
    assert (widget.start, widget.end) == (round(0.4 * 16_480), round(0.4 * 16_480) + round(0.4 * 16_480))
    for name, value in {"snr_db": 7.0, "share": 0.25, "start": 0.7, "utterance": 1, "other": 0}.items():
        before = widget.png, widget.mixture
        widget.controls[name].value = value
        assert widget.error is None
        assert widget.png != before[0]
        assert not torch.equal(widget.mixture, before[1])
    main, other = batch.waveforms[1], batch.waveforms[0]
    assert widget.start == round(0.7 * 32_000)
    expected = unisat.mixing.mix_pair(main, other, snr_db=7.0, start=widget.start, length=8000)
    assert torch.equal(widget.mixture, expected)
    assert "0.50 s of amy <1> from 1.40 s on, 25% of it, at +7 dB" in widget.sentence
    widget.controls["share"].value = 0.5
    assert widget.end == 32_000  # half of the clip is asked for, but it ends before
    widget.controls["share"].value = 0.0
    assert torch.equal(widget.mixture, main)
    assert "mixing needs two utterances, the batch has 1" in widgets.mixing(clips("amy")).stage.alert
    assert "other=2 must be among the batch's 2" in widgets.mixing(batch, other=2).stage.alert


@pytest.fixture
def batch():
    noise = torch.Generator().manual_seed(0)
    waves = [0.4 * (torch.rand(samples, generator=noise) - 0.5) for samples in (32_000, 16_000)]
    return Batch.from_arrays(waves, sampling_rate=16_000, ids=["amy", "bob"])


@pytest.fixture
def view(batch):
    made = mixing(batch)
    yield made
    made.close()


def band(view):
    """Seconds between which the picture says that two speak."""
    box = view.figure.axes[0].patches[0]
    return box.get_x(), box.get_x() + box.get_width()


def test_mixture_band_and_sounds_follow_the_controls(view, batch):
    view.set(snr_db=3.0, start=0.25, share=0.2)
    expected = mix_pair(batch.waveforms[0], batch.waveforms[1], snr_db=3.0, start=8_000, length=6_400)
    torch.testing.assert_close(view.mixture, expected)
    assert band(view) == pytest.approx((0.5, 0.9))
    line = view.figure.axes[0].lines[0]
    assert line.get_ydata().max() == pytest.approx(float(expected.max()))
    sounds = {one["label"]: one["start"] for one in view.stage.sounds}
    assert sounds == {"the main speaker, 2.0 s": 0.0, "the mixture, 2.0 s": 0.0, "what is mixed in, 0.4 s": 0.5}
    assert "amy with 0.40 s of bob from 0.50 s on, 20% of it, at +3 dB" in view.sentence
    assert view.figure.axes[0].get_title() == "two speak from 0.50 to 0.90 s, the main one +3.0 dB"


def test_nothing_mixed_in(view, batch):
    view.controls["share"].value = 0.0
    assert view.error is None
    assert torch.equal(view.mixture, batch.waveforms[0])
    assert [one["label"] for one in view.stage.sounds] == ["the main speaker, 2.0 s", "the mixture, 2.0 s"]
    assert band(view)[0] == band(view)[1]


@pytest.mark.parametrize(("name", "value"), [("utterance", 1), ("other", 0), ("snr_db", -9.0), ("start", 0.1)])
def test_every_control_changes_the_picture(view, name, value):
    before = view.png
    view.controls[name].value = value
    assert view.error is None
    assert view.png != before


def test_limits_hold_the_loudest_sample(view):
    ax = view.figure.axes[0]
    assert ax.get_ylim() == (-0.5, 0.5)
    view.controls["snr_db"].value = -20.0
    peak = float(view.mixture.abs().max())
    assert peak > 0.5
    assert peak < ax.get_ylim()[1] <= 4 * peak
    view.controls["utterance"].value = 1
    assert ax.get_xlim() == (0.0, 1.0)
    assert view.stage.cursors[0]["t1"] == 1.0


def test_mistakes_are_answered(batch):
    for made, words in {mixing(batch[0]): "needs two utterances", mixing(batch, 0, 2): "among the batch's 2"}.items():
        assert words in str(made.error)
        assert words in made.stage.alert
        made.close()
