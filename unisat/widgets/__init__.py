"""Widgets: a picture from `unisat.plots` with controls over its arguments, for a notebook.

``us.widgets.masks(model, batch)`` at the end of a cell shows one; ``.controls["seed"].value = 3`` does what
moving that slider does.
"""

try:
    import anywidget  # noqa: F401
    import ipywidgets  # noqa: F401
except ImportError as error:
    raise ImportError("us.widgets needs ipywidgets and anywidget: pip install 'unisat[widgets]'.") from error

from unisat.deprecation import old_modules
from unisat.widgets._attention import attention
from unisat.widgets._layer_weights import layer_weights
from unisat.widgets._layers import layers
from unisat.widgets._masks import masks
from unisat.widgets._mixing import mixing
from unisat.widgets._objective import losses
from unisat.widgets._quantizer import quantizer
from unisat.widgets._sound import recording
from unisat.widgets._speakers import speakers
from unisat.widgets._strip import strip

__all__ = [
    "attention",
    "layer_weights",
    "layers",
    "losses",
    "masks",
    "mixing",
    "quantizer",
    "recording",
    "speakers",
    "strip",
]

old_modules(
    __name__,
    {
        "attention_view": "_attention",
        "layer_weights_view": "_layer_weights",
        "layers_view": "_layers",
        "losses_view": "_objective",
        "mask_view": "_masks",
        "mixing_view": "_mixing",
        "picture": "_picture",
        "quantizer_view": "_quantizer",
        "recording_view": "_sound",
        "speakers_view": "_speakers",
        "stage": "_stage",
    },
)


def __dir__() -> list[str]:
    return __all__
