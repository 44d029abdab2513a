"""The mixing widget against `unisat.mixing`."""

import pytest
import torch

import unisat
from unisat import widgets
from unisat.corpus import Batch

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
