"""The mixing widget: what is heard and shown against `unisat.mixing`, and limits that follow the loudness."""

import math

import pytest
import torch
from shown import sounds

from unisat.corpus import Batch
from unisat.mixing import mix_pair
from unisat.widgets import mixing

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


@pytest.fixture(scope="module")
def batch():
    noise = torch.Generator().manual_seed(0)
    waves = [0.4 * (torch.rand(samples, generator=noise) - 0.5) for samples in (32_000, 16_000)]
    return Batch.from_arrays(waves, sampling_rate=16_000, ids=["amy", "bob"])


@pytest.fixture
def view(batch):
    made = mixing(batch)
    assert made.error is None
    return made


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
    begin = {one["label"]: one["start"] for one in view.stage.sounds}
    assert begin == {"the main speaker, 2.0 s": 0.0, "the mixture, 2.0 s": 0.0, "what is mixed in, 0.4 s": 0.5}
    assert "amy with 0.40 s of bob from 0.50 s on, 20% of it, at +3 dB" in view.caption
    torch.testing.assert_close(view.added, (expected - batch.waveforms[0])[8_000:14_400])
    assert view.figure.axes[0].lines[1].get_xdata()[0] == pytest.approx(0.5)
    view.clicked(view.figure.axes[0], 1.0, 0.0)
    assert view.controls["start"].value == 0.5
    view.set(start=0.25)
    assert view.figure.axes[0].get_title() == "two speak from 0.50 to 0.90 s, the main one +3.0 dB"


def test_what_is_asked_for_ends_with_the_clip(view, batch):
    view.set(utterance=1, other=0, start=0.7, share=0.5)
    assert (view.start, view.end) == (11_200, 16_000)
    assert torch.equal(view.mixture, mix_pair(*batch.waveforms[::-1], snr_db=0.0, start=11_200, length=4_800))
    assert "0.30 s of amy from 0.70 s on, 30% of it" in view.caption


def test_there_is_no_third_utterance(batch):
    assert "utterance=0 and other=2 must be among the batch's 2" in mixing(batch, 0, 2).stage.alert


def test_nothing_mixed_in(view, batch):
    view.controls["share"].value = 0.0
    assert view.error is None
    assert torch.equal(view.mixture, batch.waveforms[0])
    assert [one["label"] for one in view.stage.sounds] == ["the main speaker, 2.0 s", "the mixture, 2.0 s"]
    assert band(view)[0] == band(view)[1]


def test_limits_hold_the_loudest_sample(view):
    ax = view.figure.axes[0]
    assert ax.get_ylim() == (-0.5, 0.5)
    view.controls["snr_db"].value = -20.0
    peak = float(view.mixture.abs().max())
    assert peak > 0.5
    assert peak < ax.get_ylim()[1] <= 4 * peak
    assert f"{20 * math.log10(peak):.1f} dB beyond full scale" in view.caption
    heard = sounds(view)["the mixture, quieter, 2.0 s"]
    assert int(abs(heard.astype(int)).max()) == pytest.approx(2**15, abs=2)
    view.controls["utterance"].value = 1
    assert ax.get_xlim() == (0.0, 1.0)
    assert view.stage.scene["axes"][0]["x"]["lim"] == [0.0, 1.0]
