"""How a student is trained on images that a network makes up: options of the parts, and published methods as tables of them.

A method is made of four parts: where images come from (`images`), what is compared (`compare`), who moves (the student alone, or
the student and a generator in turns), and how far (`steps`, `batch_size`, `learning_rate`).
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from tfdatafree.limits import short
from tfdatafree.recipe.check import is_number, require_choice, require_name, require_whole


def _require_weights(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not (is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} is {short(value)}; give a number of at least 0.")


def _require_above_zero(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not (is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} is {short(value)}; give a number above 0.")


@dataclass(frozen=True, kw_only=True)
class MatchedImages:
    """Images that are made once, with the statistics that the BatchNorms store; as `generate_images` makes them.

    Attributes:
        images: Number of images. A quarter of them is held out to judge the student.
        steps: Steps of Adam for each image.
        group: Images that are optimised together. Fewer than all, so that groups differ as real batches do.
    """

    images: int = 256
    steps: int = 100
    group: int = 32

    def __post_init__(self):
        for name, least in (("images", 8), ("steps", 1), ("group", 4)):
            require_whole(name, getattr(self, name), least)


@dataclass(frozen=True, kw_only=True)
class InvertedImages:
    """Images of Deep Inversion (Yin et al. 2020, arXiv 1912.08795), which are made once, before the student is trained.

    The pixels minimise  labels CE + statistics R_f + total_variation TV + l2 |x| + competition (1 - JS).  They are in units of a
    quarter of the input range, around its middle.

    Attributes:
        images: Number of images.
        steps: Steps of Adam for each image.
        group: Images that are optimised together.
        learning_rate: Of Adam; it decays to 0 by a cosine.
        labels: Weight of the cross-entropy to the classes, which are taken in turn. Models without classes have none.
        statistics: Weight of R_f, the distances of batch means and variances from the stored ones. The first counts tenfold.
        total_variation: Weight of the differences of neighbouring pixels.
        l2: Weight of the images' norm.
        competition: Weight of what student and teacher agree on, so that images show where they differ.
        jitter: Largest random move of an image in a step, in pixels.
    """

    images: int = 256
    steps: int = 300
    group: int = 64
    learning_rate: float = 0.05
    labels: float = 1.0
    statistics: float = 10.0
    total_variation: float = 2.5e-5
    l2: float = 0.0
    competition: float = 0.0
    jitter: int = 2

    def __post_init__(self):
        for name, least in (("images", 1), ("steps", 1), ("group", 2), ("jitter", 0)):
            require_whole(name, getattr(self, name), least)
        _require_above_zero(self, "learning_rate")
        _require_weights(self, "labels", "statistics", "total_variation", "l2", "competition")


@dataclass(frozen=True, kw_only=True)
class ImageGenerator:
    """A network that maps noise to images. It is trained, too: in turns with the student, after a warm-up alone.

    Attributes:
        latent: Length of the noise vector.
        width: Channels of its widest convolution.
        conditional: Give it the class that it shall show, as an embedding that multiplies the noise.
        warm_up: Steps that it takes alone before the student's first.
        student_steps: Steps of the student for each of its own.
        learning_rate: Of Adam.
        labels: Weight of the cross-entropy of the teacher to the classes asked for; for `conditional`.
        statistics: Weight of the squared differences of batch means and variances from the stored ones, mean over BatchNorms.
        divergence: Weight of the Gaussian KL divergence of batch statistics from the stored ones, sum over channels.
        instance_entropy: Weight of the entropy of each image's classes, so that the teacher is sure of them.
        batch_entropy: Weight of the negated entropy of the mean over images, so that all classes occur.
        adversary: Weight of the negated difference of student and teacher, so that images show where they differ.
        activations: Weight of the negated mean size of the teacher's last features, so that images excite it.
    """

    latent: int = 100
    width: int = 64
    conditional: bool = False
    warm_up: int = 0
    student_steps: int = 1
    learning_rate: float = 1e-3
    labels: float = 0.0
    statistics: float = 0.0
    divergence: float = 0.0
    instance_entropy: float = 0.0
    batch_entropy: float = 0.0
    adversary: float = 0.0
    activations: float = 0.0

    def __post_init__(self):
        for name, least in (("latent", 1), ("width", 8), ("warm_up", 0), ("student_steps", 1)):
            require_whole(name, getattr(self, name), least)
        require_choice(self, "conditional", (True, False))
        _require_above_zero(self, "learning_rate")
        weights = (
            "labels",
            "statistics",
            "divergence",
            "instance_entropy",
            "batch_entropy",
            "adversary",
            "activations",
        )
        _require_weights(self, *weights)
        if self.labels and not self.conditional:
            raise ValueError(f"labels is {self.labels}, but the generator is given no classes; add conditional=True.")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What of student and teacher is compared: the sum of these losses, each times its weight.

    Attributes:
        logits: Weight of the KL divergence of the student's classes from the teacher's, times the temperature squared. Results
            without classes count by their squared error, relative to their size.
        temperature: Divides the logits first.
        l1: Weight of the mean absolute difference of the logits.
        labels: Weight of the cross-entropy of the student to the classes that images were made for.
        features: Weight of the distance of each layer's features, both normalized (Sobolev et al., FRanDI, eq. 2).
        relations: Weight of the distances of spatial and channel relation maps, where the image size changes (Liu et al. 2021,
            ZAQ).
        layers: Weight of the layer-wise loss (Horton et al. 2021, LWDF, eq. 16): the squared error of each layer by itself on
            inputs drawn from BatchNorm statistics.
    """

    logits: float = 1.0
    temperature: float = 1.0
    l1: float = 0.0
    labels: float = 0.0
    features: float = 0.0
    relations: float = 0.0
    layers: float = 0.0

    def __post_init__(self):
        names = ("logits", "l1", "labels", "features", "relations", "layers")
        _require_weights(self, *names)
        _require_above_zero(self, "temperature")
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"all weights of the comparison are 0; give one of {', '.join(names)}.")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Zeros that training finds, for a student that is not pruned yet. Give one of the two.

    Depthwise kernels, and zeros that a student has, stay as they are. As the student cannot stay as good as it was, the best is
    taken of those that training gives after the thresholds have settled, with 60 % of the steps.

    Attributes:
        sparsity: Part of all kernels' weights that is zero at the end: the smallest of all layers together. It rises in the first
            60 % of the steps (Zhu and Gupta 2017).
        strength: Weight decay of soft thresholds, one for each layer, which are trained with the weights (Kusupati et al. 2020;
            Horton et al. 2021: 1.55e-5). How many zeros come out is not known before.
    """

    sparsity: float | None = None
    strength: float | None = None

    def __post_init__(self):
        if (self.sparsity is None) == (self.strength is None):
            came = "neither" if self.sparsity is None else "both"
            raise ValueError(f"{came} of sparsity and strength came; give one: sparsity=0.9, or strength=1.55e-5.")
        if self.sparsity is not None and not (is_number(self.sparsity) and 0 < self.sparsity < 1):
            raise ValueError(f"sparsity is {short(self.sparsity)}; give the part of zeros, above 0 and below 1.")
        if self.strength is not None:
            _require_above_zero(self, "strength")


ImageSource = MatchedImages | InvertedImages | ImageGenerator


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a student is trained on images that are made up.

    Attributes:
        images: Where images come from: MatchedImages, InvertedImages or an ImageGenerator.
        compare: What of student and teacher is compared.
        steps: Steps of the student.
        batch_size: Images per step.
        optimizer: "adam": lengths of steps are relative to the size of what they move, channel by channel, and to the Output
            Discrepancy at the start. "sgd": with Nesterov's momentum 0.9, on the weights as they are.
        learning_rate: Length of the longest step; it decays to 0 by a cosine. Where a quarter of the steps improves nothing,
            training returns to the best student and continues with smaller steps.
        weight_decay: For "sgd".
        scales: Length of the steps of grids' scales, as a part of the others'; 0 keeps the scales.
        batchnorm: What the student's BatchNorms do, if there are any. "inference": they compute with their stored statistics.
            "training": they compute with those of the batch, and store their moving averages.
        views: Mirror half of the images at random, and move all by up to an eighth of their size.
        held_out: Procedural inputs that judge the student beside matched ones, where the images that train it are made up.
        thresholds: Zeros that training finds; None: the student keeps the zeros that it has, and gets no others.
        mixed_precision: Multiply kernels in bfloat16 in training, which is faster on some GPUs. Weights, losses and the judge
            stay in float32, and so does everything outside this training.
    """

    images: ImageSource = MatchedImages()
    compare: Comparison = Comparison()
    steps: int = 1000
    batch_size: int = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.05
    weight_decay: float = 0.0
    scales: float = 0.1
    batchnorm: Literal["inference", "training"] = "inference"
    views: bool = False
    held_out: int = 256
    thresholds: Thresholds | None = None
    mixed_precision: bool = False

    def __post_init__(self):
        if not isinstance(self.images, ImageSource):
            raise ValueError(
                f"images is {short(self.images)}; give MatchedImages(...), InvertedImages(...) or ImageGenerator(...)."
            )
        if not isinstance(self.compare, Comparison):
            raise ValueError(f"compare is {short(self.compare)}; give a Comparison(...).")
        for name, least in (("steps", 1), ("batch_size", 2), ("held_out", 2)):
            require_whole(name, getattr(self, name), least)
        require_choice(self, "optimizer", ("adam", "sgd"))
        require_choice(self, "batchnorm", ("inference", "training"))
        require_choice(self, "views", (True, False))
        require_choice(self, "mixed_precision", (True, False))
        if self.thresholds is not None and not isinstance(self.thresholds, Thresholds):
            raise ValueError(f"thresholds is {short(self.thresholds)}; give Thresholds(sparsity=0.9), or None.")
        if self.thresholds is not None:
            require_whole("steps with thresholds", self.steps, 2)
        _require_above_zero(self, "learning_rate")
        _require_weights(self, "weight_decay", "scales")
        if self.compare.labels and not self._has_labels:
            raise ValueError(
                f"compare.labels is {self.compare.labels}, but these images are made for no classes; use InvertedImages or an "
                "ImageGenerator with conditional=True."
            )

    @property
    def _has_labels(self) -> bool:
        return isinstance(self.images, InvertedImages) or getattr(self.images, "conditional", False)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published method: its settings for two cores and some minutes, and those of its authors.

    Attributes:
        title: What it is, and who published it.
        cpu: Settings that take some minutes for a small network on two cores.
        paper: The published settings, which take hours on a large GPU.
    """

    title: str
    cpu: Distillation
    paper: Distillation


# Cosine schedules of the papers are in steps here: epochs times steps of an epoch.
_DEEP_INVERSION = InvertedImages()
_PAPER_INVERSION = InvertedImages(images=50_000, steps=2000, group=256, competition=0.2)
_AKD = ImageGenerator(
    latent=512, width=64, warm_up=100, student_steps=5,
    divergence=0.01, instance_entropy=0.01, batch_entropy=0.01, adversary=1.0,
)  # fmt: skip
_PAPER_AKD = dataclasses.replace(_AKD, width=512, warm_up=20_000, student_steps=10)
_GDFQ = ImageGenerator(conditional=True, warm_up=200, labels=1.0, statistics=0.1)
_PAPER_GDFQ = dataclasses.replace(_GDFQ, width=128, warm_up=800)
_ZAQ = ImageGenerator(latent=256, student_steps=5, adversary=1.0, activations=0.1)
_PAPER_ZAQ = dataclasses.replace(_ZAQ, width=128)

_SGD = Distillation(optimizer="sgd", learning_rate=0.1, batch_size=256, scales=0.0)
_INVERSION = {
    "cpu": Distillation(images=_DEEP_INVERSION, compare=Comparison(temperature=3.0), views=True),
    "paper": dataclasses.replace(
        _SGD, images=_PAPER_INVERSION, compare=Comparison(temperature=20.0), steps=80_000, weight_decay=1e-4,
        batchnorm="training", views=True,
    ),
}  # fmt: skip
_ADVERSARIAL = {
    "cpu": Distillation(images=_AKD, steps=750, batch_size=64),
    "paper": dataclasses.replace(_SGD, images=_PAPER_AKD, steps=800_000, batchnorm="training"),
}


def _with_layers(settings: dict[str, Distillation]) -> dict[str, Distillation]:
    """The settings with LWDF's layer-wise loss in addition; its weight is not published."""
    return {
        name: dataclasses.replace(found, compare=dataclasses.replace(found.compare, layers=1.0))
        for name, found in settings.items()
    }


_FEATURES = Comparison(logits=0.0, features=1.0)

METHODS: dict[str, Method] = {
    "matched": Method(
        title="Feature Regression (Sobolev et al., FRanDI) with trained scales, on images with the stored statistics.",
        cpu=Distillation(compare=_FEATURES, learning_rate=0.4, views=True),
        paper=Distillation(
            images=MatchedImages(images=1024), compare=_FEATURES, learning_rate=0.4, steps=20_000, batch_size=256, views=True
        ),
    ),
    "deep_inversion": Method(title="Deep Inversion (Yin et al. 2020), then distillation of the outputs.", **_INVERSION),
    "akd": Method(title="Adversarial knowledge distillation (Choi et al. 2020): a minimax game.", **_ADVERSARIAL),
    "gdfq": Method(
        title="Generative low-bitwidth data-free quantization (Xu et al. 2020): a generator of classes.",
        cpu=Distillation(images=_GDFQ, compare=Comparison(temperature=20.0, labels=1.0), batch_size=64, scales=0.0),
        paper=dataclasses.replace(
            _SGD, images=_PAPER_GDFQ, compare=Comparison(temperature=20.0, labels=1.0), steps=80_000, batch_size=200,
            learning_rate=1e-4, weight_decay=1e-4,
        ),
    ),
    "zaq": Method(
        title="Zero-shot adversarial quantization (Liu et al. 2021): outputs and relation maps against a generator.",
        cpu=Distillation(images=_ZAQ, compare=Comparison(logits=0.0, l1=1.0, relations=1.0), steps=750, batch_size=64),
        paper=dataclasses.replace(
            _SGD, images=_PAPER_ZAQ, compare=Comparison(logits=0.0, l1=1.0, relations=1.0), steps=90_000,
            weight_decay=5e-4, batchnorm="training",
        ),
    ),
    "ours+akd": Method(title="akd and LWDF's layer-wise loss (Horton et al. 2021).", **_with_layers(_ADVERSARIAL)),
    "ours+deep_inversion": Method(
        title="deep_inversion and LWDF's layer-wise loss (Horton et al. 2021).", **_with_layers(_INVERSION)
    ),
}  # fmt: skip


def get_method(method: "str | Distillation") -> Distillation:
    """The settings of that name for two cores, or the Distillation itself. Raises ValueError for any other."""
    if isinstance(method, Distillation):
        return method
    require_name("method", method, METHODS, also=", or pass a Distillation")
    return METHODS[method].cpu
