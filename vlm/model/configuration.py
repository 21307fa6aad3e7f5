"""Configuration of the one-look encoder-decoder."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


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
        location_sigma: standard deviation, in bins, of the Gaussian target around a location label; 0 = one-hot.

    Raises:
        ValueError: sizes that do not fit together.
    """

    model_type = "onelook"

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
        return 2 ** (len(self.stage_widths) + 1)

    @property
    def num_hidden_layers(self) -> int:
        return int(self.num_decoder_layers)

    @property
    def num_attention_heads(self) -> int:
        return int(self.hidden_size // self.head_dim)
