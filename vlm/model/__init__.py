"""The one-look model, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel

from vlm.model.configuration import OneLookConfig
from vlm.model.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from vlm.model.modeling import ImageFeatures, Memory, OneLookModel, OneLookOutput
from vlm.model.stepping import DecodeState

AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
AutoConfig.register(OneLookConfig.model_type, OneLookConfig, exist_ok=True)
AutoModel.register(OneLookConfig, OneLookModel, exist_ok=True)

__all__ = [
    "DecodeState",
    "EfficientNetLiteConfig",
    "EfficientNetLiteModel",
    "ImageFeatures",
    "Memory",
    "OneLookConfig",
    "OneLookModel",
    "OneLookOutput",
]
