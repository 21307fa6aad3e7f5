"""A one-look checkpoint through transformers' own Auto classes, `generate` and pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline

import vlm
from tasks import TASKS
from vlm.api import VLM
from vlm.auto import OneLookPromptProcessor
from vlm.generate import Decoding, Job, generate
from vlm.hub import EMBEDDED
from vlm.model import OneLookModel
from vlm.model.conditional_generation import OneLookForConditionalGeneration
from vlm.processor import PackedTarget

QUESTION = "what colour are the boots?"
PHOTO = Path(vlm.__file__).parent / "demo_person.jpg"


@pytest.fixture(scope="module")
def folder(tiny: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auto") / "tiny"
    tiny.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture
def batch(processor: Any, photos: list[Image.Image]) -> Any:
    """Pictures of three shapes, prompts of several lengths."""
    prompts = [TASKS["vqa"].prompt({"question": QUESTION}, (1, 1)), "<caption>", "<detection>", "<vqa>how long?"]
    return processor(images=photos, text=prompts)


def test_auto_classes(folder: Path, model: Any, processor: Any) -> None:
    assert AutoConfig.from_pretrained(folder).model_type == "onelook"
    assert isinstance(AutoModel.from_pretrained(folder), OneLookModel)
    assert type(model) is OneLookForConditionalGeneration
    assert isinstance(processor, OneLookPromptProcessor)
    config = model.config
    assert (processor.patch_budget, processor.stride) == (config.patch_budget, config.stride)
    assert len(AutoTokenizer.from_pretrained(folder)) == len(processor.tokenizer)


def test_the_processor_reads_what_it_wrote_and_older_checkpoints(processor: Any, folder: Path, tmp_path: Path) -> None:
    processor.patch_budget = 33
    processor.save_pretrained(tmp_path)
    processor.patch_budget = AutoConfig.from_pretrained(folder).patch_budget
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert AutoProcessor.from_pretrained(tmp_path).patch_budget == 33
    (tmp_path / "processor_config.json").unlink()
    assert AutoProcessor.from_pretrained(tmp_path).patch_budget == processor.patch_budget


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generate_gives_the_tokens_of_our_decoding(
    tiny: VLM, model: Any, batch: Any, photos: list[Image.Image], num_beams: int
) -> None:
    family = tiny.family
    masks = batch["attention_mask"].bool()
    jobs = [
        Job(
            image=row,
            prompt_ids=ids[mask].tolist(),
            automaton=None,
            decoding=Decoding(max_new_tokens=20, num_beams=num_beams),
        )
        for row, (ids, mask) in enumerate(zip(batch["input_ids"], masks, strict=True))
    ]
    with torch.inference_mode():
        ours = generate(family.model, family.masks, family.encode_images(photos), jobs)
    for use_cache in (True, False):
        theirs = model.generate(**batch, max_new_tokens=20, num_beams=num_beams, do_sample=False, use_cache=use_cache)
        config = model.config
        ends = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
        said = [[int(token) for token in row if int(token) not in ends] for row in theirs]
        assert said == [[token for token in generated.token_ids if token not in ends] for generated in ours]


def test_a_row_does_not_depend_on_its_neighbours(model: Any, processor: Any, batch: Any, photos: Any) -> None:
    start = torch.full((4, 1), model.config.bos_token_id)
    with torch.inference_mode():
        together = model(**batch, decoder_input_ids=start).logits
        for row, (photo, ids) in enumerate(zip(photos, batch["input_ids"], strict=True)):
            text = processor.tokenizer.decode(ids[batch["attention_mask"][row].bool()])
            alone = model(**processor(images=photo, text=text), decoder_input_ids=start[:1]).logits
            assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_the_loss_is_that_of_training(tiny: VLM, model: Any, batch: Any, photos: list[Image.Image]) -> None:
    answers = ["tan", "a woman in a tan coat", "coat<loc_1><loc_2><loc_3><loc_4>", "long"]
    family: Any = tiny.family
    targets = [family.processor.encode_target(answer) for answer in answers]
    rows = [[ids[mask.bool()].tolist()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    packed = family.processor.collate(photos, rows, [[PackedTarget(ids=ids)] for ids in targets])
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(t) for t in targets], batch_first=True, padding_value=-100)
    with torch.inference_mode():
        expected = family.model(**packed).loss
        assert model(**batch, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_wrong_inputs(processor: Any, model: Any, photos: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="1 pictures and 2 prompts"):
        processor(images=photos[0], text=["<caption>", "<detection>"])
    with pytest.raises(ValueError, match="0 pictures and 1 prompts"):
        processor(text="<caption>")
    inputs = processor(images=photos[0], text="<caption>")
    with pytest.raises(ValueError, match="0 pictures"):
        model.generate(inputs["input_ids"], max_new_tokens=2)


def test_locations_are_part_of_the_text(processor: Any) -> None:
    ids = torch.tensor([processor.tokenizer.encode("<bos>coat<loc_5><loc_999><eos><pad>")])
    assert processor.post_process_image_text_to_text(ids) == ["coat<loc_5><loc_999>"]


def test_pipeline_with_the_shipped_checkpoint() -> None:
    """A question, a task's prompt, a list, and a conversation: the answers of `vlm.load().ask`."""
    ours = vlm.load(EMBEDDED, device="cpu")
    expected = ours.ask(PHOTO, QUESTION).text
    pipe = pipeline("image-text-to-text", model=str(EMBEDDED), dtype="float32", device="cpu")
    [full] = pipe(images=str(PHOTO), text=QUESTION)
    assert full["generated_text"] == f"{QUESTION}{expected}"  # as transformers does by default
    image = Image.open(PHOTO)
    caption = TASKS["caption"].prompt({"detail": "brief"}, (image.height, image.width))
    several = pipe(images=[image, image], text=[QUESTION, caption], return_full_text=False)
    assert [row["generated_text"] for row in several] == [expected, ours.caption(PHOTO).text]
    parts = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    [chat] = pipe(text=[{"role": "user", "content": parts}], return_full_text=False)
    assert chat["generated_text"] == expected
