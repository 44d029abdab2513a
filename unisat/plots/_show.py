"""How a notebook shows pictures and sounds, each with words for who cannot see or hear it, and grades bets."""

from __future__ import annotations

import base64
import io
import math
import wave
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image
from torch import Tensor

from unisat.frames import SAMPLE_RATE


def data_uri(kind: str, content: bytes) -> str:
    """Data URI of some content, which needs no file and no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def fewer_colours(png: bytes) -> bytes:
    """Write a PNG file again with 256 colours of its own, which are enough for a plot and take a third of the bytes."""
    file = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # the default method loses the colours of thin lines
    image.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(file, format="png", optimize=True)
    return file.getvalue()


def wav(samples: Float[Tensor, " samples"]) -> bytes:
    """Bytes of a 16-bit WAV file at 16 kHz, exactly as loud as ``samples`` and clipped at full scale."""
    integers = np.rint(samples.detach().cpu().numpy() * 2.0**15).clip(-(2**15), 2**15 - 1)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(integers.astype("<i2").tobytes())
    return file.getvalue()


def describe(figure: Figure) -> str:
    """Describe a figure in words: for each of its axes the title, what is drawn, and the range of both axes."""
    bars = {id(bar.ax) for ax in figure.axes for bar in [_colour_bar(ax)] if bar is not None}
    return " ".join(_words(ax) for ax in figure.axes if id(ax) not in bars)


def _colour_bar(ax: Axes) -> Any:
    drawn = [*ax.images, *ax.collections]
    return next((one.colorbar for one in drawn if getattr(one, "colorbar", None) is not None), None)


def _words(ax: Axes) -> str:
    bar = _colour_bar(ax)
    names = [str(line.get_label()) for line in ax.lines if not str(line.get_label()).startswith("_")]
    drawn = [f"colours: {bar.ax.get_ylabel() or bar.ax.get_xlabel()}"] if bar is not None else []
    drawn += [f"lines: {', '.join(names)}"] if names else []
    for name in "xy":
        label = getattr(ax, f"get_{name}label")()
        low, high = sorted(getattr(ax, f"get_{name}lim")())
        ticks = [one.get_text() for one in getattr(ax, f"get_{name}ticklabels")()]
        worded = ticks and not any(character.isdigit() for character in "".join(ticks))
        drawn.append(f"{label or name}: {', '.join(ticks) if worded else f'{_short(low)} to {_short(high)}'}")
    words = f"{(ax.get_title() or 'Picture').rstrip('.')}; {'; '.join(drawn)}."
    return words.replace(r"\$", "$")  # see `literal`


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


class CellFigure(Figure):
    """A matplotlib figure that a notebook shows at the end of a cell, whether or not pyplot was imported.

    It is shown with words: those given to `say`, or else those of `describe`.
    """

    caption = ""

    def png(self) -> bytes:
        """Draw the figure as a PNG file."""
        drawn = io.BytesIO()
        self.savefig(drawn, format="png")
        return fewer_colours(drawn.getvalue())

    def _ipython_display_(self) -> None:
        from IPython.display import display  # IPython calls this method, so it is installed

        # the whole bundle, because after an import of pyplot matplotlib adds a picture without words to it
        display(self._repr_mimebundle_(), raw=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        # JupyterLab gives a bare image/png no alternative text, even if its metadata have one
        source = data_uri("image/png", self.png())
        words = escape(self.caption or describe(self))
        width = self.get_size_inches()[0] * self.dpi
        picture = f'<img width="{width:.0f}" style="max-width: 100%; height: auto" alt="{words}" src="{source}">'
        caption = f"<figcaption>{words}</figcaption>" if self.caption else ""
        return {
            "text/html": f'<figure style="margin: 0">{picture}{caption}</figure>',
            "text/plain": self.caption or describe(self),
        }


def say(ax: Axes, sentence: str) -> Figure | SubFigure:
    """Give a picture a sentence as its caption and its alternative text; return the figure, which a cell then shows."""
    figure = ax.figure
    if not isinstance(figure, CellFigure):
        raise ValueError(
            f"a {type(figure).__name__} cannot hold a sentence; draw into unisat's own axes, us.plots.axes()."
        )
    if not sentence.strip():
        raise ValueError("the sentence is empty; say what the picture shows, with its numbers.")
    figure.caption = sentence
    return figure


def player(name: str, samples: Float[Tensor, " samples"]) -> str:
    """HTML of an audio player with its name beside it; it never starts by itself."""
    label = escape(f"{name}, {len(samples) / SAMPLE_RATE:.1f} s")
    sound = f'<audio controls aria-label="{label}" src="{data_uri("audio/wav", wav(samples))}"></audio>'
    return f'<div style="display: flex; align-items: center; gap: 1em">{sound} {label}</div>'


def loudness(samples: Float[Tensor, " samples"]) -> str:
    """Peak and root mean square of a sound, in words."""
    return f"peak {samples.abs().max():.2f}, RMS {samples.square().mean().sqrt():.3f}"


@dataclass(frozen=True)
class Player:
    """A sound that a notebook plays at the end of a cell; made by `listen`."""

    samples: Float[Tensor, " samples"]
    name: str

    def __repr__(self) -> str:
        return f"{self.name}, {len(self.samples) / SAMPLE_RATE:.1f} s, {loudness(self.samples)}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/html": player(self.name, self.samples), "text/plain": repr(self)}


def listen(samples: Float[Tensor, " samples"], name: str) -> Player:
    """Play 16 kHz ``samples`` in a notebook, exactly as loud as they are, under a name.

    Parameters
    ----------
    samples : (samples,)
        Full scale is 1; larger values are clipped.
    name : str
        What is heard. It stands beside the player, and a screen reader reads it aloud.
    """
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"samples must be (samples,) with something to play, got {tuple(samples.shape)}.")
    if not samples.is_floating_point() or not samples.isfinite().all():
        raise ValueError(
            f"samples must be finite numbers with full scale 1, got {samples.dtype}; divide integers first."
        )
    return Player(samples.detach().float().cpu(), name)


def grade(bet: float | str, found: float | str, digits: int = 2) -> str:
    """Say how far a bet was from what was found.

    Parameters
    ----------
    bet : float or str
        What the reader expected, a number or a word.
    found : float or str
        What was measured.
    digits : int
        Digits behind the point, of all numbers.

    Raises
    ------
    ValueError
        If one is a number and the other a word, or a number is not finite.
    """
    if isinstance(bet, str) and isinstance(found, str):
        return f"You bet {bet}, and so it is." if bet == found else f"You bet {bet}. It is {found}."
    if isinstance(bet, str) or isinstance(found, str) or not (math.isfinite(bet) and math.isfinite(found)):
        raise ValueError(f"bet={bet!r} cannot be held against {found!r}; both must be finite numbers, or both words.")
    away = round(float(bet) - float(found), digits)
    verdict = f"{abs(away):.{digits}f} too {'high' if away > 0 else 'low'}" if away else "right"
    return f"You bet {bet:.{digits}f}. It is {found:.{digits}f}: {verdict}."
