"""What several widgets share: a menu of utterances, and checks of what belongs together."""

from __future__ import annotations

from collections.abc import Sequence

from ipywidgets import Dropdown

from unisat.corpus import Batch
from unisat.frames import stack_length
from unisat.interpret.activations.capture import Trace
from unisat.widgets._picture import control


def utterance_menu(ids: Sequence[str], tooltip: str, value: int = 0, *, name: str = "utterance") -> Dropdown:
    """Make a menu of utterances by number and id; it is hidden if there is only one utterance."""
    menu = control(Dropdown, name, tooltip, options=[(f"{row}: {one}", row) for row, one in enumerate(ids)])
    menu.value = value
    if len(ids) == 1:
        menu.layout.display = "none"
    return menu


def check_utterance(utterance: int, ids: Sequence[str], whose: str) -> None:
    """Refuse the number of an utterance that is not there; ``whose`` is ``"batch"`` or ``"trace"``."""
    if not 0 <= utterance < len(ids):
        raise ValueError(f"utterance={utterance} is not one of the {whose}'s {len(ids)}, counted from 0.")


def check_batch(trace: Trace, site: str, batch: Batch) -> None:
    """Refuse a batch whose utterances have other lengths than those of a trace."""
    front = trace.config.conv_kernel, trace.config.conv_stride
    frames, seen = [stack_length(len(one), *front) for one in batch.waveforms], trace.lengths(site).tolist()
    if frames != seen:
        raise ValueError(
            f"the trace saw utterances of {seen} frames, the batch has {frames}; give the batch that was run."
        )
