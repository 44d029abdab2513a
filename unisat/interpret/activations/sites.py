"""The table of sites: everything in a model that can be watched and edited, by name.

A site is the input or the output of a submodule. An ordinary PyTorch hook on that submodule sees and can change the
same values as `unisat`. The names say *what was computed* and hold for both placements of the norm: ``resid_mid`` is
always ``resid_pre + attn.out``, which enters ``layer_norm`` in a post-LN model and ``final_layer_norm`` in a pre-LN
model. ``hidden.k`` is ``hidden_states[k]`` of the reference (4.37.2).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import index
from typing import Any, Literal, NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig, nearest
from unisat.frames import SAMPLE_RATE, frame_seconds, stack_length
from unisat.model import UniSpeechSatModel
from unisat.modules import unwrap
from unisat.quantizer import GumbelVectorQuantizer

Selector = str | re.Pattern[str]
TIME_AXES = ("samples", "frames", "queries", "keys")


@dataclass(frozen=True)
class Site:
    """One place in a model.

    Attributes
    ----------
    name : str
        The site's name, such as ``block.3.attn.pattern``.
    module : str
        Dotted name of the submodule, as in ``model.get_submodule``.
    side : {"input", "output"}
        The side of the submodule.
    shape : tuple of str
        Names of the axes.
    sizes : tuple of int
        Length of each axis; 0 where it depends on the input (batch and time).
    meaning : str
        One line for the table.
    conv_layers : int
        Number of convolutions before the site. Its time axis follows from the samples by these (0: samples).
    in_backbone : bool
        Whether the site is computed inside `UniSpeechSatModel`.
    read : callable
        Gives the tensor of the shape above, from what a hook sees on that side.
    write : callable
        Gives what the hook returns, from what the hook sees and another tensor of that shape.
    fixed : str
        Why the site cannot be edited, and what can be done instead; empty where it can be edited.
    """

    name: str
    module: str
    side: Literal["input", "output"]
    shape: tuple[str, ...]
    sizes: tuple[int, ...]
    meaning: str
    conv_layers: int
    in_backbone: bool
    read: Callable[[Any], Tensor]
    write: Callable[[Any, Tensor], Any]
    fixed: str = ""

    @property
    def is_square(self) -> bool:
        """Whether the site pairs frames with frames: attention, queries by keys."""
        return "queries" in self.shape

    @property
    def channels(self) -> tuple[int, ...]:
        """Sizes of the axes after time, such as heads and their width; a waveform and attention have none."""
        return () if self.is_square else self.sizes[2:]

    def positions(self, samples: Any, config: UniSpeechSatConfig) -> Any:
        """Length of the time axis for ``samples`` (int or tensor of ints) of waveform."""
        return stack_length(samples, config.conv_kernel[: self.conv_layers], config.conv_stride[: self.conv_layers])

    def seconds(self, samples: int, config: UniSpeechSatConfig) -> Float[Tensor, " positions"]:
        """Time of each position in ``samples`` of waveform: the centre of what the convolutions see."""
        kernels, strides = config.conv_kernel[: self.conv_layers], config.conv_stride[: self.conv_layers]
        return frame_seconds(self.positions(samples, config), kernels, strides, at=0.5 if self.conv_layers else 0.0)

    def numel(self, batch: int, samples: int, config: UniSpeechSatConfig) -> int:
        """Number of values for a batch of waveforms of so many samples."""
        count = 1
        for axis, size in zip(self.shape, self.sizes, strict=True):
            count *= batch if axis == "batch" else self.positions(samples, config) if axis in TIME_AXES else size
        return count


def find(model: nn.Module, kind: type[nn.Module]) -> str | None:
    """Dotted name of the first submodule of a kind: "" for the model itself, None if there is none."""
    return next((name for name, module in model.named_modules() if isinstance(module, kind)), None)


def find_backbone(model: nn.Module) -> tuple[str, UniSpeechSatModel]:
    """Dotted name of the backbone inside ``model``, and the backbone.

    Raises
    ------
    ValueError
        If there is none.
    """
    name = find(model, UniSpeechSatModel)
    backbone = None if name is None else model.get_submodule(name)
    if not isinstance(backbone, UniSpeechSatModel) or name is None:
        raise ValueError(
            f"{type(model).__name__} holds no UniSpeechSatModel: sites are named for unisat's own models; "
            "load the checkpoint with unisat.UniSpeechSatModel.from_pretrained."
        )
    return name, backbone


def site_list(model: nn.Module) -> list[Site]:
    """List all sites of a model in the order in which they are computed."""
    model = unwrap(model)
    name, backbone = find_backbone(model)
    sites = list(_backbone_sites(backbone.config, f"{name}." if name else ""))
    path = find(model, GumbelVectorQuantizer)
    quantizer = None if path is None else model.get_submodule(path)
    if path is not None and isinstance(quantizer, GumbelVectorQuantizer):
        sites += _quantizer_sites(quantizer, backbone.config, path)
    return sites


def layer_number(name: str) -> int | None:
    """The number in a site's name: 3 of ``hidden.3`` and of ``block.3.attn.z``, None where there is no number."""
    found = re.match(r"(?:block|hidden)\.(\d+)", name)
    return int(found[1]) if found else None


def hidden_sites(names: Iterable[str]) -> dict[int, str]:
    """The hidden states among some sites, by number and in order."""
    numbered = {int(name.removeprefix("hidden.")): name for name in names if re.fullmatch(r"hidden\.\d+", name)}
    return dict(sorted(numbered.items()))


def chosen_layers(layers: int | Iterable[int], last: int, instead: str = "") -> list[int]:
    """Check the layers that a caller asks for, and give each of them once and in order.

    Parameters
    ----------
    layers : int or several
        What the caller asks for.
    last : int
        The highest number of a layer.
    instead : str
        What else the caller may ask for, for the message.

    Raises
    ------
    ValueError
        If there is no number, or a number that is not from 0 to ``last``.
    """
    given = [layers] if isinstance(layers, int | str) else list(layers)
    if not given or any(
        isinstance(one, bool) or not hasattr(one, "__index__") or not 0 <= one <= last for one in given
    ):
        raise ValueError(f"layers={layers!r} must be {instead}numbers from 0 to {last}, one or more.")
    return sorted({index(one) for one in given})


class Access(NamedTuple):
    """The way to read a site's tensor from what a hook sees, and to write another tensor in its place."""

    read: Callable[[Any], Tensor]
    write: Callable[[Any, Tensor], Any]


def _get_first(seen: Any) -> Tensor:
    return seen[0] if isinstance(seen, tuple) else seen


def _put_first(seen: Any, value: Tensor) -> Any:
    return (value, *seen[1:]) if isinstance(seen, tuple) else value


FIRST = Access(_get_first, _put_first)
"""Access to the tensor, or to the first of several."""


def _put_in_place(seen: Any, value: Tensor) -> Any:
    seen[0].copy_(value)
    return seen


BESIDE = Access(_get_first, _put_in_place)
"""Access to a tensor that enters a module and is also used beside it: written in place, so that both see the change."""

SECOND = Access(lambda seen: seen[1], lambda seen, value: (seen[0], value, *seen[2:]))

CHANNELS_LAST = Access(
    lambda seen: _get_first(seen).transpose(1, 2), lambda seen, value: _put_first(seen, value.transpose(1, 2))
)


def _split(last: tuple[int, int]) -> Access:
    """Access to a last axis that is two: heads and their width, or groups and their entries."""
    return Access(
        lambda seen: _get_first(seen).unflatten(-1, last), lambda seen, value: _put_first(seen, value.flatten(-2))
    )


def _attribute(name: str) -> Access:
    """Access to one field of a dataclass."""
    return Access(lambda seen: getattr(seen, name), lambda seen, value: replace(seen, **{name: value}))


def _backbone_sites(config: UniSpeechSatConfig, prefix: str) -> Iterator[Site]:
    width, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    last = len(config.conv_dim)
    sizes = {"hidden": width, "heads": heads, "head_dim": width // heads, "inner": config.intermediate_size}

    def site(
        name: str,
        module: str,
        side: Any,
        shape: str,
        meaning: str,
        access: Access = FIRST,
        convs: int = last,
        fixed: str = "",
        **more: int,
    ) -> Site:
        axes = tuple(shape.split())
        numbers = tuple((sizes | more).get(axis, 0) for axis in axes)
        return Site(name, prefix + module, side, axes, numbers, meaning, convs, True, *access, fixed)

    frames_hidden = "batch frames hidden"
    yield site("wave", "feature_extractor", "input", "batch samples", "waveform as the model reads it", convs=0)
    for i, channels in enumerate(config.conv_dim):
        of: dict[str, Any] = {"convs": i + 1, "channels": channels, "access": CHANNELS_LAST}
        conv = f"feature_extractor.conv_layers.{i}"
        yield site(f"conv.{i}", conv, "output", "batch frames channels", f"convolution {i}, activated", **of)
    yield site("conv.out", conv, "output", "batch frames channels", "output of the front end", **of)
    yield site("proj.out", "feature_projection", "output", frames_hidden, "projected to the transformer's width")
    spec = "spec_augment"
    hidden_already = "the frames are hidden by then: give the model mask_time_indices, or edit mask.out"
    masked = "True on frames hidden by the mask"
    yield site("mask.indices", spec, "output", "batch frames", masked, SECOND, fixed=hidden_already)
    yield site("mask.out", spec, "output", frames_hidden, "projected frames behind the mask")
    yield site("pos_conv", "encoder.pos_conv_embed", "output", frames_hidden, "positional convolution")
    entry = "encoder.dropout" if layers or not config.do_stable_layer_norm else "encoder.layer_norm"
    yield site("embed", entry, "output", frames_hidden, "what enters the first layer, = hidden.0")
    yield site("hidden.0", entry, "output", frames_hidden, "hidden_states[0]: what enters the first layer")
    for k in range(layers):
        yield from _block_sites(site, config, k)
        final = k == layers - 1 and config.do_stable_layer_norm
        module = "encoder.layer_norm" if final else f"encoder.layers.{k}"
        meaning = f"hidden_states[{k + 1}]: " + ("final layer norm" if final else f"what leaves layer {k}")
        yield site(f"hidden.{k + 1}", module, "output", frames_hidden, meaning)


def _block_sites(site: Callable[..., Site], config: UniSpeechSatConfig, k: int) -> Iterator[Site]:
    block, layer = f"block.{k}", f"encoder.layers.{k}"
    split = _split((config.num_attention_heads, config.hidden_size // config.num_attention_heads))
    frames_hidden, frames_heads = "batch frames hidden", "batch frames heads head_dim"
    square, attention = "batch heads queries keys", f"{layer}.attention"
    yield site(f"{block}.resid_pre", layer, "input", frames_hidden, f"residual stream into layer {k}")
    if config.model_type == "wavlm":
        gate = "gate of the position bias, from the attention's input"
        yield site(f"{block}.attn.gate", f"{attention}.gate", "output", "batch frames heads", gate, CHANNELS_LAST)
        yield site(f"{block}.attn.bias", f"{attention}.gated_bias", "output", square, "gated bias, added to the scores")
    yield site(f"{block}.attn.q", f"{attention}.q_proj", "output", frames_heads, "queries, unscaled", split)
    yield site(f"{block}.attn.k", f"{attention}.k_proj", "output", frames_heads, "keys", split)
    yield site(f"{block}.attn.v", f"{attention}.v_proj", "output", frames_heads, "values", split)
    scores = "scaled scores, padding at the least float"
    yield site(f"{block}.attn.scores", f"{attention}.softmax", "input", square, scores)
    yield site(f"{block}.attn.pattern", f"{attention}.dropout", "input", square, "attention weights, rows sum to 1")
    yield site(f"{block}.attn.z", f"{attention}.out_proj", "input", frames_heads, "each head's output", split)
    yield site(f"{block}.attn.out", f"{attention}.out_proj", "output", frames_hidden, "attention's output")
    # the stream of a pre-LN layer passes beside its norm, that of a post-LN layer goes through it
    middle, stream = ("final_layer_norm", BESIDE) if config.do_stable_layer_norm else ("layer_norm", FIRST)
    yield site(f"{block}.resid_mid", f"{layer}.{middle}", "input", frames_hidden, "resid_pre + attn.out", stream)
    feed, inner = f"{layer}.feed_forward", "batch frames inner"
    yield site(f"{block}.mlp.pre", f"{feed}.intermediate_dense", "output", inner, "feed-forward, before activation")
    yield site(f"{block}.mlp.post", f"{feed}.intermediate_dropout", "input", inner, "feed-forward, activated")
    yield site(f"{block}.mlp.out", f"{feed}.output_dense", "output", frames_hidden, "feed-forward's output")
    if config.adapter_attn_dim is not None and config.do_stable_layer_norm:
        yield site(f"{block}.adapter.out", f"{layer}.adapter_layer", "output", frames_hidden, "adapter's output")
    yield site(f"{block}.resid_post", layer, "output", frames_hidden, f"residual stream out of layer {k}")


def _quantizer_sites(quantizer: GumbelVectorQuantizer, config: UniSpeechSatConfig, module: str) -> Iterator[Site]:
    dotted = f"{module}." if module else ""
    groups, entries = config.num_codevector_groups, config.num_codevectors_per_group
    sizes = {
        "hidden": quantizer.weight_proj.in_features,
        "groups": groups,
        "entries": entries,
        "code_dim": config.codevector_dim,
    }
    split = _split((groups, entries))
    by_entry = "batch frames groups entries"

    def site(name: str, path: str, side: Any, shape: str, meaning: str, access: Access, fixed: str = "") -> Site:
        axes = tuple(shape.split())
        numbers = tuple(sizes.get(axis, 0) for axis in axes)
        return Site(name, path, side, axes, numbers, meaning, len(config.conv_dim), False, *access, fixed)

    proj = dotted + "weight_proj"
    yield site("quant.in", proj, "input", "batch frames hidden", "what the quantizer reads", FIRST)
    yield site("quant.logits", proj, "output", by_entry, "a score for each entry of each group", split)
    chosen = "the codevectors are looked up by then: edit quant.logits, which decide, or quant.out"
    probabilities = _attribute("probabilities")
    yield site("quant.probs", module, "output", by_entry, "softmax of the logits, no noise", probabilities, chosen)
    codes = _attribute("codevector_indices")
    yield site("quant.codes", module, "output", "batch frames groups", "the entry chosen in each group", codes, chosen)
    out = _attribute("codevectors")
    yield site("quant.out", module, "output", "batch frames code_dim", "codevectors, groups concatenated", out)


def select(available: list[Site], selectors: Iterable[Selector]) -> list[Site]:
    """Select the sites that at least one selector names, in the order in which they are computed.

    Parameters
    ----------
    available : list of Site
        What `site_list` gives.
    selectors : iterable of str or re.Pattern
        Names, globs (``hidden.*``), ranges that exclude their end (``block.{2:5}.attn.pattern``; either end may be
        missing), or compiled regular expressions that match the whole name.

    Raises
    ------
    ValueError
        If a selector matches nothing; the message names the nearest sites.
    """
    names = [site.name for site in available]
    chosen: set[str] = set()
    for selector in [selectors] if isinstance(selectors, str | re.Pattern) else selectors:
        if not isinstance(selector, str | re.Pattern):
            raise TypeError(f"a site is named by a text or a regular expression, got {selector!r}.")
        found = [name for name in names if matches(selector, name)]
        if not found:
            text = selector if isinstance(selector, str) else selector.pattern
            if text.startswith("quant") and not any(name.startswith("quant") for name in names):
                raise ValueError(f"no site {text!r}: this model has no quantizer, only pretraining models have one.")
            hint = nearest(text, names) or f"; there are {', '.join(_families(names))}"
            raise ValueError(f"no site matches {text!r}{hint}. unisat.sites(model) lists them all.")
        chosen.update(found)
    return [site for site in available if site.name in chosen]


def _families(names: list[str]) -> list[str]:
    return list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names))


def matches(selector: Selector, name: str) -> bool:
    """Whether a selector (see `select`) names a site."""
    if isinstance(selector, re.Pattern):
        return selector.fullmatch(name) is not None
    expression, starts, ends = _parse(selector)
    found = expression.fullmatch(name)
    return found is not None and all(
        int(start or 0) <= int(number) < (int(end) if end else float("inf"))
        for number, start, end in zip(found.groups(), starts, ends, strict=True)
    )


@lru_cache(maxsize=1024)  # `unisat.collect` asks for the same names in every batch
def _parse(selector: str) -> tuple[re.Pattern[str], list[str], list[str]]:
    """Turn a glob with ranges into an expression with a group for each range, and where the ranges start and end."""
    pieces = re.split(r"\{(-?\d*):(-?\d*)\}", selector)
    if any("-" in bound for bound in (*pieces[1::3], *pieces[2::3])):
        raise ValueError(
            f"{selector!r}: the ends of a range are numbers of sites and count from 0, as in hidden.{{5:}} or "
            "block.{2:5}.attn.z; unisat.sites(model) lists the numbers."
        )
    expression = "".join(
        r"(\d+)" if index % 3 == 1 else "" if index % 3 == 2 else fnmatch.translate(piece)[4:-3]
        for index, piece in enumerate(pieces)
    )
    return re.compile(f"(?s:{expression})"), pieces[1::3], pieces[2::3]


def sites(model: nn.Module, *selectors: Selector, seconds: float = 1.0) -> pd.DataFrame:
    """List what can be watched and edited in a model, one row for each site.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model.
    *selectors : str or re.Pattern
        Which sites (see `select`); without selectors all.
    seconds : float
        Length of the utterance for which ``bytes`` are counted, in float32 (a mask has 1 byte a frame, codes have 8).

    Returns
    -------
    pandas.DataFrame
        Indexed by ``site``; columns ``shape``, ``bytes``, ``meaning``, ``module``, ``side``, ``editable``.
    """
    available = site_list(model)
    chosen = select(available, selectors) if selectors else available
    config = find_backbone(unwrap(model))[1].config
    samples = round(seconds * SAMPLE_RATE)
    rows = [
        {
            "site": site.name,
            "shape": " ".join(f"{axis}={n}" if n else axis for axis, n in zip(site.shape, site.sizes, strict=True)),
            "bytes": site.numel(1, samples, config) * itemsize(site, 4),
            "meaning": site.meaning,
            "module": site.module,
            "side": site.side,
            "editable": not site.fixed,
        }
        for site in chosen
    ]
    return pd.DataFrame(rows).set_index("site")


def itemsize(site: Site, floats: int) -> int:
    """Bytes of one value: masks are bool, codes are int64, all else are floats of the given size."""
    return {"mask.indices": 1, "quant.codes": 8}.get(site.name, floats)
