"""The SAM family as foundation models: with `tsic.teacher.small` the door to transformers."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers.models.edgetam.modeling_edgetam import EdgeTamModel
from transformers.models.sam.modeling_sam import SamModel
from transformers.models.sam2.modeling_sam2 import Sam2Model
from transformers.utils import cached_file, logging
from typing_extensions import override

from tsic.errors import CheckpointError, ConfigError, first_line, nearest
from tsic.files import replacing, write_text
from tsic.grid import Size
from tsic.required import released_file, require_foundation
from tsic.teacher.foundation import Embedding, Foundation, Seen
from tsic.teacher.mobile_sam import MobileSam, MobileSamModel
from tsic.teacher.refiner import Refiner
from tsic.teacher.released import load_released
from tsic.teacher.small import TINY, prepare


class Sam(Foundation):
    """SAM (Kirillov et al., arXiv:2304.02643): a plain ViT whose maps all have stride 16.

    Position embeddings are interpolated to the canvas (bicubic, as the public code does); at the
    configured square they are used as they are, so the embedding equals transformers' own.
    """

    def __init__(self, model: transformers.SamModel) -> None:
        super().__init__(model)
        config = model.config.vision_config
        self.multiple = config.patch_size
        self.dim = config.output_channels
        self._depths = tuple(config.global_attn_indexes)
        self.hidden_channels = (config.hidden_size,) * len(self._depths)
        self.hidden_strides = (config.patch_size,) * len(self._depths)
        self._positions: tuple[object, Tensor] | None = None

    @override
    def see(self, images: Tensor) -> Seen:
        encoder, kept = self.model.vision_encoder, []
        with self.encoder_gradient():
            hidden = encoder.patch_embed.projection(images).permute(0, 2, 3, 1)
            if encoder.pos_embed is not None:
                hidden = hidden + _alike(self._positions_at(hidden.shape[1:3]), hidden)
            for depth, layer in enumerate(encoder.layers):
                hidden = self._run(layer, hidden)
                if depth in self._depths:
                    kept.append(hidden)
            return Seen(tuple(kept), (encoder.neck(hidden),))

    @override
    def read(self, seen: Seen, *, with_levels: bool) -> Embedding:
        (image,) = seen.neck
        shallow = []
        if with_levels:
            with self.encoder_gradient():
                shallow = [self.model.vision_encoder.neck(state) for state in seen.stages[:-1]]
        maps = tuple(state.permute(0, 3, 1, 2) for state in seen.stages)
        return Embedding(image, maps, (*shallow, image))

    def _positions_at(self, size: Size) -> Tensor:
        table = self.model.vision_encoder.pos_embed
        if table.shape[1:3] == size:
            return table
        if table.requires_grad:
            return _resized(table, size)
        # Resized once if frozen: a tenth of what a GPU computes in a step of 4 images.
        of = size, table.device, table.dtype, table.data_ptr(), table._version
        if self._positions is None or self._positions[0] != of:
            with torch.inference_mode(False):
                self._positions = of, _resized(table, size)
        return self._positions[1]


def _alike(added: Tensor, maps: Tensor) -> Tensor:
    """What is added to bfloat16 maps, in their type: float32 would widen all that follows.

    What blocks add up may be too large for float16, so that stays in float32.
    """
    return added.to(maps.dtype) if maps.dtype == torch.bfloat16 else added


def _resized(table: Tensor, size: Size) -> Tensor:
    """Bring positions ``(1, h, w, C)`` to another grid."""
    return F.interpolate(
        table.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False
    ).permute(0, 2, 3, 1)


class Sam2(Foundation):
    """SAM 2 and 2.1 (Ravi et al., arXiv:2408.00714) on single images: a hierarchical encoder.

    Maps at strides 4, 8, 16 and 32; any canvas of whole stride-32 cells, positions interpolated by
    the model itself. The mask decoder always answers as in training, without its switch to another
    candidate by stability, which is meant for clicks.
    """

    empty_points = 2  # without a point it is trained to see two empty ones

    def __init__(self, model: Sam2Model) -> None:
        super().__init__(model)
        self._measure()
        self.multiple = self.hidden_strides[-1]
        self.dim = model.config.vision_config.fpn_hidden_size
        if width := getattr(model.config, "refiner_width", 0):
            self.refiner = Refiner(self.hidden_channels[0], self.dim, width)

    def _measure(self) -> None:
        backbone = self.model.config.vision_config.backbone_config
        first, stages = backbone.patch_stride[0], len(backbone.blocks_per_stage)
        self.hidden_strides = tuple(first * 2**stage for stage in range(stages))
        self.hidden_channels = tuple(backbone.embed_dim_per_stage)

    @override
    def see(self, images: Tensor) -> Seen:
        with self.encoder_gradient():
            kept = self._stages(images)
            return Seen(tuple(kept), tuple(self.model.vision_encoder.neck(kept)[0][::-1]))

    @override
    def read(self, seen: Seen, *, with_levels: bool) -> Embedding:
        levels = seen.neck
        image = levels[2] + _alike(self.model.no_memory_embedding.reshape(1, -1, 1, 1), levels[2])
        decoder = self.model.mask_decoder
        fine = (decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]))
        maps = tuple(state.permute(0, 3, 1, 2) for state in seen.stages)
        look = None if self.refiner is None else self.refiner.look(maps[0], levels[0])
        return Embedding(image, maps, levels if with_levels else (), fine, look)

    def _stages(self, images: Tensor) -> list[Tensor]:
        """Outputs ``(B, h, w, C)`` of the hierarchical encoder's stages, fine first."""
        backbone = self.model.vision_encoder.backbone
        hidden = backbone.patch_embed(images)
        hidden = hidden + _alike(backbone._get_pos_embed(hidden.shape[1:3]), hidden)
        kept = []
        for depth, block in enumerate(backbone.blocks):
            hidden = self._run(block, hidden)
            if depth in backbone.stage_ends:
                kept.append(hidden)
        return kept


class EdgeTam(Sam2):
    """EdgeTAM (Zhou et al., arXiv:2501.07256) on single images: SAM 2 with a convolutional encoder.

    The encoder has no positions of its own, so it takes any canvas of whole stride-32 cells.
    """

    def _measure(self) -> None:
        features = self.model.vision_encoder.backbone.timm_model.feature_info
        self.hidden_strides = tuple(features.reduction())
        self.hidden_channels = tuple(features.channels())

    @override
    def _stages(self, images: Tensor) -> list[Tensor]:
        backbone = self.model.vision_encoder.backbone.timm_model
        return [state.permute(0, 2, 3, 1) for state in self._run(backbone, images)]


_FAMILIES = {
    "sam": (SamModel, Sam),
    "sam2": (Sam2Model, Sam2),
    # Meta's SAM 2 checkpoints describe the video model; its image half is what we load.
    "sam2_video": (Sam2Model, Sam2),
    "edgetam": (EdgeTamModel, EdgeTam),
    "edgetam_video": (EdgeTamModel, EdgeTam),
    "mobile_sam": (MobileSamModel, MobileSam),
}


EMBEDDED = Path(__file__).parents[1] / "zoo" / "embedded"
"""Folder of the model that ships with the package."""

REFINER = "refiner.safetensors"
"""The refiner's weights, beside the model's."""


def load_foundation(name: str, key: str = "teacher.name") -> Foundation:
    """Load a promptable foundation model; ``embedded`` and ``tiny-*`` need no download.

    Args:
        name: Hugging Face id (``facebook/sam-vit-base``, ``facebook/sam2.1-hiera-tiny``), local
            folder in the same format (that of a pretraining is), a file that SAM's authors publish
            (``sam_vit_b_01ec64.pth``, ``sam2.1_hiera_tiny.pt``), MobileSAM's ``mobile_sam.pt`` or
            its folder; ``embedded``: the model that ships with the package; or ``tiny-sam``,
            ``tiny-sam2``, ``tiny-edgetam``, ``tiny-mobile-sam``: random weights that are the same
            every time, so that they need not be saved.
        key: What the user gave it as, for messages.

    Returns:
        The model in float32.

    Raises:
        ConfigError: If ``name`` is none of these, or a model of another family.
        CheckpointError: If the files cannot be found, fetched or read, or a pretraining has not
            finished.
    """
    if name in TINY:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = prepare(TINY[name]())
            return _FAMILIES[model.config.model_type][1](model)
    if name == "embedded":
        name = str(EMBEDDED)
    require_foundation(name, key)
    if released := released_file(Path(name)):
        model = load_released(released, key)
        return _FAMILIES[model.config.model_type][1](model)
    try:
        family = transformers.AutoConfig.from_pretrained(name).model_type
        if family not in _FAMILIES:
            raise ConfigError(f"{key} '{name}' is a '{family}' model; {nearest(family, _FAMILIES)}")
        model_class, foundation_class = _FAMILIES[family]
        with _quiet(name):
            model, report = model_class.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True
            )
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        online = "" if Path(name).exists() else ", or go online once so that it can be fetched"
        raise CheckpointError(
            f"{key} '{name}' could not be loaded ({first_line(error)}); give the folder of "
            f"a downloaded checkpoint{online}"
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"{key} '{name}' lacks {len(missing)} weights of a '{family}' model, first "
            f"{missing[0]}; download the checkpoint again"
        )
    foundation = foundation_class(model)
    if foundation.refiner is not None:
        _load_refiner(foundation.refiner, name, key)
    return foundation


def _load_refiner(refiner: Refiner, name: str, key: str) -> None:
    """Read its weights, which lie beside the model's."""
    try:
        file = cached_file(name, REFINER)
        assert file is not None
        refiner.load_state_dict(load_file(file))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{key} '{name}' has a refiner, but its {REFINER} could not be loaded "
            f"({first_line(error)}); copy or download the folder again"
        ) from error


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """No progress bar for reading a folder; a download keeps its own."""
    hides = Path(name).is_dir() and logging.is_progress_bar_enabled()
    if hides:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hides:
            logging.enable_progress_bar()


def save_foundation(foundation: Foundation, folder: Path) -> None:
    """Write a model in the hub's own format: ``config.json`` and ``model.safetensors``.

    A refiner, which transformers does not know, gets a file of its own, ``refiner.safetensors``.

    Args:
        foundation: What to write.
        folder: Where; each file appears whole or not at all. Weights are written in float16.
    """
    config = copy.deepcopy(foundation.model.config)
    config.dtype = "float16"
    config._name_or_path = ""  # a path of this machine says nothing elsewhere
    config.architectures = [type(foundation.model).__name__]
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"model.safetensors": foundation.model, REFINER: foundation.refiner}
    for file, module in parts.items():
        if module is None:
            continue
        state = {
            name: tensor.detach().half().cpu().contiguous()
            for name, tensor in module.state_dict().items()
        }
        with replacing(folder / file) as part:
            part.write_bytes(save(state, {"format": "pt"}))  # save_file would hide it from others
    write_text(folder / "config.json", config.to_json_string(use_diff=False))
