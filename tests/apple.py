"""CPU tensors that behave like Apple's: on mps by their own word, without float64, and apart from the CPU.

What is made of them is there too, until it is moved with ``cpu()`` or ``to``. As on a real device, tensors of both
meet only where those of the CPU are numbers, without axes, or indices of what is on mps.
"""

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps")
REAL, MOVE = torch.Generator, nn.Module.to
MOVES = "to copy_ __get__ __set__ _make_subclass __repr__ expand_as view_as reshape_as type_as".split()
"""What two devices may have a part in."""
READS = "item tolist __bool__ __int__ __float__ __index__ cpu numpy equal nonzero masked_select".split()
"""What waits for the device, since Python or a shape depends on what it has computed."""


class OnApple(Tensor):
    """A tensor that says it is on mps."""

    @property
    def device(self):
        return MPS

    def __iter__(self):  # torch's own gives parts that are nowhere
        return iter(self.unbind(0))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return called(func, args, kwargs or {})


class ParameterOnApple(OnApple, nn.Parameter):
    """A parameter that says so."""


class Generator(REAL):
    """A generator that says where it was made."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.place = torch.device(device)
        return made

    @property
    def device(self):
        return self.place


def named(func):
    return getattr(func, "__name__", str(func))


def refuse_to_mix(func, args, kwargs):
    """Refuse a call in which tensors of both devices meet."""
    name, parts = named(func), (args, kwargs)
    if name in MOVES:
        return
    if name == "__setitem__" and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(args[1])):
        return  # a copy
    if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnApple):
        parts = (args[0], args[2:])
    tensors = [leaf for leaf in tree_leaves(parts) if isinstance(leaf, Tensor)]
    if len({isinstance(tensor, OnApple) for tensor in tensors if isinstance(tensor, OnApple) or tensor.ndim}) > 1:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found both mps and cpu")


def waits(func, args, kwargs):
    """Whether the device is waited for."""
    name = named(func)
    if not any(isinstance(leaf, OnApple) for leaf in tree_leaves((args, kwargs))):
        return False
    if name in ("__getitem__", "__setitem__"):  # by a mask
        return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1]))
    moved = name == "to" and "cpu" in [str(leaf) for leaf in tree_leaves((args[1:], kwargs))]
    return moved or name in READS


def called(func, args, kwargs):
    """Call a function of torch; what comes of tensors on mps is there, and must not be in float64."""
    if func is torch.device:
        return func(*args, **kwargs)
    refuse_to_mix(func, args, kwargs)
    leaves = tree_leaves((args, kwargs))
    places = [str(leaf) for leaf in leaves if isinstance(leaf, str | torch.device) and str(leaf) in ("cpu", "mps")]
    there = "mps" in places or any(isinstance(leaf, OnApple) for leaf in leaves)
    back = func is torch.Tensor.cpu or places == ["cpu"]
    if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
        there = isinstance(args[1], OnApple)
        back, args = not there, (args[0], args[1].as_subclass(Tensor), *args[2:])
    for generator in leaves:
        if isinstance(generator, REAL) and (generator.device == MPS) != (there and not back):
            raise RuntimeError(f"{named(func)}: the generator is on {generator.device}, the tensor is not")
    if named(func) in ("numpy", "__array__") and there:
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first.")
    made = {MPS: "cpu", "mps": "cpu"}
    args, kwargs = tree_map(lambda x: made.get(x, x) if isinstance(x, str | torch.device) else x, (args, kwargs))
    with torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)

    def placed(leaf):
        if not isinstance(leaf, Tensor) or isinstance(leaf, nn.Parameter):
            return leaf
        if back or not there:
            return leaf.as_subclass(Tensor)
        if leaf.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return leaf.as_subclass(OnApple)

    return tree_map(placed, out)


class Apple(TorchFunctionMode):
    """Where tensors and generators can be made on mps; ``waited`` names each call that waited for it."""

    def __init__(self):
        super().__init__()
        self.waited = []

    def __enter__(self):
        torch.Generator, nn.Module.to = Generator, moved
        return super().__enter__()

    def __exit__(self, *error):
        torch.Generator, nn.Module.to = REAL, MOVE
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if waits(func, args, kwargs or {}):
            self.waited.append(named(func))
        return called(func, args, kwargs or {})


def moved(module, *where, **options):
    """`torch.nn.Module.to`."""
    there = "mps" in map(str, (*where, *options.values()))
    return on_apple(module) if there else MOVE(module, *where, **options)


def on_apple(model):
    """Move a model there."""
    for parameter in model.parameters():
        parameter.__class__ = ParameterOnApple
    return model
