"""What can be asked: a request, what it becomes, and what the model replied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from tasks import TASKS
from tasks.boxes import Box, ImageSize
from tasks.caption import known_detail
from tasks.ontology import attributes_of
from tasks.results import Result
from vlm.generate import Decoding, Generated
from vlm.images import ImageSource

if TYPE_CHECKING:
    from vlm.families import TaskForm

__all__ = ["EncodedImage", "Reply", "Request", "as_box"]


@dataclass(frozen=True, eq=False, slots=True)
class EncodedImage:
    """An image that the model has looked at (`VLM.encode`); it goes wherever an image goes, at no second look.

    Attributes:
        features: the family's features of the batch it was encoded in.
        index: its row there.
        image_size: (height, width) of the original, upright image.
        adapter: that was in use; requests about it must use the same.
    """

    features: Any
    index: int
    image_size: ImageSize
    adapter: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """One thing to ask about one image.

    Attributes:
        image: path, URL, bytes, PIL.Image, numpy HxWx3 uint8, or an `EncodedImage`.
        task: key in `tasks.TASKS`.
        text: the question ("vqa") or the phrase ("grounding").
        detail: "brief" or "detailed" ("caption").
        garment: garment word ("attributes").
        box: `Box` or x1, y1, x2, y2 in pixels ("attributes"; "caption" of checkpoints that describe regions).
        attributes: names to ask for; None for all that apply to the garment ("attributes").
        inputs: the task's inputs as they are, in place of the five fields above.
        max_new_tokens: None for the task's own limit.
        num_beams, temperature, top_p: see `vlm.generate.Decoding`.
        length_penalty: likewise; None for the checkpoint's own.
        seed: of sampling; None draws a fresh one. Equal requests in one call get different samples.
        grammar: False lets the model emit anything; parsing may then fail.
        adapter: name of one that the model was loaded with, or "base" for none; None for the one in use.

    Raises:
        ValueError: unknown task, or a field that the task needs and that is missing or wrong.
    """

    image: ImageSource | EncodedImage
    task: str
    _: KW_ONLY
    text: str | None = None
    detail: str = "brief"
    garment: str | None = None
    box: Box | Sequence[float] | None = None
    attributes: Sequence[str] | None = None
    inputs: Mapping[str, Any] | None = None
    max_new_tokens: int | None = None
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    length_penalty: float | None = None
    seed: int | None = None
    grammar: bool = True
    adapter: str | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; known: {', '.join(TASKS)}")
        self.task_inputs()
        self.decoding()

    def task_inputs(self) -> Mapping[str, Any]:
        """What the task's prompt is made of."""
        if self.inputs is not None:
            return self.inputs
        if self.task == "caption":
            detail, box = known_detail({"detail": self.detail}), as_box(self.box)
            return {"detail": detail} if box is None else {"detail": detail, "box": box}
        if self.task in ("vqa", "grounding"):
            if self.text is None or not self.text.strip():
                needed = "a question" if self.task == "vqa" else "a phrase"
                raise ValueError(f"task {self.task!r} needs {needed} as text, for example text='the red bag'")
            return {"question" if self.task == "vqa" else "phrase": self.text}
        if self.task == "attributes":
            return self._attribute_inputs()
        return {}

    def _attribute_inputs(self) -> Mapping[str, Any]:
        if self.garment is None and self.box is None:
            raise ValueError("task 'attributes' needs a garment, a box, or both")
        names = asked_attributes(self.garment, self.attributes)
        return {"garment": self.garment, "box": as_box(self.box), "attributes": names}

    def check(self, image_size: ImageSize) -> None:
        """Raises ValueError where the box lies outside an image of (height, width)."""
        box = as_box(self.box)
        height, width = image_size
        if box is not None and (box.x2 < 0 or box.y2 < 0 or box.x1 > width or box.y1 > height):
            raise ValueError(f"box {box.xyxy} lies outside the image, which is {width} x {height} pixels")

    def decoding(self, seed: int = 0, limit: int | None = None) -> Decoding:
        """`limit` stands in for `max_new_tokens`, None for the task's own."""
        limit = TASKS[self.task].max_new_tokens if limit is None else limit
        return Decoding(
            max_new_tokens=limit if self.max_new_tokens is None else self.max_new_tokens,
            num_beams=self.num_beams,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed,
            length_penalty=self.length_penalty,
        )


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Reply:
    """What the model said to a request, before it is parsed (`VLM.reply`). `form` reads it."""

    request: Request
    form: TaskForm
    inputs: Mapping[str, Any]
    image_size: ImageSize
    generated: Generated

    def parse(self) -> Result:
        """The typed result, not calibrated.

        Raises:
            ParseError: the text is not of the task's form; only without the grammar.
        """
        result: Result = self.form.parse(
            self.generated.text,
            self.inputs,
            self.image_size,
            scorer=self.generated.span_score,
            truncated=self.generated.truncated,
        )
        return result


def asked_attributes(garment: str | None, names: Sequence[str] | None) -> tuple[str, ...]:
    """Attribute names in the ontology's order; all that apply to the garment where none are named."""
    if isinstance(names, str):
        names = (names,)
    if names is not None and not names:
        raise ValueError("attributes is empty; name at least one, or leave it out for all that apply")
    known = attributes_of(garment)
    if names is None:
        return known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown attribute {unknown[0]!r} of {garment}; known: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def as_box(box: Box | Sequence[float] | None) -> Box | None:
    """Raises ValueError where `box` is not four numbers, or its corners are swapped."""
    if box is None or isinstance(box, Box):
        return box
    try:
        x1, y1, x2, y2 = (float(number) for number in box)
    except (TypeError, ValueError) as error:
        raise ValueError(f"box is {box!r}; expected a Box or four numbers x1, y1, x2, y2 in pixels") from error
    return Box(x1, y1, x2, y2)
