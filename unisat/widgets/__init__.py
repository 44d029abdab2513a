"""Widgets: a picture from `unisat.plots` with controls over its arguments, for a notebook.

``us.widgets.masks(model, batch)`` at the end of a cell shows one; ``.controls["seed"].value = 3`` does what
moving that slider does.
"""

try:
    import anywidget  # noqa: F401
    import ipywidgets  # noqa: F401
except ImportError as error:
    raise ImportError("us.widgets needs ipywidgets and anywidget: pip install 'unisat[widgets]'.") from error

from unisat.widgets.attention_view import attention
from unisat.widgets.layer_weights_view import layer_weights
from unisat.widgets.layers_view import layers
from unisat.widgets.losses_view import losses
from unisat.widgets.mask_view import masks
from unisat.widgets.mixing_view import mixing
from unisat.widgets.quantizer_view import quantizer
from unisat.widgets.recording_view import recording
from unisat.widgets.speakers_view import speakers

__all__ = ["attention", "layer_weights", "layers", "losses", "masks", "mixing", "quantizer", "recording", "speakers"]
