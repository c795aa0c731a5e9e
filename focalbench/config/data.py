"""The ``data`` branch of the configuration: which images, on which canvas, how they are cached and augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from focalbench.config.base import Fraction, Section, SeedNumber, key_error
from focalbench.splits import parse_split

Side = Annotated[int, Field(ge=32, le=4096)]
Sample = Annotated[int, Field(ge=0, le=65535)]
Magnification = Annotated[float, Field(ge=0.1, le=10)]


def _split(value: str) -> str:
    try:
        parse_split(value)
    except ValueError as fault:
        raise ValueError(f"{fault}, not {value!r}") from None
    return value


def _without_repeats(values: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} more than once")
    return values


SplitName = Annotated[str, AfterValidator(_split)]
Splits = Annotated[tuple[SplitName, ...], Field(min_length=1), AfterValidator(_without_repeats)]
ClassName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^/\\\x00-\x1f]+$")]
ClassList = Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=10_000), AfterValidator(_without_repeats)]


class AugmentConfig(Section):
    """Random changes of training images; never applied in evaluation."""

    flip: Fraction = 0.5
    """Probability of a mirrored image."""
    crop: bool = True
    """Scale, aspect and position jitter: one affine map per image, drawn from `scale` and `aspect`."""
    scale: tuple[Magnification, Magnification] = (0.7, 1.7)
    """Smallest and largest magnification of `crop`."""
    aspect: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Half width of the aspect jitter of `crop`: width / height changes by up to this share either way."""
    min_area: Fraction = 0.35
    """A box with less than this share of its area left after `crop` is dropped."""
    color: bool = True
    """Brightness, contrast and saturation jitter."""
    brightness: Fraction = 0.2
    """Half width of the brightness factor of `color` around 1."""
    contrast: Fraction = 0.2
    """Half width of the contrast factor of `color` around 1."""
    saturation: Fraction = 0.2
    """Half width of the saturation factor of `color` around 1."""

    @model_validator(mode="after")
    def _scale_rises(self) -> AugmentConfig:
        if self.scale[0] > self.scale[1]:
            raise key_error("scale", f"should be [smallest, largest], not {list(self.scale)}")
        return self


class _DataSection(Section):
    fit: Literal["warp", "letterbox"] = "warp"
    """How an image is fitted to the canvas: `warp` stretches it, `letterbox` keeps its aspect and pads."""
    cache: Literal["auto", "none", "disk", "ram", "device"] = "auto"
    """Where decoded images are kept: `disk` is a memory map shared by all trials, `device` the GPU's memory; `auto`
    takes the device if they fit in a quarter of its free memory, else the disk. Does not change results."""
    cache_dir: str | None = None
    """Folder of the disk cache. null: $FOCALBENCH_CACHE, else `focalbench` in the user's cache folder."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of training images."""


class VocData(_DataSection):
    """A data set in the layout of Pascal VOC: ROOT/VOC2007/{JPEGImages,Annotations,ImageSets/Main}."""

    name: Literal["voc"] = "voc"
    """Kind of data: a folder in VOC's layout."""
    root: str | None = None
    """Folder that holds VOC2007, VOC2012, ...; relative to the current folder. null: $FOCALBENCH_DATA."""
    train: Splits = ("2007/trainval",)
    """Training splits as YEAR/SPLIT; several are joined."""
    val: Splits = ("2007/test",)
    """Splits to evaluate on, as YEAR/SPLIT."""
    classes: Literal["auto", "voc"] | ClassList = "auto"
    """`auto`: the sorted names found in the training splits; `voc`: the 20 of Pascal VOC; or a list."""
    other_classes: Literal["ignore"] | None = None
    """Objects of classes that are not among `classes`. null: an error. `ignore`: left out, with a warning; such an
    object is then background in training, and a detection of it in `val` counts as a false positive."""
    sample_range: tuple[Sample, Sample] | None = None
    """Values of 16-bit samples that become black and white; values beyond are clipped. null: 0 and 65535. A 12-bit
    sensor needs [0, 4095]. 8-bit images are not affected."""
    image_size: Side | tuple[Side, Side] = 320
    """Canvas in pixels: one number for a square, or [height, width]; 32 to 4096 each. Multiples of 32 waste nothing."""

    @model_validator(mode="after")
    def _range_rises(self) -> VocData:
        if self.sample_range is not None and self.sample_range[0] >= self.sample_range[1]:
            raise key_error("sample_range", f"should be [black, white] in rising order, not {list(self.sample_range)}")
        return self

    @model_validator(mode="after")
    def _splits_apart(self) -> VocData:
        shared = sorted(set(self.train) & set(self.val))
        if shared:
            raise key_error("val", f"shares {', '.join(shared)} with train: a score on training images says nothing")
        return self


class SyntheticData(_DataSection):
    """Generated images: textured backgrounds, distractors and four shape classes of unequal frequency."""

    name: Literal["synthetic"] = "synthetic"
    """Kind of data: generated, needs no files."""
    num_train: Annotated[int, Field(ge=1, le=100_000)] = 500
    """Training images."""
    num_val: Annotated[int, Field(ge=1, le=100_000)] = 150
    """Images to evaluate on."""
    seed: SeedNumber = 0
    """Seed of the generated images; independent of the training seed."""
    image_size: Side | tuple[Side, Side] = 128
    """Canvas in pixels: one number for a square, or [height, width]. The generated images are 128 x 128."""


DataConfig = Annotated[VocData | SyntheticData, Field(discriminator="name")]
