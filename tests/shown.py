"""What a widget shows and plays, read back from its stage without a browser."""

import io

import soundfile


def decoded(content):
    """Samples of a WAV file as 16-bit integers."""
    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 16_000
    return samples


def sounds(view):
    """What a widget plays: 16-bit samples by the label on the page."""
    return {sound["label"]: decoded(sound["wav"]) for sound in view.stage.sounds}
