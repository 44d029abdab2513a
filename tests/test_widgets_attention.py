"""The attention widget: what each control shows, on patterns of known shape and on a real run."""

import math
import time

import numpy as np
import pytest
import torch
from shown import sounds
from widget_cases import noise, trace

import unisat
from unisat import widgets
from unisat.frames import frame_seconds
from unisat.interpret.activations.attention import measures

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


FRONT = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class Patterns(unisat.interpret.Trace):
    """Stands for a trace of two blocks with three heads; of the padded frames, utterance 1 has 30 valid ones."""

    ids = ("amy", "bob")
    sites = ("block.10.attn.pattern", "hidden.1", "block.2.attn.pattern")

    def __init__(self, frames=50, valid=30):
        draw = torch.Generator().manual_seed(1)
        self.valid = torch.tensor([frames, valid])
        self.patterns = {site: torch.rand(2, 3, frames, frames, generator=draw).softmax(-1) for site in self.sites[::2]}
        self.patterns["hidden.1"] = torch.zeros(2, frames, 4)
        self._sites = dict.fromkeys(self.sites)

    def __getitem__(self, site):
        return self.patterns[site]

    def lengths(self, site):
        return self.valid

    def seconds(self, site):
        frames = int(self.valid.max())
        return frame_seconds(frames, *FRONT)


@pytest.fixture
def attention_widget():
    return widgets.attention(Patterns(), utterance=1)


def test_attention_starts_with_the_mean_of_the_first_layer(attention_widget):
    assert [name for name, _ in attention_widget.controls["layer"].options] == ["2", "10"]
    expected = Patterns()["block.2.attn.pattern"][1, :, :30, :30].mean(0)  # 30 valid frames
    torch.testing.assert_close(attention_widget.pattern, expected)
    image = attention_widget.figure.axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), expected)


def test_ten_seconds_of_attention_are_a_small_picture():
    wave = torch.cat(unisat.corpus.builtin().batch(slice(4)).waveforms)[:160_000]
    _, trace = unisat.run(unisat.load("tiny"), wave, "block.3.attn.pattern", sampling_rate=16_000)
    view = widgets.attention(trace)
    assert view.pattern.shape == (499, 499)
    view.controls["head"].value = 0
    # twelve heads of a layer as data in a page would be 68 MB in other tools; here each is a picture
    assert 12 * len(view.png) <= 3e6
    view.close()


def test_each_attention_control_does_what_it_says(attention_widget):
    attention_widget.controls["layer"].value = 10
    attention_widget.controls["head"].value = 2
    patterns = Patterns()["block.10.attn.pattern"][1, 2, :30, :30]
    torch.testing.assert_close(attention_widget.pattern, patterns)
    image = attention_widget.figure.axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), patterns)
    assert image.get_clim() == (0, pytest.approx(patterns.max().item()))
    assert attention_widget.figure.axes[0].get_title() == "layer 10, head 2"
    # frames whose centres, 12.5 ms + 20 ms * t, lie between 100 and 300 ms: 5 to 14
    attention_widget.controls["seconds"].value = (0.1, 0.3)
    torch.testing.assert_close(attention_widget.pattern, patterns[5:15, 5:15])
    ax = attention_widget.figure.axes[0]
    assert ax.get_xlim() == (pytest.approx(0.1025), pytest.approx(0.3025))
    assert ax.get_ylim() == (pytest.approx(0.3025), pytest.approx(0.1025))  # the first query is at the top
    # row 0 lies at the third number (tests/test_scene.py looks at the pixels)
    assert list(image.get_extent()) == [*ax.get_xlim(), *ax.get_xlim()]


def test_attention_sentence_is_computed_from_what_is_shown(attention_widget):
    whole = measures(attention_widget.pattern, attention_widget.seconds[:30])
    assert attention_widget.caption == (
        "bob, 0.00–0.60 s, layer 2, mean of all heads: a frame looks "
        f"{whole['distance_ms']:.0f} ms away on average, with an entropy of {whole['entropy_bits']:.1f} bits "
        f"(at most {math.log2(30):.1f}) and {whole['near_share']:.0%} of its weight within 3 frames of itself. "
        f"{1 - whole['inside']:.0%} of the weight goes elsewhere and is left out. "
        f"The frame at 0.29 s looks most at {0.0125 + 0.02 * int(attention_widget.pattern[14].argmax()):.2f} s, with "
        f"{float(attention_widget.pattern[14].max()):.1%} of its weight."
    )
    attention_widget.controls["seconds"].value = (0.0, 0.2)
    part = measures(attention_widget.pattern, attention_widget.seconds[:10])  # frames up to 200 ms
    assert f"{part['distance_ms']:.0f} ms away" in attention_widget.caption
    assert f"{1 - part['inside']:.0%} of the weight" in attention_widget.caption


def test_attention_plays_the_part_shown():
    widget = widgets.attention(trace("block.*.attn.pattern"), noise())
    assert len(widget.controls["layer"].options) == 3
    torch.testing.assert_close(widget.pattern.sum(-1), torch.ones(148))
    assert "goes elsewhere" not in widget.caption
    widget.controls["seconds"].value = (0.1, 0.5)
    heard, read = sounds(widget).values()
    samples = noise().waveforms[0][1600:8000]
    np.testing.assert_array_equal(heard, (samples * 2**15).round())
    assert [one["start"] for one in widget.stage.sounds] == [0.1, 0.1]  # where the line that follows it begins
    times = trace("block.0.attn.pattern").seconds("block.0.attn.pattern")
    times = times[(times >= 0.1) & (times <= 0.5)]
    place = int(widget.row.argmax())
    loudest = round(16_000 * (float(times[place]) - 0.1))
    assert read[loudest] == pytest.approx(heard[loudest], abs=1 + 0.02 * abs(float(heard[loudest])))
    assert (np.abs(read) <= np.abs(heard) + 1).all()
    least = int(widget.row.argmin())
    at = round(16_000 * (float(times[least]) - 0.1))
    share = float(widget.row[least] / widget.row.max())
    assert read[at] == pytest.approx(share * heard[at], abs=1 + 0.03 * abs(float(heard[at])))


def test_one_query_is_read_over_the_waveform(attention_widget):
    view = attention_widget
    view.clicked(view.large, 0.1, 0.2)  # the query is at y
    torch.testing.assert_close(view.row, view.pattern[9])  # 0.1925 s
    np.testing.assert_allclose(view.read.lines[1].get_ydata(), view.pattern[9])
    assert view.line.get_ydata() == view.read.lines[2].get_xdata() == [pytest.approx(0.1925)] * 2
    view.clicked(view.read, 0.4, 0.0)  # here it is at x
    torch.testing.assert_close(view.row, view.pattern[19])
    view.controls["seconds"].value = (0.0, 0.2)  # the query lies beyond: the last frame asks
    torch.testing.assert_close(view.row, view.pattern[-1])


def test_small_maps_are_sorted(attention_widget):
    view = attention_widget
    view.controls["layer"].value = 10
    heads = Patterns()["block.10.attn.pattern"][1, :, :30, :30]
    for order, measure in (("distance", "distance_ms"), ("entropy", "entropy_bits")):
        view.controls["order"].value = order
        found = [measures(head, view.seconds[:30])[measure] for head in heads]
        numbers = np.argsort(found).tolist()
        assert [int(ax.get_title().partition(":")[0]) for ax in view.small] == numbers
        np.testing.assert_allclose(np.asarray(view.small[0].images[0].get_array()), heads[numbers[0]])
        view.controls["head"].value = -1
        view.clicked(view.small[2], 5.0, 5.0)
        assert view.controls["head"].value == numbers[2]
        assert [frame.get_visible() for frame in view.frames] == [False, False, True]


def test_all_heads_at_a_glance(attention_widget):
    attention_widget.controls["layer"].value = 10
    heads = Patterns()["block.10.attn.pattern"][1, :, :30, :30]
    for head, ax in enumerate(attention_widget.small):
        np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), heads[head])
        found = measures(heads[head], attention_widget.seconds[:30])
        assert ax.get_title() == f"{head}: {found['distance_ms']:.0f} / {found['entropy_bits']:.1f}"
    assert not any(frame.get_visible() for frame in attention_widget.frames)
    attention_widget.clicked(attention_widget.small[2], 5.0, 5.0)
    assert attention_widget.controls["head"].value == 2
    assert [frame.get_visible() for frame in attention_widget.frames] == [False, False, True]
    attention_widget.clicked(attention_widget.large, 0.1, 0.1)  # chooses a query, no head
    assert attention_widget.controls["head"].value == 2
    attention_widget.clicked(attention_widget.small[2], 5.0, 5.0)  # once more: the mean of all
    assert attention_widget.controls["head"].value == -1
    torch.testing.assert_close(attention_widget.pattern, heads.mean(0))


def test_a_table_has_every_layer_and_head_of_the_whole_utterance(attention_widget):
    attention_widget.controls["seconds"].value = (0.1, 0.3)  # the table is of all of it
    for utterance, frames in [(1, 30), (0, 50)]:
        attention_widget.controls["utterance"].value = utterance
        assert attention_widget.table.index.tolist() == [(layer, head) for layer in (2, 10) for head in range(3)]
        for (layer, head), found in attention_widget.table.iterrows():
            pattern = Patterns()[f"block.{layer}.attn.pattern"][utterance, head, :frames, :frames]
            one = measures(pattern, attention_widget.seconds[:frames])
            assert found.to_dict() == pytest.approx({name: one[name] for name in found.index}, rel=1e-5)
            assert f"<td>{one['distance_ms']:.0f} / {one['entropy_bits']:.1f}</td>" in attention_widget.stage.extra


def test_the_table_stays_as_the_reader_left_it(attention_widget):
    before, measured = attention_widget.stage.extra, attention_widget.table
    for name, value in {"layer": 10, "head": 1, "seconds": (0.1, 0.3)}.items():
        attention_widget.controls[name].value = value
    assert attention_widget.stage.extra == before  # text that is the same is not sent, and stays unfolded
    assert attention_widget.table is measured


def test_another_utterance_has_its_own_length(attention_widget):
    attention_widget.controls["utterance"].value = 0
    torch.testing.assert_close(attention_widget.pattern, Patterns()["block.2.attn.pattern"][0].mean(0))
    assert attention_widget.caption.startswith("amy, 0.00–1.00 s")
    assert attention_widget.large.get_xlim() == (pytest.approx(0.0025), pytest.approx(1.0025))
    attention_widget.controls["seconds"].value = (0.7, 1.0)
    attention_widget.controls["utterance"].value = 1  # which is over by then: all of it is shown
    assert attention_widget.caption.startswith("bob, 0.00–0.60 s")
    part = attention_widget.controls["seconds"]
    assert (part.max, part.value) == (0.6, (0.0, 0.6))  # no way to the padding
    part.value = (0.2, 0.4)
    attention_widget.controls["utterance"].value = 0  # a part of it remains that part
    assert (part.max, part.value) == (1.0, (0.2, 0.4))
    assert attention_widget.caption.startswith("amy, 0.20–0.40 s")


def test_there_is_no_third_utterance():
    assert "utterance=2 is not one of the trace's 2" in widgets.attention(Patterns(), utterance=2).stage.alert


def test_long_patterns_are_shown_as_means_over_cells():
    view = widgets.attention(Patterns(frames=500, valid=400))
    assert view.large.images[0].get_array().shape == (360, 360)
    assert "mean over cells of 1.4 frames" in view.large.get_title()


def test_attention_over_500_frames_is_fast():
    widget = widgets.attention(Patterns(frames=500, valid=400))
    started = time.perf_counter()
    for head in range(3):
        widget.controls["head"].value = head
    assert (time.perf_counter() - started) / 3 < 1.0  # 0.05 s where nothing else runs
    assert widget.pattern.shape == (500, 500)
