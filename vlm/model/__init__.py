"""The one-look model, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel

from vlm.model.configuration import OneLookConfig
from vlm.model.modeling import DecodeState, ImageFeatures, Memory, OneLookModel, OneLookOutput

AutoConfig.register(OneLookConfig.model_type, OneLookConfig, exist_ok=True)
AutoModel.register(OneLookConfig, OneLookModel, exist_ok=True)

__all__ = ["DecodeState", "ImageFeatures", "Memory", "OneLookConfig", "OneLookModel", "OneLookOutput"]
