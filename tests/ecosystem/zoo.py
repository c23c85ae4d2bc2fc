"""Models of other packages, and small inputs for them."""

from __future__ import annotations

import sys
import types
from typing import Any

import torch

try:  # not every platform has a CPU build of torchvision; these models need none of its operators
    import torchvision
except (ImportError, RuntimeError):
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    import torchvision
import timm
from torchvision.models.feature_extraction import create_feature_extractor

__all__ = ["create_feature_extractor"]

TORCHVISION = [
    *["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "googlenet", "regnet_y_400mf"],
    *["densenet121", "shufflenet_v2_x0_5", "vgg11_bn", "mnasnet0_5"],
]
TIMM = [
    *["resnet18", "hrnet_w18_small", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002", "densenet121"],
    *["skresnet18", "res2net50_14w_8s", "xception41", "ghostnet_050", "dla34"],
]
# The share of pairs that must be fused. dla34's blocks take optional tensors, which torch.fx traces as given; in
# xception41, a module ends in a norm and the next begins with its activation.
FUSED = {"dla34": 0.6, "xception41": 0.25}


def made(package: str, name: str) -> torch.nn.Module:
    """A model whose weights and statistics vary from channel to channel."""
    torch.manual_seed(0)
    if package == "timm":
        model: Any = timm.create_model(name, pretrained=False)
    else:
        options = {"init_weights": False} if name == "googlenet" else {}
        model = getattr(torchvision.models, name)(weights=None, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
