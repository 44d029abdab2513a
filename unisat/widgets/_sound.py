"""Bring a recording of one's own, and see what every layer makes of it."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from unisat.audio import load
from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, receptive_field
from unisat.interpret.activations.capture import run
from unisat.interpret.layers.over_time import rms_norms, smallest_and_largest
from unisat.plots._layers import norms
from unisat.plots._show import loudness
from unisat.plots._sound import waveform
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.widgets._picture import Look, Picture, content, new_figure, upload

LONGEST = 60.0
"""Seconds of the longest recording that is run: attention takes time and memory with the square of it."""


class RecordingView(Picture):
    """A file or a voice that the reader gave, run through a model; made by `recording`."""

    maker = "recording"

    def __init__(self, model: UniSpeechSatPreTrainedModel) -> None:
        self.model = model
        super().__init__(upload("recording", "an audio file, up to a minute"))
        self.first()

    def look(self, recording: dict[str, Any] | None) -> Look:
        """Run what was uploaded."""
        if recording is None:
            return Look(caption="Choose an audio file to see its waveform and the norm of every layer.")
        return self._run(*content(recording))

    def load(self, content: bytes, name: str = "recording") -> None:
        """Show a recording given as the bytes of an audio file, as if it had been uploaded."""
        self.show(lambda: self._run(content, name))

    def _run(self, content: bytes, name: str) -> Look:
        samples = checked(load(content, name=name), name, self.model.config)
        batch = Batch.from_arrays(samples, sampling_rate=SAMPLE_RATE, ids=[name])
        _, trace = run(self.model, batch, "hidden.*")
        table = rms_norms(trace)
        figure = new_figure(8.0, 5.0)
        above, below = figure.subplots(2, height_ratios=(2, 3), sharex=True)
        waveform(samples, ax=above).set(xlabel="")
        above.set_title(name, parse_math=False)
        norms(table, ax=below)
        self.figure = figure
        self.timed(above, below)
        (least, low), (most, high) = smallest_and_largest(table).items()
        caption = (
            f"{name}: {len(samples) / SAMPLE_RATE:.1f} s, {table.shape[1]} frames, {loudness(samples)}; the norm is "
            f"smallest in layer {least} ({low:.2f}) and largest in layer {most} ({high:.2f})."
        )
        return Look(caption=caption, sounds={name: samples})


def checked(samples: Float[Tensor, " samples"], name: str, config: UniSpeechSatConfig) -> Float[Tensor, " samples"]:
    """Give ``samples`` back if a model can hear them: one frame or more, and not so much that it takes the memory."""
    seconds, least = len(samples) / SAMPLE_RATE, receptive_field(config.conv_kernel, config.conv_stride)
    if seconds > LONGEST:
        raise ValueError(f"{name} is {seconds:.0f} s long; cut it to {LONGEST:.0f} s or less.")
    if len(samples) < least:
        raise ValueError(f"{name} has {len(samples)} samples, one frame needs {least}; choose a longer one.")
    return samples


def recording(model: UniSpeechSatPreTrainedModel) -> RecordingView:
    """Upload a recording, and see its waveform and the norm of every hidden state over time.

    Anything that is not audio, or is longer than a minute, is answered with a sentence in the widget.
    ``.load(content, name)`` does the same with the bytes of a file. The recording stays in the kernel.
    """
    return RecordingView(model)
