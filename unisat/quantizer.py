"""The Gumbel vector quantizer: each frame chooses one entry from each of ``G`` groups of a codebook."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.inputs import check_number, check_tensor
from unisat.precision import widen, xlogx


@dataclass(frozen=True)
class Quantized:
    """What `GumbelVectorQuantizer` gives for a batch.

    Attributes
    ----------
    codevectors : (batch, frames, codevector_dim)
        The chosen entries of all groups, concatenated.
    codevector_indices : (batch, frames, groups)
        Which entry of its group each frame chose, from 0 to ``num_codevectors_per_group - 1``.
    probabilities : (batch, frames, groups, entries)
        Softmax of the logits without noise and temperature, in float32.
    code_perplexity : (groups,)
        Perplexity of the hard choices over the frames that count (`code_perplexity` in fairseq).
    prob_perplexity : (groups,)
        Perplexity of the mean probabilities over the frames that count (`prob_perplexity` in fairseq).
    """

    codevectors: Float[Tensor, "batch frames codevector_dim"]
    codevector_indices: Int[Tensor, "batch frames groups"]
    probabilities: Float[Tensor, "batch frames groups entries"]
    code_perplexity: Float[Tensor, " groups"]
    prob_perplexity: Float[Tensor, " groups"]


def perplexity(
    probabilities: Float[Tensor, "*frames groups entries"], mask: Bool[Tensor, "*frames"] | None = None
) -> Float[Tensor, " groups"]:
    """Number of entries in use in each group: ``exp(H(mean over frames of probabilities))``, from 1 to ``entries``.

    The reference and fairseq add the groups up, and the reference ignores ``mask``. Over few frames the value of a
    large codebook is biased low, because not every entry can occur.

    Parameters
    ----------
    probabilities : (..., groups, entries)
        Soft probabilities, or one-hot choices for the hard perplexity.
    mask : (...), optional
        True on the frames that count; None for all.

    Raises
    ------
    ValueError
        If no frame counts, or the mask is not one boolean for each frame.
    """
    if mask is not None and (mask.dtype != torch.bool or mask.shape != probabilities.shape[:-2]):
        raise ValueError(
            f"mask must be {tuple(probabilities.shape[:-2])} of bool, True on the frames that count; got "
            f"{tuple(mask.shape)} of {mask.dtype}."
        )
    flat = probabilities.flatten(0, -3) if mask is None else probabilities[mask]
    if not len(flat):
        raise ValueError("perplexity over no frames: the mask is False everywhere; let at least one frame count.")
    mean = widen(flat).mean(0)  # (groups, entries)
    return torch.exp(-xlogx(mean).sum(-1))


class GumbelVectorQuantizer(nn.Module):
    """Quantizes hidden states with a product codebook, as in wav2vec 2.0 (arXiv:2006.11477, section 2).

    In training each frame draws an entry with Gumbel noise at `temperature`, and gradients pass straight through
    (arXiv:1611.01144). In evaluation it takes the most probable entry, and nothing is drawn. The input is a *hidden
    state* of width ``hidden_size``; in wav2vec 2.0 it is the output of the convolutions, of another ``width``.
    """

    def __init__(self, config: UniSpeechSatConfig, width: int | None = None):
        super().__init__()
        self.num_groups = config.num_codevector_groups
        self.num_vars = config.num_codevectors_per_group
        group_dim = config.codevector_dim // self.num_groups
        self.codevectors = nn.Parameter(torch.empty(1, self.num_groups * self.num_vars, group_dim))
        self.weight_proj = nn.Linear(width or config.hidden_size, self.num_groups * self.num_vars)
        self.temperature = 2.0
        if not self.codevectors.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw codevectors uniformly from [0, 1), the projection from the standard normal; set its bias to 0."""
        nn.init.uniform_(self.codevectors)
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch frames hidden"],
        mask_time_indices: Bool[Tensor, "batch frames"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Choose an entry of each group for each frame.

        Parameters
        ----------
        hidden_states : (batch, frames, hidden)
            Hidden states to quantize.
        mask_time_indices : (batch, frames), optional
            True on the frames that count for the perplexities; None for all. Every frame is quantized all the same.
        generator : torch.Generator, optional
            Source of the Gumbel noise in training; None is torch's own.

        Raises
        ------
        ValueError
            If the hidden states are of another width, or the mask is of another shape.
        """
        check_tensor("hidden_states", hidden_states)
        if hidden_states.ndim != 3 or hidden_states.shape[2] != self.weight_proj.in_features:
            raise ValueError(
                f"hidden_states must be (batch, frames, {self.weight_proj.in_features}), got "
                f"{tuple(hidden_states.shape)}; the quantizer reads hidden states of the transformer, and in wav2vec "
                "2.0 the normed output of the convolutions."
            )
        batch, frames, _ = hidden_states.shape
        logits = widen(self.weight_proj(hidden_states)).view(batch, frames, self.num_groups, self.num_vars)
        probabilities = logits.softmax(-1)
        hard_codes = one_hot(logits)
        codes = gumbel_choice(logits, self.temperature, generator) if self.training else hard_codes

        entries = self.codevectors.view(self.num_groups, self.num_vars, -1)
        # as a product, because the reference's (frames, entries, dim) tensor takes much memory
        codevectors = torch.einsum("btgv,gvd->btgd", codes.to(entries.dtype), entries).flatten(2)
        return Quantized(
            codevectors=codevectors,
            codevector_indices=codes.detach().argmax(-1),
            probabilities=probabilities,
            code_perplexity=perplexity(hard_codes, mask_time_indices),
            prob_perplexity=perplexity(probabilities, mask_time_indices),
        )


def one_hot(logits: Float[Tensor, "*frames entries"]) -> Float[Tensor, "*frames entries"]:
    """Give 1 at the largest logit (the first of several equal ones) and 0 elsewhere."""
    return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is no positive number."""
    check_number("temperature", temperature)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive.")


def gumbel_choice(
    logits: Float[Tensor, "*frames entries"], temperature: float, generator: torch.Generator | None = None
) -> Float[Tensor, "*frames entries"]:
    """Draw a one-hot choice with probability softmax(logits); its gradient is that of a soft draw (straight-through).

    The soft draw is ``y = softmax((logits + g) / temperature)`` with Gumbel noise ``g = -log(-log(u))``. The value is
    the one-hot of the largest entry of ``y``; the gradient is that of ``y`` (arXiv:1611.01144, section 2.2).
    """
    check_temperature(temperature)
    device = generator.device if generator is not None else logits.device
    exponential = torch.empty(logits.shape, device=device).exponential_(generator=generator).to(logits.device)
    soft = ((logits - exponential.log()) / temperature).softmax(-1)
    return one_hot(soft.detach()) + soft - soft.detach()
