"""Configuration of the one-look encoder-decoder."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, __version__

_VISION_INPUT = ("stride", "num_prefix_tokens", "width", "image_size", "mean", "std")


class OneLookConfig(PretrainedConfig):
    """Shape of a one-look model.

    Args:
        vocab_size: text, task, location and image-code tokens together.
        first_location_id: id of `<loc_0>`; the `num_locations` ids from there are locations.
        hidden_size: width D of every transformer layer; a multiple of `head_dim`.
        head_dim: width of one attention head; a multiple of 4 (half of it rotates with y, half with x).
        stage_widths: channels of the convolution stages; each halves the resolution, and so does the stem.
        stage_depths: residual blocks of each stage.
        num_image_layers: attention layers over image tokens alone.
        num_joint_layers: layers in which prompts look at the image and at themselves.
        num_decoder_layers: layers of the decoder.
        mlp_ratio: hidden width of an MLP over D, before the gate's 2/3.
        patch_budget: most image tokens a picture may take; it is resized, keeping its aspect, to fit.
        region_classes: number of classes of each kind of region label (see `vlm.data.regions`), for a head that only
            training uses; empty for none.
        region_weight: factor on the losses of region labels.
        map_weight: factor on the losses of the garment maps (see `vlm.data.maps`), for another head that only training
            uses; 0 for none. Needs `region_classes`, whose first kind is the garments.
        vision_config: of a vision encoder of transformers, as its own config.json has it, which then stands in place of
            the convolution stages and the image layers; None for ours.
        vision_input: what that encoder takes and gives: stride, num_prefix_tokens, width and image_size of its tokens
            (see `vlm.model.vision.token_layout`), mean and std of the pixels in [0, 1]. A picture size here, such as
            `image_size: [224, 224]`, holds it to that one.
        location_sigma: standard deviation, in bins, of the Gaussian target around a location label; 0 = one-hot.

    Raises:
        ValueError: sizes that do not fit together.
    """

    model_type = "onelook"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig}

    def __init__(
        self,
        vocab_size: int = 6144,
        first_location_id: int = 4120,
        num_locations: int = 1000,
        hidden_size: int = 256,
        head_dim: int = 64,
        stem_width: int = 32,
        stage_widths: tuple[int, ...] = (48, 96, 256),
        stage_depths: tuple[int, ...] = (1, 2, 3),
        num_image_layers: int = 2,
        num_joint_layers: int = 2,
        num_decoder_layers: int = 3,
        mlp_ratio: float = 4.0,
        patch_budget: int = 108,
        location_sigma: float = 6.0,
        region_classes: tuple[int, ...] = (),
        region_weight: float = 0.5,
        map_weight: float = 0.0,
        vision_config: dict[str, Any] | PretrainedConfig | None = None,
        vision_input: dict[str, Any] | None = None,
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        pad_token_id: int = 0,
        bos_token_id: int = 1,
        eos_token_id: int = 2,
        **kwargs: Any,
    ) -> None:
        if hidden_size % head_dim or head_dim % 4:
            raise ValueError(
                f"hidden_size {hidden_size} must be a multiple of head_dim {head_dim}, and head_dim a multiple of 4"
            )
        if len(stage_widths) != len(stage_depths) or not stage_widths:
            raise ValueError(f"stage_widths {stage_widths} and stage_depths {stage_depths} must have the same length")
        if not 0 <= first_location_id <= vocab_size - num_locations:
            raise ValueError(
                f"first_location_id {first_location_id} leaves no room for {num_locations} locations "
                f"in a vocabulary of {vocab_size}"
            )
        if map_weight and not region_classes:
            raise ValueError("map_weight needs region_classes, whose first kind is the garments; name them")
        self.vocab_size = vocab_size
        self.first_location_id = first_location_id
        self.num_locations = num_locations
        self.hidden_size = hidden_size
        self.head_dim = head_dim
        self.stem_width = stem_width
        self.stage_widths = list(stage_widths)
        self.stage_depths = list(stage_depths)
        self.vision_config = _vision_config(vision_config)
        self.vision_input = vision_input
        if self.vision_config is not None:
            missing = [name for name in _VISION_INPUT if name not in (vision_input or {})]
            if missing:
                raise ValueError(
                    f"vision_input lacks {', '.join(missing)}, which go with vision_config; train from a YAML with "
                    "`vision_tower: NAME`, which finds them out"
                )
            num_image_layers = 0
        self.num_image_layers = num_image_layers
        self.num_joint_layers = num_joint_layers
        self.num_decoder_layers = num_decoder_layers
        self.mlp_ratio = mlp_ratio
        self.patch_budget = patch_budget
        self.location_sigma = location_sigma
        self.region_classes = list(region_classes)
        self.region_weight = region_weight
        self.map_weight = map_weight
        self.dropout = dropout
        self.initializer_range = initializer_range
        kwargs.setdefault("is_encoder_decoder", True)
        kwargs.setdefault("tie_word_embeddings", True)
        kwargs.setdefault("decoder_start_token_id", bos_token_id)
        super().__init__(pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id, **kwargs)

    @property
    def stride(self) -> int:
        """Pixels a side of one image token."""
        if self.vision_input is not None:
            return int(self.vision_input["stride"])
        return 2 ** (len(self.stage_widths) + 1)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) where the vision encoder takes pictures of one size only."""
        size = None if self.vision_input is None else self.vision_input["image_size"]
        return None if size is None else (int(size[0]), int(size[1]))

    @property
    def num_hidden_layers(self) -> int:
        return int(self.num_decoder_layers)

    @property
    def num_attention_heads(self) -> int:
        return int(self.hidden_size // self.head_dim)


def _vision_config(given: dict[str, Any] | PretrainedConfig | None) -> PretrainedConfig | None:
    if given is None or isinstance(given, PretrainedConfig):
        return given
    values = dict(given)
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"vision_config.model_type is {model_type!r}, which transformers {__version__} does not know; expected one "
            "such as siglip_vision_model or dinov3_vit; a newer transformers knows more"
        )
    config: PretrainedConfig = AutoConfig.for_model(model_type, **values)
    return config
