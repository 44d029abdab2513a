"""Attribution: on which moments of an utterance a number depends, by gradients or by what attention passes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unisat.frames import SAMPLE_RATE
from unisat.inputs import check_waveforms
from unisat.interpret.activations.attention import rollout, value_norms
from unisat.interpret.activations.capture import as_inputs, capture
from unisat.interpret.activations.forward import eagerly, hook
from unisat.interpret.activations.sites import Site, find_backbone, layer_number, select, site_list
from unisat.interpret.result import Result, plots
from unisat.modules import fingerprint, unwrap
from unisat.precision import float64
from unisat.xvector import UniSpeechSatForXVector

Target = Callable[[Any], Tensor] | int | tuple[int, int]
"""A function from a model's output to one number for each utterance; or a class; or a frame and a class."""

QUIET_DB = -40.0
"""Level of the baseline "silence" relative to its utterance; the model's norms would make a far lower one loud."""

RANDOM = ("noise", "silence")
"""Baselines that are waveforms drawn at random."""

NAMES = {
    "ig": "integrated gradients",
    "gradient": "gradient × input",
    "rollout": "attention rollout",
    "norms": "value-weighted norm",
}
WINDOW = 512  # samples over which a long-term spectrum is taken
COMPLETENESS = ["id", "baseline", "draw", "value", "baseline_value", "attributed", "error", "relative"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribution(Result):
    """How much each sample or frame of each utterance contributes to a number; `attribute` gives it.

    Attributes
    ----------
    ids : tuple of str
        Name of each utterance.
    each : tuple of (baselines, positions)
        The attribution of each utterance against each baseline, summed over channels; other methods have one row.
    seconds : tuple of (positions,)
        Time of each position: of a sample, or of the centre of what a frame's convolutions see.
    waveforms : tuple of (samples,)
        The utterances, to draw and to listen to.
    completeness_error : DataFrame
        One row for each utterance and baseline of integrated gradients; empty for other methods. ``value`` and
        ``baseline_value`` are the target at both ends of the path, ``attributed`` is the sum of the attribution,
        ``error`` is that sum less the difference of the two, ``relative`` is its size as a share of the difference.
    """

    ids: tuple[str, ...]
    each: tuple[Float[Tensor, "baselines _"], ...]
    seconds: tuple[Float[Tensor, " _"], ...]
    waveforms: tuple[Float[Tensor, " _"], ...]
    completeness_error: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COMPLETENESS))

    @property
    def values(self) -> list[Float[Tensor, " _"]]:
        """The attribution of each utterance, (positions,): the mean over baselines."""
        return [each.mean(0) for each in self.each]

    def table(self) -> pd.DataFrame:
        """Give a row for each position: ``id``, ``seconds``, ``value`` and ``spread``, its deviation over baselines."""
        parts = []
        for name, each, seconds in zip(self.ids, self.each, self.seconds, strict=True):
            spread = each.std(0) if len(each) > 1 else torch.full_like(each[0], torch.nan)
            columns = {"id": name, "seconds": seconds.numpy(), "value": each.mean(0).numpy(), "spread": spread.numpy()}
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def plot(self, utterance: int = 0, **options: Any) -> Any:
        """Draw an utterance's waveform above its attribution (`unisat.plots.attribution`)."""
        said, name = self.settings, self.ids[utterance]
        shown = self.waveforms[utterance], self.values[utterance]
        label = {"rollout": "rollout", "norms": "norm"}.get(said["method"], "attribution")
        ax = plots().attribution(*shown, seconds=self.seconds[utterance], label=label, **options)
        errors = self.completeness_error.loc[self.completeness_error["id"] == name, "relative"]
        complete = f", completeness error at most {100 * errors.max():.2g} %" if len(errors) else ""
        title = f"{name}: {NAMES[said['method']]} at {said['wrt']}, {said['target']}{complete}"
        ax.set_title(title, fontsize="medium", parse_math=False)
        return ax

    def play(
        self, utterance: int = 0, *, part: Literal["positive", "negative", "both"] = "positive", window: float = 0.05
    ) -> Float[Tensor, " samples"]:
        """Give the utterance as loud as its attribution is large, for ``IPython.display.Audio(..., rate=16000)``.

        One hears the moments that speak for the target and little else. The waveform is multiplied by the attribution,
        which is smoothed, cut to its positive part and scaled to a largest value of 1. Pass ``normalize=False`` to
        ``Audio``: nothing becomes louder than it was. Only a waveform beyond full scale, as normalised for the model,
        is brought to full scale.

        Parameters
        ----------
        part : {"positive", "negative", "both"}
            What to hear: what speaks for the target, against it, or both.
        window : float
            Seconds of the Hann window that smooths the attribution.

        Raises
        ------
        ValueError
            If the attribution has no such part.
        """
        waveform, values = self.waveforms[utterance], self.values[utterance]
        times = np.arange(len(waveform)) / SAMPLE_RATE
        at_samples = np.interp(times, self.seconds[utterance].numpy(), values.numpy())
        weights = np.hanning(max(3, round(window * SAMPLE_RATE)))
        smooth = np.convolve(at_samples, weights / weights.sum(), mode="same")
        smooth = smooth[(len(smooth) - len(times)) // 2 :][: len(times)]  # "same" is the length of the longer one
        parts = {"positive": smooth, "negative": -smooth, "both": np.abs(smooth)}
        if part not in parts:
            raise ValueError(f"part={part!r} must be one of {', '.join(map(repr, parts))}.")
        envelope = parts[part].clip(min=0)
        if not envelope.max() > 0:
            raise ValueError(f"no attribution of {self.ids[utterance]!r} is {part}: there is nothing to hear.")
        heard = waveform * torch.from_numpy(envelope / envelope.max()).to(waveform)
        return heard / waveform.abs().max().clamp(min=1)


def attribute(
    model: nn.Module,
    audio: Any,
    target: Target | list[Target] | None = None,
    *,
    wrt: str | None = None,
    method: Literal["ig", "gradient", "rollout", "norms"] = "ig",
    baselines: str | Tensor | Sequence[str | Tensor] | None = None,
    draws: int = 3,
    steps: int = 64,
    batch_size: int = 16,
    seed: int = 0,
    sampling_rate: int | None = None,
    attention_mask: Tensor | None = None,
) -> Attribution:
    """Say how much each moment of each utterance contributes to a number that the model gives.

    Each utterance runs alone, so padding and the other utterances change nothing.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model, in evaluation mode. Its weights, their ``grad`` and ``requires_grad`` stay as they are.
    audio, sampling_rate, attention_mask
        The utterances, as in `unisat.run`.
    target : callable, int or (int, int)
        What is explained: a function of the model's output for some utterances (with ``hidden_states``) that gives one
        number for each, such as `unisat.metrics.speaker_cosine` of one voice; a class, for models with ``logits``
        (batch, classes); a frame and a class, for models with ``logits`` (batch, frames, classes). A list has a target
        for each utterance. For "rollout" and "norms" it is the frame that looks; None is the mean over all frames.
    wrt : str, optional
        Where the attribution is: ``"wave"`` (the default), ``"conv.out"``, or any site (batch, frames, channels) that
        is the output of a module, such as ``"hidden.3"`` or ``"block.2.attn.v"``. For "rollout" and "norms" it is a
        ``"hidden.k"`` that enters a layer (default ``"hidden.0"``): rollout goes from there to the last layer, norms
        are those of that one layer.
    method : {"ig", "gradient", "rollout", "norms"}
        - "ig": integrated gradients (Sundararajan et al., 2017, arXiv:1703.01365, equation 1) by the Gauss-Legendre
          rule, as a mean over all baselines. The attribution adds up to the target's value less that of the baseline,
          with an error that `Attribution.completeness_error` gives.
        - "gradient": gradient × input.
        - "rollout": attention rollout, see `rollout`.
        - "norms": value-weighted norms, see `value_norms`.
    baselines : str, tensor, or several
        What integrated gradients compare with. ``"noise"`` (the default) is noise with the level and the long-term
        spectrum of the utterance; ``"silence"`` is white noise 40 dB below it; at sites of frames they are what these
        waveforms give there. Sites of frames also have ``"mean"``, the mean of the frames, and ``"zero"``. A tensor is
        another waveform as the model reads it (at least as long), or (frames, channels) or (channels,). A waveform of
        zeros is refused, and ``"zero"`` before a layer norm is rarely good: a norm makes the faintest signal as loud
        as speech, so everything happens within the first thousandth of the path, where few steps give a wrong sum.
    draws : int
        How often each random baseline is drawn.
    steps : int
        Points of each path.
    batch_size : int
        Points that go through the model at once.
    seed : int
        Seed of the random baselines, the same for every utterance.

    Raises
    ------
    ValueError
        If the site does not exist or cannot be replaced, the target does not give one finite number for each utterance
        or does not depend on the site, a baseline cannot be used, or the model is in training mode.
    """
    model = unwrap(model)
    _check_choices(model, method, baselines, draws=draws, steps=steps, batch_size=batch_size)
    by_attention = method in ("rollout", "norms")
    site = _entry(model, wrt or "hidden.0") if by_attention else _replaceable(model, wrt or "wave")
    ids, inputs, waveforms = _utterances(model, audio, sampling_rate, attention_mask)
    targets = _targets(target, len(ids), model, by_attention)
    chosen = ["noise"] if baselines is None else [baselines] if isinstance(baselines, str | Tensor) else list(baselines)
    config = find_backbone(model)[1].config
    _check_baselines(chosen, site, ids, [(site.positions(len(wave), config), *site.channels) for wave in inputs])

    each, errors = [], []
    for name, wave, given in zip(ids, inputs, targets, strict=True):
        if by_attention:
            each.append(_of_attention(model, wave, site, method, given))
            continue
        path = _Path(model, site, wave, given, name, batch_size)
        if method == "gradient":
            each.append(path.gradient_times_input()[None])
        else:
            values, rows = path.integrate(chosen, draws, steps, seed)
            each.append(values)
            errors += rows
    settings: dict[str, Any] = {"model": fingerprint(model), "method": method, "wrt": site.name}
    settings["target"] = "one for each utterance" if isinstance(target, list) else _describe(target, by_attention)
    if method == "ig":
        names = [choice if isinstance(choice, str) else "given" for choice in chosen]
        settings |= {"baselines": names, "draws": draws, "steps": steps, "rule": "Gauss-Legendre", "seed": seed}
    return Attribution(
        ids=ids,
        each=tuple(values.cpu() for values in each),
        seconds=tuple(site.seconds(len(wave), config) for wave in inputs),
        waveforms=waveforms,
        completeness_error=pd.DataFrame(errors, columns=COMPLETENESS),
        settings=settings,
    )


def _check_choices(model: nn.Module, method: str, baselines: Any, **counts: int) -> None:
    if training := [name or "the model" for name, module in model.named_modules() if module.training]:
        raise ValueError(f"{training[0]} is in training mode, where every pass differs; call model.eval() first.")
    if method not in NAMES:
        raise ValueError(f"method={method!r} must be one of {', '.join(map(repr, NAMES))}.")
    if method != "ig" and baselines is not None:
        raise ValueError(f"baselines belong to method='ig'; {method!r} compares with nothing, leave them out.")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")


def _targets(target: Any, utterances: int, model: nn.Module, by_attention: bool) -> list[Any]:
    """List the target of each utterance."""
    targets = target if isinstance(target, list) else [target] * utterances
    if len(targets) != utterances:
        raise ValueError(f"{len(targets)} targets were given for {utterances} utterances; give one, or one for each.")
    for given in targets:
        if by_attention:
            _check_frame(given)
        else:
            _check_target(given, model)
    return targets


class _Path:
    """Gives values and gradients of a target for any values at one site, for one utterance."""

    def __init__(self, model: nn.Module, site: Site, wave: Tensor, target: Any, name: str, batch_size: int):
        self.model, self.site, self.wave = model, site, wave
        self.target, self.name, self.batch_size = target, name, batch_size
        # the model damps the gradients of its convolutions, which would break completeness
        in_front = site.name == "wave" or site.name.startswith("conv.")
        self.damping = find_backbone(model)[1].config.feature_grad_mult if in_front else 1.0
        self.input = self.at_site(wave)

    def at_site(self, wave: Float[Tensor, " samples"]) -> Float[Tensor, "positions ..."]:
        """Give what a waveform gives at the site."""
        if self.site.name == "wave":
            return wave
        with torch.no_grad(), capture(self.model, self.site.name, device=wave.device) as trace:
            self.model(input_values=wave[None])
        return trace[self.site.name][0]

    def values(self, points: Float[Tensor, "rows positions ..."]) -> Float[Tensor, " rows"]:
        """Compute the target at each of some points."""
        waves = points if self.site.name == "wave" else self.wave.expand(len(points), -1)
        with _replaced(self.model, self.site, points):
            output = self.model(input_values=waves, output_hidden_states=True, return_dict=True)
        values = self.target(output) if callable(self.target) else _logit(output, self.target)
        if not isinstance(values, Tensor) or values.shape != (len(points),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the target must give one number for each utterance, ({len(points)},) for {len(points)} of them; got "
                f"{got}. Reduce over frames and channels, not over the batch."
            )
        if not torch.isfinite(values).all():
            raise ValueError(f"the target is not finite for utterance {self.name!r} or on the way to its baseline.")
        return values

    def gradients(self, points: Float[Tensor, "rows positions ..."]) -> Float[Tensor, "rows positions ..."]:
        """Compute the target's gradient at each of some points."""
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            values = self.values(points)
            gradient = None
            if values.requires_grad:
                (gradient,) = torch.autograd.grad(values.sum(), points, allow_unused=True)
        if gradient is None:
            raise ValueError(
                f"the target has no gradient at {self.site.name!r}: it reads nothing that comes after this site, or "
                "was detached."
            )
        return float64(gradient) / self.damping

    def gradient_times_input(self) -> Float[Tensor, " positions"]:
        return _over_channels(self.gradients(self.input[None])[0] * float64(self.input))

    def integrate(
        self, baselines: Sequence[str | Tensor], draws: int, steps: int, seed: int
    ) -> tuple[Float[Tensor, "baselines positions"], list[tuple[Any, ...]]]:
        """Give the attribution against each baseline, and a row of `COMPLETENESS` for each."""
        generator = torch.Generator().manual_seed(seed)
        attributions, rows = [], []
        for choice in baselines:
            random = isinstance(choice, str) and choice in RANDOM
            for draw in range(draws if random else 1):
                baseline = self.baseline(choice, generator)
                attribution = self.against(baseline, steps)
                with torch.no_grad():
                    ends = torch.cat([self.values(end[None]) for end in (self.input, baseline)])
                value, other = ends.tolist()
                total, gap = float(attribution.sum()), value - other
                relative = abs(total - gap) / abs(gap) if gap else float("nan")
                name = choice if isinstance(choice, str) else "given"
                rows.append((self.name, name, draw, value, other, total, total - gap, relative))
                attributions.append(attribution)
        return torch.stack(attributions), rows

    def against(self, baseline: Float[Tensor, "positions ..."], steps: int) -> Float[Tensor, " positions"]:
        """Integrated gradients against one baseline: the way from it times the mean gradient along the way."""
        way = self.input - baseline
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(steps))
        shape = (-1, *[1] * way.ndim)
        wide = float64(way)
        gradient = torch.zeros_like(wide)
        for node, weight in zip(nodes.split(self.batch_size), weights.split(self.batch_size), strict=True):
            share = ((node + 1) / 2).view(shape).to(way)  # from [-1, 1] to [0, 1]
            gradient += (weight.view(shape).to(wide) / 2 * self.gradients(baseline + share * way)).sum(0)
        return _over_channels(gradient * wide)

    def baseline(self, choice: str | Tensor, generator: torch.Generator) -> Float[Tensor, "positions ..."]:
        if isinstance(choice, Tensor):
            given = choice.detach().to(self.input)
            return given[: len(self.input)] if self.site.name == "wave" else given.expand_as(self.input)
        if choice == "zero":
            return torch.zeros_like(self.input)
        if choice == "mean":
            return self.input.mean(0).expand_as(self.input)
        wave = self.wave.cpu().float()
        if choice == "noise":
            wave = long_term_noise(wave, generator)
        else:
            level = wave.square().mean().sqrt() * 10 ** (QUIET_DB / 20)
            wave = level * torch.randn(len(wave), generator=generator)
        return self.at_site(wave.to(self.wave))


def _over_channels(attribution: Float[Tensor, "positions ..."]) -> Float[Tensor, " positions"]:
    return attribution.flatten(1).sum(1) if attribution.ndim > 1 else attribution


def long_term_noise(waveform: Float[Tensor, " samples"], generator: torch.Generator) -> Float[Tensor, " samples"]:
    """Filter white noise to the level and the long-term average spectrum (Welch, 32 ms windows) of a waveform."""
    samples = len(waveform)
    window = min(WINDOW, samples)
    shape = torch.hann_window(window, dtype=waveform.dtype)
    frames = torch.stft(waveform, window, max(1, window // 2), window=shape, center=False, return_complex=True)
    spectrum = frames.abs().square().mean(-1).sqrt()
    response = F.interpolate(spectrum[None, None], size=samples // 2 + 1, mode="linear", align_corners=True)[0, 0]
    white = torch.fft.rfft(torch.randn(samples, generator=generator))
    noise = torch.fft.irfft(white * response, n=samples)
    return noise * (waveform.square().mean() / noise.square().mean().clamp(min=1e-30)).sqrt()


@contextmanager
def _replaced(model: nn.Module, site: Site, values: Tensor) -> Iterator[None]:
    """Let the module of a site give ``values`` in place of what it computed."""
    with eagerly(), ExitStack() as stack:
        if site.name != "wave":
            module = model.get_submodule(site.module)
            stack.callback(hook(module, site.side, lambda output: site.write(output, values)).remove)
        yield


def _one(model: nn.Module, name: str) -> Site:
    found = select(site_list(model), [name])
    if len(found) != 1:
        raise ValueError(f"wrt={name!r} names {len(found)} sites; attribute to one of them at a time.")
    return found[0]


def _entry(model: nn.Module, name: str) -> Site:
    """Give the site of frames that enter a layer."""
    site, layers = _one(model, name), find_backbone(model)[1].config.num_hidden_layers
    if site.name not in [f"hidden.{k}" for k in range(layers)]:
        raise ValueError(
            f"wrt={name!r}: rollout and norms follow frames that enter a layer, 'hidden.0' to 'hidden.{layers - 1}'."
        )
    return site


def _replaceable(model: nn.Module, name: str) -> Site:
    """Give a site whose values can be replaced: not an input, which may be read elsewhere with its old values."""
    site = _one(model, name)
    replaceable = site.in_backbone and site.side == "output" and site.channels and not site.fixed
    if site.name != "wave" and not replaceable:
        raise ValueError(
            f"wrt={name!r} is ({', '.join(site.shape)}), {site.side} of {site.module}: attribution needs 'wave' or "
            "(batch, frames, channels) that a module of the backbone puts out, such as 'conv.out' or 'hidden.3'."
        )
    return site


def _check_baselines(
    chosen: Sequence[str | Tensor], site: Site, ids: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> None:
    if not chosen:
        raise ValueError("integrated gradients need a baseline; leave baselines out for noise like the utterance.")
    wave = site.name == "wave"
    known = RANDOM if wave else (*RANDOM, "mean", "zero")
    for choice in chosen:
        if isinstance(choice, Tensor):
            given, flat = tuple(choice.shape), bool(choice.numel()) and bool(choice.min() == choice.max())
            if not torch.isfinite(choice).all():
                raise ValueError("a baseline holds NaN or Inf; give finite numbers.")
            for name, shape in zip(ids, shapes, strict=True):
                if not (len(given) == 1 and given >= shape if wave else given in (shape, shape[1:])):
                    needed = f"{shape} or longer" if wave else f"{shape} or {shape[1:]}"
                    raise ValueError(f"a baseline at {site.name!r} must be {needed} for {name!r}, got {given}.")
        else:
            flat = choice in ("zero", "mean")
        if wave and flat:
            raise ValueError(
                "a waveform of zeros (or of one value) is no baseline: the model's norms divide by its spread, so that "
                "everything happens in the first thousandth of the path; take 'noise', 'silence' (white noise, 40 dB "
                "below the utterance) or another utterance."
            )
        if isinstance(choice, str) and choice not in known:
            raise ValueError(f"there is no baseline {choice!r} at {site.name!r}; take {', '.join(known)} or a tensor.")


def _utterances(
    model: nn.Module, audio: Any, sampling_rate: int | None, attention_mask: Tensor | None
) -> tuple[tuple[str, ...], list[Tensor], tuple[Tensor, ...]]:
    """Give each utterance's name, what the model reads of it without padding, and what one listens to."""
    config = find_backbone(model)[1].config
    values, mask, batch = as_inputs(audio, sampling_rate, attention_mask)
    ids = tuple(map(str, range(len(values)))) if batch is None else batch.ids
    lengths = check_waveforms(values, mask, config)[0].tolist()
    weight = next(model.parameters())
    inputs = [row[:length].detach().to(weight) for row, length in zip(values, lengths, strict=True)]
    heard = batch.waveforms if batch is not None else tuple(wave.cpu().float() for wave in inputs)
    return ids, inputs, heard


def _check_frame(target: Any) -> None:
    if target is not None and not (isinstance(target, int | np.integer) and target >= 0):
        raise ValueError(
            f"target={_describe(target)}: rollout and norms say where a frame looks; give its number, or None for all."
        )


def _check_target(target: Any, model: nn.Module) -> None:
    place = target if isinstance(target, tuple) else (target,)
    numbers = len(place) <= 2 and all(isinstance(number, int | np.integer) for number in place)
    if not callable(target) and not numbers:
        raise ValueError(
            f"target={_describe(target)} must be a function of the model's output, a class, or (frame, class); for a "
            "voice take unisat.metrics.speaker_cosine(embedding)."
        )
    if not callable(target) and isinstance(model, UniSpeechSatForXVector):
        raise ValueError(
            "the logits of an x-vector model are no classes; the target of a voice is "
            "unisat.metrics.speaker_cosine(embedding)."
        )


def _describe(target: Any, by_attention: bool = False) -> str:
    if by_attention:
        return "all frames" if target is None else f"frame {target}"
    if isinstance(target, Tensor):
        return f"a tensor {tuple(target.shape)}"
    if isinstance(target, int | np.integer):
        return f"class {target}"
    if isinstance(target, tuple) and len(target) == 2:
        return f"class {target[1]} in frame {target[0]}"
    return getattr(target, "__name__", None) or getattr(target, "name", None) or repr(target)


def _logit(output: Any, target: int | tuple[int, ...]) -> Float[Tensor, " rows"]:
    """Read the score of a class, or of a class in a frame."""
    place = target if isinstance(target, tuple) else (target,)
    logits = getattr(output, "logits", None)
    if logits is None:
        raise ValueError("this model has no logits: give a function of its output as the target.")
    if logits.ndim != 1 + len(place):
        wanted = "a class" if logits.ndim == 2 else "(frame, class)"
        raise ValueError(f"logits are {tuple(logits.shape)}: the target must be {wanted}, got {target}.")
    for number, size, axis in zip(place[::-1], logits.shape[:0:-1], ("class", "frame"), strict=False):
        if not 0 <= number < size:
            raise ValueError(f"target {target}: there is no {axis} {number}, they run from 0 to {size - 1}.")
    return logits[(slice(None), *place)]


def _of_attention(model: nn.Module, wave: Tensor, site: Site, method: str, frame: Any) -> Float[Tensor, "1 frames"]:
    """Compute rollout or norms of one utterance."""
    layer = layer_number(site.name)
    assert layer is not None
    end = "" if method == "rollout" else layer + 1
    wanted = f"block.{{{layer}:{end}}}.attn.pattern", f"block.{layer}.attn.v"
    with torch.no_grad(), capture(model, *wanted, device=wave.device) as trace:
        model(input_values=wave[None])
    matrix = rollout(trace)[-1] if method == "rollout" else value_norms(model, trace, layer, summed=True)
    if frame is not None and frame >= len(matrix):
        raise ValueError(f"target={frame}: the utterance has {len(matrix)} frames, 0 to {len(matrix) - 1}.")
    return matrix.mean(0, keepdim=True) if frame is None else matrix[[frame]]
