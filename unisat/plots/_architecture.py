"""The whole model in one drawing: each part with its name and sizes, and the parts in question lit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from unisat.config import UniSpeechSatConfig, nearest
from unisat.frames import SAMPLE_RATE, hop
from unisat.plots._show import data_uri

WIDTH, HEIGHT = 980, 380
MIDDLE = 110  # the height at which sound goes from left to right
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #1a1a1a; text-anchor: middle }
.name { font: 9.5px ui-monospace, monospace; fill: #555 }
.part { fill: #f1f3f5; stroke: #868e96 }
.line { fill: none; stroke: #868e96; stroke-width: 1.3 }
.hidden { fill: #343a40 }
.lit .part { fill: #ffe3a8; stroke: #b45f06; stroke-width: 2 }
.lit .line { stroke: #b45f06 }
.lit .name { fill: #8a4500; font-weight: bold }
.branch { fill: none; stroke: #0072b2; stroke-width: 1.6 }
.marked { fill: #0072b2; font-weight: bold; stroke: #fff; stroke-width: 4px; paint-order: stroke }
"""
ARROW_HEAD = """<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
orient="auto"><path d="M0 0L8 4L0 8z" fill="context-stroke"/></marker></defs>"""


@dataclass(frozen=True)
class Drawing:
    """A drawing that a notebook shows at the end of a cell.

    ``svg`` has a light ground of its own, so it can be read on a dark page too; ``words`` are for who cannot see it.
    ``titles`` are what a page says of the part under the pointer, and where: left, top, width and height.
    """

    svg: str
    words: str
    titles: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def __repr__(self) -> str:
        return self.words

    def _repr_html_(self) -> str:
        # an image, because JupyterLab and GitHub take <svg> out of outputs that they do not trust; a page does not look
        # for the titles in an image, so they lie over it
        source = data_uri("image/svg+xml", self.svg.encode())
        style = "display: block; max-width: 100%; height: auto"
        image = f'<img width="{WIDTH}" style="{style}" alt="{escape(self.words)}" src="{source}"/>'
        titles = "".join(_over(title, *at) for title, at in self.titles)
        return f'<div style="position: relative; max-width: {WIDTH}px">{image}{titles}</div>'


def _over(title: str, left: float, top: float, width: float, height: float) -> str:
    sides = {"left": left / WIDTH, "top": top / HEIGHT, "width": width / WIDTH, "height": height / HEIGHT}
    places = "; ".join(f"{side}: {share:.2%}" for side, share in sides.items())
    return f'<span title="{escape(title)}" style="position: absolute; {places}"></span>'


class _Canvas:
    """Pieces of SVG, and the names of the parts that they show; some parts are asked to be lit."""

    def __init__(self, asked: tuple[str, ...]) -> None:
        self.asked, self.names = asked, list[str]()
        self.titles: list[tuple[str, tuple[float, ...]]] = []
        self.pieces = [f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>']

    def part(self, name: str, meaning: str, at: tuple[float, ...], *drawn: str) -> None:
        """Add a part with a title, ``at`` its left, top, width and height; lit if it or what holds it is asked for."""
        self.names.append(name)
        self.titles.append((f"{name}: {meaning}", at))
        lit = "lit" if any(f"{name}.".startswith(f"{one}.") for one in self.asked) else ""
        title = f"<title>{escape(f'{name}: {meaning}')}</title>"
        self.pieces.append(f'<g id="{name}" class="{lit}">{title}{"".join(drawn)}</g>')

    def box(self, name: str, meaning: str, at: tuple[float, ...], *lines: str, below: int = 14) -> None:
        """Add a part as a box with lines in it; 0 writes no name ``below``."""
        left, top, width, height = at
        x, first = left + width / 2, top + height / 2 + 4 - 7 * (len(lines) - 1)
        frame = f'<rect class="part" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="3"/>'
        written = [text(x, first + 14 * row, line) for row, line in enumerate(lines)]
        self.part(name, meaning, at, frame, *written, text(x, top + height + below, name, "name") if below else "")

    def arrow(self, *points: tuple[float, float], kind: str = "line") -> None:
        drawn = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.pieces.append(f'<polyline class="{kind}" points="{drawn}" marker-end="url(#head)"/>')


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Write words, with the middle of their base line at a point."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def sound(left: float, middle: float, pitch: float) -> str:
    """Draw a made-up waveform."""
    shares = [step / 100 for step in range(101)]
    heights = [math.sin(math.pi * share) * math.sin(21 * share) * math.sin(pitch * share) for share in shares]
    points = (f"{left + 80 * x:.1f},{middle - 28 * y:.1f}" for x, y in zip(shares, heights, strict=True))
    return f'<polyline class="line" points="{" ".join(points)}"/>'


def architecture(config: UniSpeechSatConfig | None = None, *, lit: str | Iterable[str] = ()) -> Drawing:
    """Draw the model from the waveform to its heads and its two losses, with the sizes of a config.

    Each part is named after a submodule, after a site, or after what `unisat` has under that name.

    Parameters
    ----------
    config : UniSpeechSatConfig, optional
        Whose sizes are written; None for those of Base.
    lit : str or several
        Names of parts to light, such as ``"quantizer"``; ``"encoder"`` lights every part of the encoder.

    Raises
    ------
    ValueError
        If ``lit`` names no part of the drawing, or the config is that of another family.
    """
    config = UniSpeechSatConfig() if config is None else config
    if config.model_type != UniSpeechSatConfig.model_type:
        raise ValueError(f"the drawing shows UniSpeech-SAT, got the config of a model_type={config.model_type!r}.")
    canvas = _Canvas((lit,) if isinstance(lit, str) else tuple(lit))
    for draw in (_front_end, _encoder, _objective, _heads):
        draw(canvas, config)
    for one in canvas.asked:
        if not any(f"{name}.".startswith(f"{one}.") for name in canvas.names):
            known = ", ".join(canvas.names)
            raise ValueError(f"lit={one!r} is no part{nearest(one, canvas.names)}; the parts are {known}.")
    layers = f"{config.num_hidden_layers} transformer layers of width {config.hidden_size}"
    words = f"UniSpeech-SAT: {len(config.conv_dim)} convolutions, {layers}, its heads and its two losses."
    words += f" Lit: {', '.join(canvas.asked)}." if canvas.asked else ""
    root = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">'
    title = f"<title>{escape(words)}</title>"
    svg = f"{root}{title}<style>{STYLE}</style>{ARROW_HEAD}{''.join(canvas.pieces)}</svg>"
    return Drawing(svg, words, tuple(canvas.titles))


def _front_end(canvas: _Canvas, config: UniSpeechSatConfig) -> None:
    rate, step = f"{SAMPLE_RATE:,} a second", hop(config.conv_stride)
    wave = sound(12, MIDDLE, 190), text(52, 70, rate), text(52, 153, "wave", "name")
    canvas.part("wave", f"the waveform, {rate}", (12, MIDDLE - 28, 80, 56), *wave)
    other = sound(12, 253, 130), text(52, 224, "another voice"), text(52, 290, "mixing", "name")
    canvas.part("mixing", "a stretch of another utterance, added in pretraining", (12, 225, 80, 56), *other)
    canvas.arrow((52, 208), (52, 160))
    canvas.arrow((94, MIDDLE), (108, MIDDLE))
    room, samples = 182 / len(config.conv_dim), 1
    for layer, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride, strict=True)):
        samples *= stride
        height = 116 - 60 * math.log(samples) / max(math.log(step), 1)
        meaning = f"kernel {kernel}, stride {stride}, {config.conv_dim[layer]} channels"
        at = 110 + room * layer, MIDDLE - height / 2, room - 4, height
        name = f"feature_extractor.conv_layers.{layer}"
        canvas.box(name, f"{meaning}, {SAMPLE_RATE / samples:,g} a second", at, str(kernel), f"÷{stride}", below=0)
    canvas.pieces += text(199, 42, "kernel and ÷stride"), text(199, 182, "feature_extractor.conv_layers", "name")
    canvas.pieces.append(text(339, 74, f"{SAMPLE_RATE / step:g} a second"))
    canvas.arrow((289, MIDDLE), (303, MIDDLE))
    sizes = f"{config.conv_dim[-1]} → {config.hidden_size}"
    canvas.box("feature_projection", f"{sizes} channels", (305, 84, 69, 52), "projection", sizes, below=28)
    canvas.arrow((375, MIDDLE), (386, MIDDLE))


def _encoder(canvas: _Canvas, config: UniSpeechSatConfig) -> None:
    kinds = "part part hidden hidden hidden part part".split()
    mask = [f'<rect class="{k}" x="{388 + 9 * i}" y="84" width="7" height="52"/>' for i, k in enumerate(kinds)]
    meaning = f"hides frames in training: {config.mask_time_prob:g} in spans of {config.mask_time_length}"
    canvas.part(
        "spec_augment", meaning, (388, 84, 61, 52), *mask, text(419, 74, "mask"), text(419, 150, "spec_augment", "name")
    )
    canvas.arrow((452, MIDDLE), (466, MIDDLE))
    frames, groups = f"{config.num_conv_pos_embeddings} frames", config.num_conv_pos_embedding_groups
    meaning = f"a convolution over {frames} in {groups} groups, added to each frame"
    canvas.box("encoder.pos_conv_embed", meaning, (468, 84, 70, 52), "+ position", frames, below=28)
    canvas.arrow((539, MIDDLE), (552, MIDDLE))
    count, heads = config.num_hidden_layers, config.num_attention_heads
    room, wide = 250 / count, config.hidden_size // heads
    meaning = f"{heads} heads of width {wide}, feed-forward of width {config.intermediate_size}"
    for layer in range(count):
        number, at = [str(layer)] * (count <= 16), (554 + room * layer, 66, 0.8 * room, 88)
        canvas.box(f"encoder.layers.{layer}", meaning, at, *number, below=0)
    canvas.pieces.append(text(676, 54, f"{count} layers of width {config.hidden_size}, {heads} heads each"))


def _objective(canvas: _Canvas, config: UniSpeechSatConfig) -> None:
    layer, wide, groups = config.contrastive_layer, config.codevector_dim, config.num_codevector_groups
    x, sizes = 554 + 250 / config.num_hidden_layers * (layer - 0.6), f"{config.hidden_size} → {wide}"
    canvas.arrow((x, 155), (x, 212), (540, 212), (540, 228), kind="branch")
    canvas.arrow((x, 212), (680, 212), (680, 228), kind="branch")
    canvas.pieces.append(text(x, 188, f"contrastive layer: hidden.{layer}", "name marked"))
    codes, each = f"one of {config.num_codevectors_per_group} codevectors", f"in each of {groups} groups"
    canvas.box("quantizer", f"{codes} {each}, width {wide} in all", (466, 230, 148, 46), codes, each)
    canvas.box("speaker_proj", f"{sizes} channels", (634, 230, 92, 46), "projection", sizes)
    telling, question = "is the codevector the frame's own utterance's?", "contrastive loss: same utterance?"
    canvas.box("losses.contrastive_bce", telling, (466, 320, 260, 32), question)
    canvas.arrow((804, MIDDLE), (822, MIDDLE), (822, 228))
    canvas.box("project_hid", f"{sizes} channels", (756, 230, 84, 46), "projection", sizes)
    clusters = f"{config.num_clusters} clusters"
    meaning = f"a vector of width {wide} for each of {clusters}; its cosine with a frame is a logit"
    canvas.box("label_embeddings_concat", meaning, (850, 230, 118, 46), "cosines with", clusters)
    canvas.box("losses.content_loss", "which cluster?", (756, 320, 212, 32), "content loss of hidden frames")
    for x in (540, 680, 798, 909):
        canvas.arrow((x, 298), (x, 318))


def _heads(canvas: _Canvas, config: UniSpeechSatConfig) -> None:
    heads = {
        "lm_head": ("letters (CTC)", f"scores for {config.vocab_size} letters in each frame"),
        "classifier": ("who speaks when", "yes or no to each voice in each frame"),
        "tdnn": ("x-vector", f"{len(config.tdnn_dim)} layers over time to a vector of {config.xvector_output_dim}"),
    }
    for top, (name, (words, meaning)) in zip((12, 62, 112), heads.items(), strict=True):
        canvas.box(name, meaning, (846, top, 122, 40), words, "", below=-7)
        canvas.arrow((822, MIDDLE), (822, top + 20), (844, top + 20))
