"""Describe what people wear: captions, answers, boxes and attributes from one look at a photo."""

import vlm.model  # noqa: F401 - registers the model with AutoConfig and AutoModel
from vlm.api import VLM, Request, load
from vlm.outfit import describe_outfit

__all__ = ["VLM", "Request", "describe_outfit", "load"]
