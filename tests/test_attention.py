"""Numbers that describe attention patterns, against hand computation and loops."""

import pytest
import torch
from widget_cases import trace

from unisat.interpret.activations.attention import every_head, head_measures, layer_patterns, measures, pattern_layers

SITES = ("block.1.attn.pattern", "hidden.1", "block.0.attn.pattern")


def test_measures_by_hand():
    seconds = torch.arange(8) * 0.02
    uniform = torch.full((8, 8), 1 / 8)
    found = measures(uniform, seconds)
    gaps = [abs(query - key) for query in range(8) for key in range(8)]
    assert found["distance_ms"] == pytest.approx(20 * sum(gaps) / 64)
    assert found["entropy_bits"] == pytest.approx(3)
    assert found["near_share"] == pytest.approx(sum(gap <= 3 for gap in gaps) / 64)
    assert found["inside"] == pytest.approx(1)
    itself = measures(torch.eye(8), seconds)
    assert itself == {"distance_ms": 0, "entropy_bits": 0, "near_share": 1, "inside": 1}


def test_measures_of_a_part_are_scaled_and_say_what_is_outside():
    seconds = torch.arange(8) * 0.02
    part = measures(torch.full((8, 8), 1 / 8)[:2, :2], seconds[:2])
    assert part["inside"] == pytest.approx(0.25)
    assert part["entropy_bits"] == pytest.approx(1)
    assert part["distance_ms"] == pytest.approx(10)
    nothing = measures(torch.zeros(2, 2), seconds[:2])
    assert nothing == {"distance_ms": 0, "entropy_bits": 0, "near_share": 0, "inside": 0}


def test_measures_of_all_heads_are_those_of_each():
    run = trace(*SITES)
    heads, seconds = run["block.1.attn.pattern"][0, :, :20, :20], run.seconds("block.1.attn.pattern")[:20]
    found = head_measures(heads, seconds)
    for head in range(2):
        one = measures(heads[head], seconds)
        assert float(found["distance_ms"][head]) == pytest.approx(one["distance_ms"], rel=1e-5)
        assert float(found["entropy_bits"][head]) == pytest.approx(one["entropy_bits"], rel=1e-5)


def test_every_head_is_measured_over_the_whole_utterance():
    run = trace(*SITES)
    assert pattern_layers(run) == [0, 1]
    for utterance, frames in enumerate(run.lengths("block.0.attn.pattern").tolist()):
        table = every_head(run, utterance)
        assert table.index.tolist() == [(layer, head) for layer in (0, 1) for head in range(2)]
        for (layer, head), found in table.iterrows():
            pattern = run[f"block.{layer}.attn.pattern"][utterance, head, :frames, :frames]
            one = measures(pattern, run.seconds("block.0.attn.pattern")[:frames])
            assert found.to_dict() == pytest.approx({name: one[name] for name in found.index}, rel=1e-5)


def test_patterns_of_a_part_and_their_mean():
    run = trace(*SITES)
    heads, mean = layer_patterns(run, 1, 1, slice(5, 15))
    torch.testing.assert_close(heads, run["block.1.attn.pattern"][1][:, 5:15, 5:15])
    torch.testing.assert_close(mean, (heads[0] + heads[1]) / 2)


def test_a_trace_without_patterns_says_how_to_capture_them():
    with pytest.raises(ValueError, match=r'holds hidden.1, but no .*us.run\(model, batch, "block.\*.attn.pattern"\)'):
        pattern_layers(trace("hidden.1"))
