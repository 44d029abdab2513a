"""The hidden states of a trace, frame by frame: their sizes, and how alike they are from layer to layer."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unisat.interpret.activations.capture import Trace
from unisat.interpret.activations.sites import hidden_sites
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.layers.similarity import layer_similarity

MOST = 500
"""Most frames that CKA compares, each with each."""


def hidden_layers(trace: Trace) -> list[int]:
    """Give the numbers of the hidden states that a trace holds, in order.

    Raises
    ------
    ValueError
        If the trace holds none, or a reducer has removed their frames.
    """
    layers = list(hidden_sites(trace.sites))
    if not layers:
        raise ValueError(
            f"the trace holds {', '.join(trace.sites) or 'nothing'}, but no hidden states; "
            'capture them with us.run(model, batch, "hidden.*").'
        )
    shape = tuple(trace[f"hidden.{layers[0]}"].shape)
    if len(shape) != 3:
        raise ValueError(
            f"the trace's hidden states are {shape} instead of (batch, frames, hidden); capture them without reduce."
        )
    return layers


def layer_frames(trace: Trace, utterance: int) -> Float[Tensor, "layers frames hidden"]:
    """Give all captured hidden states of one utterance, without its padding, in float32."""
    layers = hidden_layers(trace)
    frames = int(trace.lengths(f"hidden.{layers[0]}")[utterance])
    return torch.stack([trace[f"hidden.{layer}"][utterance, :frames].detach().float().cpu() for layer in layers])


def rms_norms(trace: Trace, *, utterance: int = 0) -> pd.DataFrame:
    """Root mean square over the channels of each captured ``hidden.*``: layers as rows, seconds as columns.

    This is the norm divided by the square root of the number of channels, so that models of different widths compare.
    """
    layers = hidden_layers(trace)
    site = f"hidden.{layers[0]}"
    frames = int(trace.lengths(site)[utterance])
    rows = [trace[f"hidden.{layer}"][utterance, :frames].float().square().mean(-1).sqrt().tolist() for layer in layers]
    seconds = pd.Index(trace.seconds(site)[:frames].tolist(), name="seconds")
    return pd.DataFrame(rows, index=pd.Index(layers, name="layer"), columns=seconds)


def smallest_and_largest(norms: pd.DataFrame) -> pd.Series:
    """Mean norm over time of the two layers in which it is smallest and largest, in this order, by layer."""
    means = norms.mean(axis=1)
    return means[[means.idxmin(), means.idxmax()]]


def state_summary(state: Float[Tensor, "frames hidden"], norms: pd.Series) -> dict[str, float]:
    """Numbers that describe one hidden state of one utterance.

    Parameters
    ----------
    state : (frames, hidden)
    norms : Series
        Its row of `rms_norms`, by seconds.

    Returns
    -------
    dict
        Of the norm over time: ``mean``, ``least``, ``most``, and ``most_at``, where that is in seconds. Of the RMS of
        each channel over time: ``channel``, the number of the largest, ``channel_rms``, its RMS, and ``median_rms``.
        ``not_finite`` counts the values that are not finite.
    """
    channels = state.square().mean(0).sqrt()
    return {
        "mean": float(norms.mean()),
        "least": float(norms.min()),
        "most": float(norms.max()),
        "most_at": float(norms.idxmax()),
        "channel": int(channels.argmax()),
        "channel_rms": float(channels.max()),
        "median_rms": float(channels.median()),
        "not_finite": int((~torch.isfinite(state)).sum()),
    }


def frame_cosines(states: Float[Tensor, "layers frames hidden"]) -> Float[Tensor, "layers layers"]:
    """Measure the cosine of a frame's vectors in two layers, and give its mean over frames.

    It is near 1 where layers add little to what passes through them, and also where all frames point in one direction.
    """
    unit = states / states.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return (torch.einsum("kth,lth->kl", unit, unit) / states.shape[1]).clamp(-1, 1)


def frame_cka(trace: Trace) -> Float[Tensor, "layers layers"]:
    """Measure debiased CKA (`unisat.layer_similarity`) over at most `MOST` frames, taken evenly from all utterances.

    CKA is high where two layers find the same frames alike, and a direction that all frames share does not count.
    Frames 20 ms apart are not independent, so that it reads high: compare layers with one another, and take
    `us.collect` for a number to report.
    """
    sites = [f"hidden.{layer}" for layer in hidden_layers(trace)]
    states = torch.cat([layer_frames(trace, utterance) for utterance in range(len(trace.ids))], dim=1)
    rows = torch.linspace(0, states.shape[1] - 1, min(MOST, states.shape[1])).round().long()
    table = pd.DataFrame({"id": [str(row) for row in rows.tolist()]})
    bank = FeatureBank.from_arrays(table, dict(zip(sites, states[:, rows], strict=True)))
    return torch.from_numpy(layer_similarity(bank, blocks=0).values).float().clamp(-1, 1)
