"""Which forward pass a hook is in, and how hooks are hung: what the scopes of `capture`, `intervene` and others share.

A hook on a submodule sees a padded batch and not which frames of it are padding. `Following` reads that from what the
backbone is called with. A scope is for the thread that opens it: other threads may run the same model meanwhile.
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


class Hook:
    """A hook of a scope: it sees what its thread does with its module, and nothing of other threads and copies.

    Parameters
    ----------
    register : callable
        The method of a module that hangs hooks, such as ``module.register_forward_hook``.
    see : callable
        What torch calls, with the module first.
    **options
        Options of ``register``.
    """

    def __init__(self, register: Callable[..., RemovableHandle], see: Callable[..., Any], **options: Any) -> None:
        self._module: nn.Module = register.__self__  # type: ignore[attr-defined]
        self._see, self._thread = see, threading.get_ident()
        self._copies: list[dict[int, Any]] = []
        self._handle = register(self, **options)

    def __call__(self, module: nn.Module, *seen: Any) -> Any:
        """Let the function see, or pass by."""
        if module is self._module and threading.get_ident() == self._thread:
            return self._see(module, *seen)
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        """Give the same hook, which does nothing on a copy of its module, and note the copy, to be removed there."""
        # a dict is noted in the memo before what it holds is copied
        hooks = memo.get(id(self._handle.hooks_dict_ref()))
        self._copies += [] if hooks is None else [hooks]
        return self

    def remove(self) -> None:
        """Take the hook off its module and the copies that were made of it."""
        self._handle.remove()
        for hooks in self._copies:
            hooks.pop(self._handle.id, None)


class Following:
    """Says which forward pass of a backbone the hooks of one scope are in.

    Parameters
    ----------
    backbone : UniSpeechSatModel
    before : callable, optional
        Gets each pass and the backbone before the pass begins; an error refuses the pass.
    after : callable, optional
        Gets each pass that has come through the backbone.
    """

    now: ForwardPass | None = None
    """The pass that the scope is in or was in last; None before the first pass and after one that failed."""

    def __init__(
        self,
        backbone: UniSpeechSatModel,
        before: Callable[[ForwardPass, UniSpeechSatModel], None] | None = None,
        after: Callable[[ForwardPass], None] | None = None,
    ) -> None:
        self._config, self._signature = backbone.config, inspect.signature(backbone.forward)
        self._before, self._after = before, after

    @contextmanager
    def hooks(self, backbone: UniSpeechSatModel) -> Iterator[None]:
        """Follow the passes of the backbone inside this scope; compiled models run eagerly in it."""
        with eagerly(), ExitStack() as stack:
            begin = Hook(backbone.register_forward_pre_hook, self._begin, with_kwargs=True)
            stack.callback(begin.remove)
            # this hook is called when the forward pass raises, too
            end = Hook(backbone.register_forward_hook, self._end, always_call=True)
            stack.callback(end.remove)
            yield

    def _begin(self, backbone: UniSpeechSatModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.now = None
        given = self._signature.bind(*args, **kwargs).arguments
        waveforms, mask = given["input_values"], given.get("attention_mask")
        if not isinstance(waveforms, Tensor) or waveforms.ndim != 2:
            return  # the model says what is wrong
        batch, width = waveforms.shape
        samples = torch.full((batch,), width) if mask is None else sample_lengths(mask).cpu()
        begun = ForwardPass(samples, width, self._config)
        if self._before is not None:
            self._before(begun, backbone)
        begun.in_backbone = True
        self.now = begun

    def _end(self, backbone: UniSpeechSatModel, args: tuple[Any, ...], output: Any) -> None:
        ended = self.now
        if ended is None:
            return
        ended.in_backbone = False
        if output is None:
            self.now = None
        elif self._after is not None:
            self._after(ended)


@dataclass
class _Eager:
    """How many scopes are open in all threads, and torch's stance as long as they hold it."""

    scopes: int = 0
    stance: ExitStack = field(default_factory=ExitStack)
    held: bool = False


_EAGER, _LOCK = _Eager(), threading.Lock()


@contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled models as they were written inside this scope: compiled code does not call hooks.

    Torch has one stance for all threads, so the scopes take it once, and the last of them gives it back.
    """
    with _LOCK:
        _EAGER.scopes += 1
        if not _EAGER.held and "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing takes seconds
            _EAGER.stance.enter_context(torch.compiler.set_stance("force_eager"))
            _EAGER.held = True
    try:
        yield
    finally:
        with _LOCK:
            _EAGER.scopes -= 1
            if not _EAGER.scopes:
                _EAGER.stance.close()
                _EAGER.held = False


def hook(module: nn.Module, side: str, see: Callable[[Any], Any], *, first: bool = False) -> Hook:
    """Let a function see one side of a module; what it returns, if anything, takes the place of what it saw.

    Parameters
    ----------
    side : {"input", "output"}
    first : bool
        Whether the function sees the side before all hooks that are there.
    """
    register = module.register_forward_pre_hook if side == "input" else module.register_forward_hook
    return Hook(register, lambda module, *seen: see(seen[-1]), prepend=first)


def refuse_training(backbone: UniSpeechSatModel, what: str) -> None:
    """Raise a ValueError where the backbone is in training mode."""
    if backbone.training:
        raise ValueError(
            f"the model is in training mode: dropout, masks and LayerDrop would make this {what} a random one; call "
            "model.eval() first, or pass allow_train=True."
        )
