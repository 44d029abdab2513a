"""The drawing of the architecture: its names against the modules, its sizes against the weights, its light."""

import base64
import re
from xml.etree import ElementTree

import pytest
import torch
from conftest import small_config

import unisat
from unisat import plots

SVG = "{http://www.w3.org/2000/svg}"
CONFIGS = {
    "Base": unisat.UniSpeechSatConfig(),
    "tiny": unisat.load("tiny").config.replace(vocab_size=32),
    "Large": unisat.UniSpeechSatConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
    "small": small_config(utterance_contrastive_layer=1, do_stable_layer_norm=True),
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def groups(drawing):
    """The parts of a drawing by name."""
    return {one.get("id"): one for one in ElementTree.fromstring(drawing.svg).iter(f"{SVG}g")}


def lit(*names):
    return {name for name, one in groups(plots.architecture(lit=names)).items() if one.get("class") == "lit"}


def models(config):
    with torch.device("meta"):
        for head in ("PreTraining", "CTC", "AudioFrameClassification", "XVector"):
            yield getattr(unisat, f"UniSpeechSatFor{head}")(config)


def test_each_part_is_a_submodule_a_parameter_a_site_or_of_unisat(config):
    known = set(unisat.sites(unisat.load("tiny")).index)
    for model in models(config):
        names = [name for name, _ in [*model.named_modules(), *model.named_parameters()]]
        known |= {name.removeprefix("unispeech_sat.") for name in names}
    known |= {"mixing", *(f"losses.{name}" for name in vars(unisat.losses))}
    assert isinstance(unisat.mixing.Mixing, type)
    parts = groups(plots.architecture(config))
    assert not set(parts) - known
    for kind in ("feature_extractor.conv_layers", "encoder.layers"):  # none is left out
        inside = {name for name in known if re.fullmatch(rf"{kind}\.\d+", name)}
        assert inside == {name for name in parts if name.startswith(kind)}


def test_sizes_are_those_of_the_weights(config):
    model = next(models(config))
    backbone, parts = model.unispeech_sat, groups(plots.architecture(config))
    numbers = {name: [int(n) for n in re.findall(r"\d+", " ".join(one.itertext()))] for name, one in parts.items()}
    for layer, conv in enumerate(backbone.feature_extractor.conv_layers):
        (kernel,), (stride,) = conv.conv.kernel_size, conv.conv.stride
        said = numbers[f"feature_extractor.conv_layers.{layer}"]
        assert said[1:4] == [kernel, stride, conv.conv.out_channels]
        assert said[-2:] == [kernel, stride]
    wide, narrow = backbone.feature_projection.projection.weight.shape
    assert numbers["feature_projection"][:2] == [narrow, wide]
    position = backbone.encoder.pos_conv_embed.conv
    assert numbers["encoder.pos_conv_embed"][:2] == [position.kernel_size[0], position.groups]
    attention = backbone.encoder.layers[0].attention
    assert numbers["encoder.layers.0"][1:3] == [attention.num_heads, wide // attention.num_heads]
    assert numbers["encoder.layers.0"][3] == backbone.encoder.layers[0].feed_forward.intermediate_dense.out_features
    codebook = model.quantizer
    width = codebook.codevectors.shape[-1] * codebook.num_groups
    assert numbers["quantizer"][:3] == [codebook.num_vars, codebook.num_groups, width]
    for name in ("speaker_proj", "project_hid"):
        linear = getattr(model, name)
        assert numbers[name][:2] == [linear.in_features, linear.out_features]
    assert numbers["label_embeddings_concat"][:2] == list(model.label_embeddings_concat.shape)[::-1]


def test_the_line_to_the_contrastive_loss_leaves_the_contrastive_layer(config):
    drawing = plots.architecture(config)
    root = ElementTree.fromstring(drawing.svg)
    (left, wide) = (
        float(groups(drawing)[f"encoder.layers.{config.contrastive_layer - 1}"].find(f"{SVG}rect").get(side))
        for side in ("x", "width")
    )
    branches = [one.get("points") for one in root.iter(f"{SVG}polyline") if one.get("class") == "branch"]
    assert len(branches) == 2
    assert all(left < float(points.partition(",")[0]) < left + wide for points in branches)
    assert f"hidden.{config.contrastive_layer}" in drawing.svg


def test_light_falls_on_what_is_asked_for_and_on_what_it_holds():
    assert lit() == set()
    assert lit("quantizer", "wave") == {"quantizer", "wave"}
    assert lit("encoder.layers.1") == {"encoder.layers.1"}  # not layers 10 and 11
    assert lit("feature_extractor") == {f"feature_extractor.conv_layers.{k}" for k in range(7)}
    assert lit("encoder") == {"encoder.pos_conv_embed", *(f"encoder.layers.{k}" for k in range(12))}
    assert plots.architecture(lit="quantizer") == plots.architecture(lit=["quantizer"])


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match=r"lit='quantiser' is no part \(did you mean quantizer\?\); the parts are wave"
    ):
        plots.architecture(lit="quantiser")
    with pytest.raises(ValueError, match=r"lit='encoder.layers.8' is no part"):
        plots.architecture(CONFIGS["tiny"], lit=["wave", "encoder.layers.8"])


def test_another_family_is_refused():
    with pytest.raises(ValueError, match="got the config of a model_type='hubert'"):
        plots.architecture(unisat.HubertConfig())


def test_a_notebook_shows_an_image_with_words_and_each_part_has_a_title(config):
    drawing = plots.architecture(config, lit="quantizer")
    shown = drawing._repr_html_()
    assert base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1]).decode() == drawing.svg
    assert f'alt="{drawing}"' in shown
    assert str(drawing).endswith("Lit: quantizer.")
    assert f"{config.num_hidden_layers} transformer layers of width {config.hidden_size}" in str(drawing)
    for name, one in groups(drawing).items():
        assert one.find(f"{SVG}title").text.startswith(f"{name}: ")


def test_the_page_says_a_part_s_title_where_it_is_drawn(config):
    drawing = plots.architecture(config)
    page = ElementTree.fromstring(drawing._repr_html_())
    over = {}
    for span in page.iter("span"):
        style = dict(part.split(": ") for part in span.get("style").split("; "))
        over[span.get("title")] = [float(style[side].rstrip("%")) for side in ("left", "top", "width", "height")]
    parts = groups(drawing)
    assert list(over) == [one.find(f"{SVG}title").text for one in parts.values()]
    for one in parts.values():
        left, top, width, height = over[one.find(f"{SVG}title").text]
        box = one.find(f"{SVG}rect")
        if box is not None:
            x, y = float(box.get("x")) / 9.8, float(box.get("y")) / 3.8
            assert (left, top) == pytest.approx((x, y), abs=0.01)
            assert width >= float(box.get("width")) / 9.8 - 0.01
            assert height == pytest.approx(float(box.get("height")) / 3.8, abs=0.01)
        else:
            line = [point.split(",") for point in one.find(f"{SVG}polyline").get("points").split()]
            assert all(left <= float(x) / 9.8 <= left + width + 0.01 for x, _ in line)
            assert all(top <= float(y) / 3.8 <= top + height for _, y in line)


def test_nothing_is_drawn_outside(config):
    root = ElementTree.fromstring(plots.architecture(config).svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    rects = [[float(one.get(side, 0)) for side in ("x", "y", "width", "height")] for one in root.iter(f"{SVG}rect")]
    assert len(rects) > 20
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in rects)
