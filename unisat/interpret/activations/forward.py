"""Which forward pass a hook is in, and how hooks are hung: what the scopes of `capture`, `intervene` and others share.

A hook on a submodule sees a padded batch and not which frames of it are padding. `Following` reads that from what the
backbone is called with.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unisat.config import UniSpeechSatConfig
from unisat.frames import valid_positions
from unisat.inputs import sample_lengths
from unisat.interpret.activations.sites import Site
from unisat.model import UniSpeechSatModel


@dataclass(eq=False)
class ForwardPass:
    """One forward pass of a backbone.

    Attributes
    ----------
    samples : (batch,)
        Length of each utterance, in samples.
    width : int
        Length of the padded batch, in samples.
    config : UniSpeechSatConfig
        Of the backbone.
    in_backbone : bool
        Whether the backbone is running. What runs behind it, a quantizer or a head, belongs to the same pass.
    values : dict of str to tensor
        What a scope records of the pass, by site.
    """

    samples: Int[Tensor, " batch"]
    width: int
    config: UniSpeechSatConfig
    in_backbone: bool = False
    values: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def reaches(self, site: Site) -> bool:
        """Whether a hook that is called at a site is called by this pass.

        Gradient checkpointing calls the hooks of layers a second time, in the backward pass.
        """
        return self.in_backbone or not site.in_backbone

    def positions(self, site: Site) -> int:
        """Length of the site's time axis, padding included."""
        return site.positions(self.width, self.config)

    def lengths(self, site: Site) -> Int[Tensor, " batch"]:
        """Valid positions of each utterance along the site's time axis."""
        return site.positions(self.samples, self.config)

    def valid(self, site: Site) -> Bool[Tensor, "batch positions"]:
        """True on the utterance along the site's time axis, False on the padding."""
        return valid_positions(self.lengths(site), self.positions(site))

    def seconds(self, site: Site) -> Float[Tensor, " positions"]:
        """Time of the centre of each position, in seconds."""
        return site.seconds(self.width, self.config)


class Following:
    """Says which forward pass of a backbone the hooks of one scope are in; each thread has a pass of its own.

    Parameters
    ----------
    backbone : UniSpeechSatModel
    before : callable, optional
        Gets each pass and the backbone before the pass begins; an error refuses the pass.
    after : callable, optional
        Gets each pass that has come through the backbone.
    """

    def __init__(
        self,
        backbone: UniSpeechSatModel,
        before: Callable[[ForwardPass, UniSpeechSatModel], None] | None = None,
        after: Callable[[ForwardPass], None] | None = None,
    ) -> None:
        self._config, self._signature = backbone.config, inspect.signature(backbone.forward)
        self._before, self._after = before, after
        self._thread, self._open = threading.local(), False

    @property
    def now(self) -> ForwardPass | None:
        """The pass that this thread is in or was in last; None before the first pass and after one that failed."""
        return getattr(self._thread, "now", None)

    @contextmanager
    def hooks(self, backbone: UniSpeechSatModel) -> Iterator[None]:
        """Follow the passes of the backbone inside this scope; compiled models run eagerly in it."""
        # functions: a copy of the model that is made inside the scope would copy bound methods with all they hold
        begin = lambda module, args, kwargs: self._begin(module, args, kwargs)  # noqa: E731
        with eagerly(), ExitStack() as stack:
            stack.callback(backbone.register_forward_pre_hook(begin, with_kwargs=True).remove)
            # this hook is called when the forward pass raises, too
            end = backbone.register_forward_hook(lambda module, args, output: self._end(output), always_call=True)
            stack.callback(end.remove)
            self._open = True
            stack.callback(setattr, self, "_open", False)  # for the hooks of a copy, which stay
            yield

    def _begin(self, backbone: UniSpeechSatModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._thread.now = None
        given = self._signature.bind(*args, **kwargs).arguments
        waveforms, mask = given["input_values"], given.get("attention_mask")
        if waveforms.ndim != 2 or not self._open:
            return  # of a waveform without a batch the model says what is wrong
        batch, width = waveforms.shape
        samples = torch.full((batch,), width) if mask is None else sample_lengths(mask).cpu()
        begun = ForwardPass(samples, width, self._config)
        if self._before is not None:
            self._before(begun, backbone)
        begun.in_backbone = True
        self._thread.now = begun

    def _end(self, output: Any) -> None:
        ended = self.now
        if ended is None:
            return
        ended.in_backbone = False
        if output is None:
            self._thread.now = None
        elif self._after is not None:
            self._after(ended)


@contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled models as they were written inside this scope: compiled code does not call hooks."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def hook(module: nn.Module, side: str, see: Callable[[Any], Any], *, first: bool = False) -> RemovableHandle:
    """Let a function see one side of a module; what it returns, if anything, takes the place of what it saw.

    Parameters
    ----------
    side : {"input", "output"}
    first : bool
        Whether the function sees the side before all hooks that are there.
    """
    if side == "input":
        return module.register_forward_pre_hook(lambda module, args: see(args), prepend=first)
    return module.register_forward_hook(lambda module, args, output: see(output), prepend=first)


def refuse_training(backbone: UniSpeechSatModel, what: str) -> None:
    """Raise a ValueError where the backbone is in training mode."""
    if backbone.training:
        raise ValueError(
            f"the model is in training mode: dropout, masks and LayerDrop would make this {what} a random one; call "
            "model.eval() first, or pass allow_train=True."
        )
