"""What is asked and what counts as right: five tasks, their text both ways, their grammars and metrics.

This package knows no model: it imports neither torch nor transformers nor `vlm`.
"""

from __future__ import annotations

from tasks.attributes import AttributesTask
from tasks.base import Task
from tasks.caption import CaptionTask
from tasks.detection import DetectionTask
from tasks.grounding import GroundingTask
from tasks.vqa import VqaTask

__all__ = ["TASKS"]

TASKS: dict[str, Task] = {
    "caption": CaptionTask(),
    "vqa": VqaTask(),
    "grounding": GroundingTask(),
    "detection": DetectionTask(),
    "attributes": AttributesTask(),
}
"""Every task by its name. A new one is one file and one line here."""
