"""Edits say where to change values (site, heads, channels, seconds) and how; `unisat.intervene` applies them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from operator import index
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unisat.frames import valid_positions
from unisat.inputs import check_number
from unisat.interpret.activations.capture import Trace
from unisat.interpret.activations.sites import Selector, Site
from unisat.precision import float64, widen

Mode = Literal["zero", "mean", "resample"]
Align = Literal["error", "crop", "stretch"]
Rows = Float[Tensor, "batch frames channels"]
"""A site's values with all axes but batch and time flattened into channels; for attention, a row is a query."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """The values and lengths of sites that a `Patch` needs; `from_json` gives it in place of a trace."""

    values: dict[str, Tensor] = field(repr=False)
    frames: dict[str, Tensor] = field(repr=False)

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return list(self.values)

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def lengths(self, name: str) -> Int[Tensor, " batch"]:
        """Valid positions of each utterance."""
        return self.frames[name]


Source = Trace | Recorded


@dataclass(frozen=True)
class Place:
    """The place where one edit acts in one forward pass.

    Attributes
    ----------
    site : Site
        The site.
    lengths : (batch,)
        Positions of each utterance along the site's time axis.
    active : (batch, frames, 1 or channels)
        True where the edit counts: on the utterances and within the edit's seconds.
    chosen : (channels,)
        Which of the site's flattened channels are edited.
    """

    site: Site
    lengths: Int[Tensor, " batch"]
    active: Bool[Tensor, "batch frames #channels"]
    chosen: Int[Tensor, " channels"]

    @property
    def valid(self) -> Bool[Tensor, "batch frames"]:
        """True on the utterances, also outside the edit's seconds."""
        return valid_positions(self.lengths, self.active.shape[1])


class Intervention:
    """An edit: a site, some of its heads, channels and seconds, and what they become."""

    site: Any
    head: Any = None
    dims: Any = None
    time: Any = None

    def __repr__(self) -> str:
        shown = [item for item in fields(self) if item.repr]  # type: ignore[arg-type]
        said = [f"{i.name}={getattr(self, i.name)!r}" for i in shown if getattr(self, i.name) != i.default]
        return f"{type(self).__name__}({', '.join(said)})"

    def change(self, part: Rows, place: Place) -> Rows:
        """Give what the chosen channels become; only values where ``place.active`` is True count."""
        raise NotImplementedError

    def check(self, site: Site) -> None:
        """Refuse a site that this edit cannot change, before any forward pass."""
        if site.fixed:
            raise ValueError(f"{site.name} cannot be edited: {site.fixed}.")
        if self.head is not None:
            if "heads" not in site.shape:
                raise ValueError(f"{site.name} has no heads ({' '.join(site.shape)}); leave head out.")
            _check_range("head", self.head, site.sizes[site.shape.index("heads")], site.name)
        if self.dims is not None:
            if not site.channels:
                raise ValueError(f"{site.name} has no channels ({' '.join(site.shape)}); leave dims out.")
            count = site.channels[-1]
            dims = range(count)[self.dims] if isinstance(self.dims, slice) else self.dims
            if not len(dims):
                raise ValueError(f"dims={self.dims} chooses none of the {count} channels of {site.name}.")
            _check_range("dims", dims, count, site.name)

    def chosen(self, site: Site, keys: int = 1) -> Int[Tensor, " channels"]:
        """Give the numbers of the flattened channels that are edited."""
        sizes = (site.sizes[1], keys) if site.is_square else site.channels or (1,)
        grid = torch.arange(math.prod(sizes)).view(sizes)
        if self.head is not None:
            grid = grid[list(self.head) if isinstance(self.head, tuple) else [self.head]]
        if self.dims is not None:
            grid = grid[..., self.dims if isinstance(self.dims, slice) else list(self.dims)]
        return grid.flatten()


def _whole_numbers(name: str, numbers: Any) -> int | tuple[int, ...]:
    """Give one number, or a copy of several, since the caller may change its list."""
    try:
        return index(numbers) if hasattr(numbers, "__index__") else tuple(index(number) for number in numbers)
    except TypeError:
        raise TypeError(
            f"{name}={numbers!r} must be a whole number or a list of them, got {type(numbers).__name__}; a tensor or "
            "an array gives a list with .tolist()."
        ) from None


def _check_range(name: str, numbers: int | Sequence[int], count: int, where: str) -> None:
    wrong = [n for n in ([numbers] if isinstance(numbers, int) else numbers) if not -count <= n < count]
    if wrong:
        raise ValueError(f"{name}={numbers}: {where} has {count}, numbered 0 to {count - 1}; {wrong} are beyond.")


@dataclass(frozen=True, eq=False, repr=False)
class _Chosen(Intervention):
    """An edit of some heads, channels and seconds of a site.

    Parameters
    ----------
    site : str or re.Pattern
        One or several sites, as in `unisat.capture`.
    head : int or sequence of int, optional
        Which heads; None for all.
    dims : sequence of int or slice, optional
        Which channels of the last axis, of each head where there are heads; None for all.
    time : (start, end), optional
        Only frames whose centre lies in these seconds are edited (of attention, such queries); None for all.
    """

    site: Selector
    head: int | Sequence[int] | None = field(default=None, kw_only=True)
    dims: Sequence[int] | slice | None = field(default=None, kw_only=True)
    time: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("head", "dims"):
            numbers = getattr(self, name)
            if numbers is None or isinstance(numbers, slice):
                continue
            own = _whole_numbers(name, numbers)
            own = (own,) if name == "dims" and isinstance(own, int) else own
            object.__setattr__(self, name, own)
            if isinstance(own, tuple) and (not own or len(set(own)) < len(own)):
                raise ValueError(f"{name}={own} must be different numbers, at least one.")
        if self.time is not None:
            if not isinstance(self.time, list | tuple) or len(self.time) != 2:
                raise ValueError(f"time={self.time!r} must be (start, end) in seconds.")
            object.__setattr__(self, "time", tuple(self.time))
            for bound in self.time:
                check_number("time", bound)
            if not self.time[0] < self.time[1]:
                raise ValueError(f"time={self.time} must be (start, end) in seconds, start before end.")


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(_Chosen):
    """Take away what a site says: put zeros, a mean, or another utterance's values in its place.

    Parameters
    ----------
    site, head, dims, time
        Where: a name, glob, range or regular expression of sites; which heads (int or several), channels of the last
        axis (several or a slice) and seconds (start, end). None for all.
    mode : {"zero", "mean", "resample"}
        "zero" leads farthest out of the model's usual range. "mean" keeps what all frames share. "resample" takes the
        frames of another utterance of the batch, which is drawn: each frame gets the one at the same share of that
        utterance. Attention scores and patterns can only be zeroed.
    mean : (channels,), optional
        The vector for "mean", such as the mean over a corpus; None for the mean over the valid frames of the batch.
    seed : int
        Seed of "resample".

    Examples
    --------
    >>> with us.intervene(model, us.Ablate("block.4.attn.z", head=2, mode="mean")):
    ...     output = model(input_values, attention_mask)
    """

    mode: Mode = field(default="zero", kw_only=True)
    mean: Tensor | np.ndarray | None = field(default=None, kw_only=True, repr=False)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode={self.mode!r} must be one of {', '.join(get_args(Mode))}.")
        check_number("seed", self.seed, whole=True)
        if self.mean is not None and self.mode != "mean":
            raise ValueError(f"mean= belongs to mode='mean', not to {self.mode!r}.")

    def check(self, site: Site) -> None:
        """Refuse a mean of another width, and modes that do not fit attention."""
        super().check(site)
        if site.is_square and self.mode != "zero":
            raise ValueError(
                f"{site.name} pairs frames with frames, there is no mean or other utterance for it; zero it, or edit "
                "attn.z, what the heads give."
            )
        if self.mean is not None:
            fit("mean", self.mean, site, self.chosen(site))

    def change(self, part: Rows, place: Place) -> Rows:
        """Give zeros, the mean, or another utterance."""
        if self.mode == "zero":
            return torch.zeros_like(part)
        if self.mode == "mean" and self.mean is not None:
            return fit("mean", self.mean, place.site, place.chosen).to(part).expand_as(part)
        if self.mode == "mean":
            return widen(part)[place.valid].mean(0).to(part.dtype).expand_as(part)
        if len(part) < 2:
            raise ValueError(
                "mode='resample' takes values from another utterance of the batch, and this batch has one; give it "
                "more utterances, or Patch from a trace."
            )
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(self.seed)).to(part.device)
        donor = torch.empty_like(order)
        donor[order] = order.roll(1)  # no utterance is its own donor
        frames = stretched(place.lengths[donor], place.lengths, part.shape[1])
        return part[donor[:, None], frames]


@dataclass(frozen=True, eq=False, repr=False)
class Patch(_Chosen):
    """Activation patching: put in what a site held in another forward pass.

    Parameters
    ----------
    site, head, dims, time
        Where, as in `Ablate`.
    source : Trace
        A trace of `unisat.run` or `unisat.capture` with the site: as many utterances as the batch, or one for all.
    align : {"error", "crop", "stretch"}
        What to do with utterances of different length: refuse them; patch frame by frame as far as the source reaches
        and leave the rest; or take for each frame the source's frame at the same share of the utterance. Attention
        scores and patterns need equal lengths.
    """

    source: Source = field(repr=False)
    align: Align = field(default="error", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.source, Trace | Recorded):
            raise TypeError(f"source of Patch must be a Trace, got {type(self.source).__name__}; us.run gives one.")
        if self.align not in get_args(Align):
            raise ValueError(f"align={self.align!r} must be one of {', '.join(get_args(Align))}.")

    def check(self, site: Site) -> None:
        """Refuse a source without the site, or from another model."""
        super().check(site)
        name = site.name
        if name not in self.source.sites:
            held = ", ".join(self.source.sites)
            raise ValueError(f"the source of Patch holds {held}, not {name}; run the model with {name!r} among them.")
        shape = self.source[name].shape
        here = " ".join(f"{axis}={n}" if n else axis for axis, n in zip(site.shape, site.sizes, strict=True))
        fits = len(shape) == len(site.sizes) and all(n in (0, m) for n, m in zip(site.sizes, shape, strict=True))
        if not fits:
            raise ValueError(f"the source holds {name} as {tuple(shape)}, this model has {here}: is it another's?")
        if site.is_square and self.align != "error":
            raise ValueError(
                f"{name} pairs frames with frames: a cropped or stretched row would no longer sum to 1; patch attn.z, "
                "or utterances of equal length."
            )

    def change(self, part: Rows, place: Place) -> Rows:
        """Give the source's values, frame by frame."""
        site = place.site
        value, lengths = self.source[site.name].to(part), self.source.lengths(site.name).to(part.device)
        if len(value) not in (1, len(part)):
            raise ValueError(
                f"the source of Patch at {site.name} has {len(value)} utterances, the batch {len(part)}; it needs as "
                "many, or one for all."
            )
        if site.is_square:  # the padding may differ where lengths are equal
            value = F.pad(value, (0, part.shape[1] - value.shape[-1]))
        rows = to_rows(site, value)[..., place.chosen].expand(len(part), -1, -1)
        lengths = lengths.expand(len(part))
        unequal = (lengths != place.lengths).nonzero().flatten().tolist()
        if unequal and self.align == "error":
            row = unequal[0]
            raise ValueError(
                f"{site.name}: utterance {row} has {int(place.lengths[row])} frames, its source {int(lengths[row])}. "
                "Patch utterances of equal length, or say align='crop' (as far as the source reaches) or 'stretch' "
                "(the frame at the same share of the utterance)."
            )
        if self.align == "stretch":
            frames = stretched(lengths, place.lengths, part.shape[1])
        else:
            frames = torch.arange(part.shape[1], device=part.device).minimum(lengths[:, None] - 1)
        patched = rows[torch.arange(len(part), device=part.device)[:, None], frames]
        if self.align != "crop":
            return patched
        return torch.where(valid_positions(lengths, part.shape[1])[..., None], patched, part)


@dataclass(frozen=True, eq=False, repr=False)
class Steer(_Chosen):
    """Add ``scale`` times a vector to every frame.

    Parameters
    ----------
    site, head, dims, time
        Where, as in `Ablate`.
    vector : (channels,)
        A vector over all channels of the site, or over those that ``head`` and ``dims`` choose.
    scale : float
        Its factor.
    """

    vector: Tensor | np.ndarray = field(repr=False)
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale", self.scale)

    def check(self, site: Site) -> None:
        """Refuse a vector of another width, and attention, which has no channels."""
        super().check(site)
        _needs_channels("Steer", site)
        fit("vector", self.vector, site, self.chosen(site))

    def change(self, part: Rows, place: Place) -> Rows:
        """Add the vector to the values."""
        return part + self.scale * fit("vector", self.vector, place.site, place.chosen).to(part)


@dataclass(frozen=True, eq=False, repr=False)
class Project(_Chosen):
    """Remove a subspace from every frame, or keep nothing else.

    Parameters
    ----------
    site, head, dims, time
        Where, as in `Ablate`.
    basis : (rank, channels) or (channels,)
        Vectors that span the subspace, one in each row, such as ``components_`` of scikit-learn. They need not be
        orthogonal. They are over all channels of the site, or over those that ``head`` and ``dims`` choose.
    keep : bool
        True keeps only what lies in the subspace, False only what does not.
    """

    basis: Tensor | np.ndarray = field(repr=False)
    keep: bool = False

    def check(self, site: Site) -> None:
        """Refuse a basis of another width, and attention, which has no channels."""
        super().check(site)
        _needs_channels("Project", site)
        self.orthonormal(site, self.chosen(site))

    def orthonormal(self, site: Site, chosen: Int[Tensor, " channels"]) -> Float[Tensor, "rank channels"]:
        """Give orthonormal rows that span the same subspace, as many as its rank."""
        basis = torch.as_tensor(self.basis)
        rows = [fit("basis", row, site, chosen) for row in (basis if basis.ndim > 1 else basis[None])]
        if not rows:
            raise ValueError("basis has no rows: give the vectors that span the subspace, (rank, channels).")
        _, sizes, directions = torch.linalg.svd(torch.stack(rows).cpu().double(), full_matrices=False)
        precision = torch.finfo(basis.dtype if basis.is_floating_point() else torch.float32).eps
        rank = int((sizes > sizes[0] * precision * max(len(rows), len(chosen))).sum())
        if rank == 0:
            raise ValueError("basis is zero everywhere: it spans nothing.")
        return directions[:rank]

    def change(self, part: Rows, place: Place) -> Rows:
        """Give the part in the subspace, or the rest."""
        return self.split(part, self.orthonormal(place.site, place.chosen).to(part))

    def split(self, part: Rows, directions: Float[Tensor, "*batch rank channels"]) -> Rows:
        """Give the part that lies in the span of orthonormal directions, or the rest."""
        inside = (part @ directions.mT) @ directions
        return inside if self.keep else part - inside


@dataclass(frozen=True, eq=False, repr=False)
class Erase(_Chosen):
    """Remove what tells the classes of a label apart from every frame; `unisat.erase` finds it in a bank.

    A value x becomes ``x - W⁺ Bᵀ B W (x - mean)``: it is whitened by W, loses the directions B, and is turned back (W⁺
    is the pseudo-inverse of W). Without W this removes the directions B themselves.

    Parameters
    ----------
    site, time
        Where, as in `Ablate`; all of its channels.
    basis : (rank, channels)
        Orthonormal directions, one in each row, of whitened values.
    mean : (channels,)
        The point that stays where it is.
    whiten : (channels, channels), optional
        The matrix W, which is symmetric.
    """

    basis: Tensor | np.ndarray = field(repr=False)
    mean: Tensor | np.ndarray = field(repr=False)
    whiten: Tensor | np.ndarray | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None or self.dims is not None:
            raise ValueError("Erase removes directions of all channels of a site; leave head and dims out.")
        shapes = [None if one is None else tuple(np.shape(one)) for one in (self.basis, self.mean, self.whiten)]
        width = shapes[0][-1] if shapes[0] else 0
        if len(shapes[0] or ()) != 2 or shapes[1] != (width,) or shapes[2] not in (None, (width, width)):
            raise ValueError(
                f"Erase takes basis (rank, channels), mean (channels,) and whiten (channels, channels), got {shapes}."
            )

    @property
    def rank(self) -> int:
        """How many directions are removed."""
        return len(self.basis)

    def check(self, site: Site) -> None:
        """Refuse a site of another width, and attention, which has no channels."""
        super().check(site)
        _needs_channels("Erase", site)
        fit("mean", self.mean, site, self.chosen(site))

    def change(self, part: Rows, place: Place) -> Rows:
        """Give the values without the directions."""
        return self.remove(part, torch.as_tensor(self.basis))

    def apply(self, values: Any) -> Any:
        """Erase the values of an array or a tensor (…, channels), such as those of a bank's site.

        Examples
        --------
        >>> erased = us.FeatureBank.from_arrays(bank.table, {site: edit.apply(bank[site])}, bank.settings)
        """
        rows = torch.as_tensor(values)
        if rows.shape[-1:] != self.mean.shape or not rows.is_floating_point():
            raise ValueError(
                f"values must be decimal numbers of shape (…, {len(self.mean)}), got {tuple(rows.shape)} of "
                f"{str(rows.dtype).removeprefix('torch.')}."
            )
        done = self.remove(float64(rows), torch.as_tensor(self.basis)).to(rows)
        return done if isinstance(values, Tensor) else done.numpy()

    def remove(
        self, part: Float[Tensor, "*rows channels"], directions: Float[Tensor, "*seeds rank channels"]
    ) -> Float[Tensor, "*rows channels"]:
        """Remove orthonormal directions of the whitened values."""
        read = write = directions.cpu().double()
        if self.whiten is not None:
            whiten = torch.as_tensor(self.whiten).cpu().double()
            read, write = directions.cpu().double() @ whiten, directions.cpu().double() @ _pinv(whiten)
        centred = part - torch.as_tensor(self.mean).to(part)
        return part - (centred @ read.mT.to(part)) @ write.to(part)

    def random(self, turned: Float[Tensor, "seeds channels channels"]) -> Float[Tensor, "seeds rank channels"]:
        """Give as many random directions of the whitened values for each rotation, where these vary at all."""
        rows = torch.as_tensor(self.basis).cpu().double() @ turned.double()
        if self.whiten is not None:
            whiten = torch.as_tensor(self.whiten).cpu().double()
            rows = rows @ whiten @ _pinv(whiten)
        return torch.linalg.qr(rows.mT)[0].mT


def _pinv(whiten: Float[Tensor, "channels channels"]) -> Float[Tensor, "channels channels"]:
    return torch.linalg.pinv(whiten, hermitian=True, rtol=1e-9)


@dataclass(frozen=True, eq=False, repr=False)
class Edit(Intervention):
    """Replace each utterance's values by what a function makes of them.

    Parameters
    ----------
    site : str or re.Pattern
        Where, as in `Ablate`.
    fn : callable
        A function from the values of one utterance without padding, such as (frames, hidden), (frames, heads,
        head_dim) or (heads, queries, keys), to values of the same shape. It gets a copy.
    """

    site: Selector
    fn: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"fn of Edit must be a function of one utterance's values, got {type(self.fn).__name__}.")

    def change(self, part: Rows, place: Place) -> Rows:
        """Give what the function gives, utterance by utterance."""
        value = from_rows(place.site, part).clone()
        for row, length in enumerate(place.lengths.tolist()):
            # batch and samples come first in a waveform, too
            frames = (row, slice(None), slice(length), slice(length)) if place.site.is_square else (row, slice(length))
            before = value[frames].clone()
            after = self.fn(before)
            if not isinstance(after, Tensor) or after.shape != before.shape:
                got = f"shape {tuple(after.shape)}" if isinstance(after, Tensor) else f"{type(after).__name__}"
                raise ValueError(
                    f"fn of Edit at {place.site.name} must return a tensor of the shape that it got, "
                    f"{tuple(before.shape)}; it returned {got}."
                )
            value[frames] = after.to(value)
        return to_rows(place.site, value)


@dataclass(frozen=True, eq=False, repr=False)
class Placebo(Intervention):
    """A change as large as that of another edit, in random directions: what any disturbance of this size does.

    The change that the other edit would make is turned by a random rotation of the channels that it edits, the same for
    all frames. So each frame changes by the same norm, and changes of different frames stay as alike as they were. A
    constant shift becomes a random direction.

    A `Project` becomes a projection on random directions of the same rank. Most random directions hold little of what
    varies, so that they remove less than directions that were chosen by looking; ``match="variance"`` asks what *any*
    directions do that remove as much.

    An `Erase` loses as many random directions in its place. Where it whitens, they are random directions of the
    whitened values. There all directions vary alike, so that the same rank removes the same share of the variance.

    Parameters
    ----------
    of : Ablate, Patch, Steer, Project, Erase or Edit
        The other edit.
    seed : int or sequence of int
        Seed of the rotation, which is the same in each forward pass; or one for each utterance of the batch.
    match : {"rank", "variance"}
        Of a `Project` alone. "rank" takes random directions; "variance" takes random directions in which the batch's
        frames vary as much in all as in the directions of the edit, drawn more or less along the principal components.
        The variance that is nearest is taken where no directions of this rank have so much.
    """

    of: Intervention
    seed: int | Sequence[int] = 0
    match: Literal["rank", "variance"] = "rank"

    def __post_init__(self) -> None:
        if not isinstance(self.of, Intervention) or isinstance(self.of, Placebo):
            raise ValueError(f"Placebo(of=...) takes an edit such as Ablate(...), got {type(self.of).__name__}.")
        if self.match not in ("rank", "variance") or (self.match == "variance" and not isinstance(self.of, Project)):
            raise ValueError(f"match={self.match!r} must be 'rank', or 'variance' for the placebo of a Project.")
        for seed in self.seed if isinstance(self.seed, Sequence) else [self.seed]:
            check_number("seed", seed, whole=True)
        for name in ("site", "head", "dims", "time"):
            object.__setattr__(self, name, getattr(self.of, name))

    def check(self, site: Site) -> None:
        """Refuse what the edit refuses, and sites where no direction can be drawn."""
        self.of.check(site)
        _needs_channels("Placebo", site)
        if len(self.chosen(site)) < 2:
            raise ValueError(f"a random direction needs at least two channels, {self.of!r} edits one of {site.name}.")

    def change(self, part: Rows, place: Place) -> Rows:
        """Add the edit's change, turned, to the values."""
        seeds = list(self.seed) if isinstance(self.seed, Sequence) else [self.seed]
        if len(seeds) not in (1, len(part)):
            raise ValueError(f"Placebo has {len(seeds)} seeds for {len(part)} utterances; give one, or one for each.")
        turned = torch.stack([rotation(part.shape[-1], seed) for seed in seeds])
        if isinstance(self.of, Erase):
            return self.of.remove(part, self.of.random(turned))
        if not isinstance(self.of, Project):
            return part + (self.of.change(part, place) - part) @ turned.to(part)
        own = self.of.orthonormal(place.site, place.chosen).cpu().double()
        if self.match == "rank":
            directions = own @ turned.double()
        else:
            covariance = torch.cov(part[place.valid].cpu().double().T)
            directions = torch.stack([as_variable(own, covariance, rows[: len(own)].double()) for rows in turned])
        return self.of.split(part, directions.to(part))


def as_variable(
    own: Float[Tensor, "rank channels"],
    covariance: Float[Tensor, "channels channels"],
    random: Float[Tensor, "rank channels"],
) -> Float[Tensor, "rank channels"]:
    """Bend random directions towards or away from the principal components until they hold as much variance as ``own``.

    Each direction is weighted along the principal components by a power of their standard deviations. The power is
    found by halving an interval: 0 leaves the directions as they are, and a large one gives the largest components.
    """
    sizes, axes = torch.linalg.eigh(covariance)
    weight = (sizes / sizes[-1]).clamp(min=1e-6)
    wanted = torch.trace(own @ covariance @ own.T)
    low, high = -3.0, 12.0
    for _ in range(40):
        power = (low + high) / 2
        directions = torch.linalg.qr((random @ axes * weight**power @ axes.T).T)[0].T
        if torch.trace(directions @ covariance @ directions.T) < wanted:
            low = power
        else:
            high = power
    return directions


def _needs_channels(what: str, site: Site) -> None:
    if not site.channels:
        raise ValueError(f"{what} needs channels, and {site.name} has none ({' '.join(site.shape)}).")


def rotation(channels: int, seed: int) -> Float[Tensor, "channels channels"]:
    """Draw an orthogonal matrix uniformly (Haar), the same on every device (Mezzadri, 2007, math-ph/0609050)."""
    gaussian = torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()


def stretched(source: Int[Tensor, " batch"], target: Int[Tensor, " batch"], frames: int) -> Int[Tensor, "batch frames"]:
    """Give for each of ``target`` frames the one of ``source`` frames at the same share of the utterance."""
    centres = 2 * torch.arange(frames, device=target.device) + 1
    return (centres * source[:, None] // (2 * target[:, None])).minimum(source[:, None] - 1)


def fit(name: str, vector: Any, site: Site, chosen: Int[Tensor, " channels"]) -> Float[Tensor, " channels"]:
    """Give a vector over the chosen channels; it may be given over all channels."""
    try:
        flat = torch.as_tensor(vector).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} for {site.name} must be a tensor of numbers, got {type(vector).__name__}.") from None
    if not torch.isfinite(flat).all():
        raise ValueError(f"{name} for {site.name} has values that are not finite.")
    every = math.prod(site.channels)
    if len(flat) not in (every, len(chosen)):
        expected = f"{every}" if every == len(chosen) else f"{len(chosen)} (those chosen) or {every} (all)"
        hint = "; its rows are the vectors" if name == "basis" else ""
        raise ValueError(f"{name} has {len(flat)} channels, {site.name} needs {expected}{hint}.")
    return flat if len(flat) == len(chosen) else flat[chosen.to(flat.device)]


def to_rows(site: Site, value: Tensor) -> Rows:
    """Flatten all axes but batch and time into channels."""
    if site.is_square:
        return value.transpose(1, 2).flatten(2)
    return value.flatten(2) if value.ndim > 2 else value[..., None]


def from_rows(site: Site, rows: Rows) -> Tensor:
    """Undo `to_rows`."""
    if site.is_square:
        return rows.unflatten(2, (site.sizes[1], -1)).transpose(1, 2)
    return rows.unflatten(2, site.channels) if site.channels else rows[..., 0]
