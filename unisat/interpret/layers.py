"""Numbers that describe what the layers hold."""

from __future__ import annotations

import pandas as pd

from unisat.interpret.capture import Trace


def rms_norms(trace: Trace, *, utterance: int = 0) -> pd.DataFrame:
    """Root mean square over the channels of each captured ``hidden.*``: layers as rows, seconds as columns.

    The norm divided by the square root of the number of channels, so that models of different widths compare.
    """
    layers = sorted(int(site.removeprefix("hidden.")) for site in trace.sites if site.startswith("hidden."))
    if not layers:
        raise ValueError(
            f"the trace holds {', '.join(trace.sites) or 'nothing'}, but no hidden states; "
            'capture them with us.run(model, batch, "hidden.*").'
        )
    site = f"hidden.{layers[0]}"
    frames = int(trace.lengths(site)[utterance])
    rows = [trace[f"hidden.{layer}"][utterance, :frames].float().square().mean(-1).sqrt().tolist() for layer in layers]
    seconds = pd.Index(trace.seconds(site)[:frames].tolist(), name="seconds")
    return pd.DataFrame(rows, index=pd.Index(layers, name="layer"), columns=seconds)
