"""What to do to a model: frozen options, each with its default in one place, and named presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tfdatafree.limits import short
from tfdatafree.recipe.check import is_number, require_choice, require_name, require_whole
from tfdatafree.recipe.distillation import METHODS
from tfdatafree.recipe.parse import (
    FIRST_FORMAT_VERSION,
    FORMAT_VERSION,
    parse_rules,
    parse_section,
    require_format,
    require_known,
    require_mapping,
    require_rules,
)
from tfdatafree.recipe.pattern import parse_pattern
from tfdatafree.recipe.prune import Prune
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import Rule
from tfdatafree.recipe.size import require_size

Caps = Literal["keep", "limit", "channel", "drop"]
CAPS: tuple[Caps, ...] = get_args(Caps)
Effort = Literal["fast", "auto", "best"]
RecoverMethod = Literal["solve", "distill", "reconstruct"]
# `Recover` holds a quarter of its images out, so that one is not enough.
FEWEST_IMAGES = 2
EFFORTS: tuple[Effort, ...] = get_args(Effort)


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Inputs made without data.

    Attributes:
        images: Number of procedural images per model input. A full-image network (super-resolution, denoising) that would
            take minutes for so many gets fewer, at least 4; the report says how many.
        samples: Number of layer-wise Gaussian samples.
        effort: How much is done to make the inputs fit the statistics of BatchNorms. "fast": kind, mean and strength of the
            inputs are those that the first BatchNorm tells. "auto": where the others show that the inputs are clearly unlike
            real ones, 16 of them are also matched to all statistics, as `generate_images` does, in some seconds. "best": where
            they do not fit as well as most real ones, 64 are matched and used beside others, which takes minutes.
    """

    images: int = 32
    samples: int = 2000
    effort: Effort = "auto"

    def __post_init__(self):
        require_choice(self, "effort", EFFORTS)
        for name in ("images", "samples"):
            require_whole(name, getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for the bits of each layer's weights, 4 or 8, so that the file has the wanted size.

    Attributes:
        size: Largest size of the file: above 0 and at most 1 it is a part of the bytes that the file takes with 8 bits
            everywhere; a larger whole number counts bytes. The search takes the bits that harm the network's outputs least,
            judged by the harm of single layers.
        images: Number of generated inputs on which the harm of each layer is measured.
        harm: "error": squared error of the results, relative to their size. "divergence": symmetric KL divergence of their
            softmax, as in ZeroQ (Cai et al. 2020).
    """

    size: float
    images: int = 16
    harm: Literal["error", "divergence"] = "error"

    def __post_init__(self):
        require_size(self.size)
        require_whole("images", self.images, 1)
        require_choice(self, "harm", ("error", "divergence"))


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Recovery of a part of what quantization took.

    Each layer of the integer network is solved for the outputs of the float layer on generated images (`generate_images`,
    then `feature_regression`). Then the whole network may be trained (`distill`), or blocks of layers learn their roundings and
    their scales (`reconstruct`). It is worth trying at 4 bits, and needs a model with BatchNorms.

    Attributes:
        images: Number of generated images, which are as varied as the training data by BatchNorm statistics. A quarter of
            them is held out to judge the result.
        image_size: Height and width of the images; None: the model's own. Smaller images take less time and memory.
        steps: Training steps after the layers are solved. Steps take most of the time. 0: none; with "distill", as many as
            `distillation` has; with "reconstruct", 1000 for each block.
        method: "solve": layers are solved, and then trained for their features where there are steps. "distill": layers are
            solved, and then the network is distilled end to end, which takes many minutes. "reconstruct": layers are solved,
            and then each block learns how its weights are rounded, and the scales of its activations, which takes minutes.
        distillation: Name of the published method in `METHODS` that "distill" follows.
    """

    images: int = 256
    image_size: int | None = None
    steps: int = 0
    method: RecoverMethod = "solve"
    distillation: str = "matched"

    def __post_init__(self):
        for name, least in (("images", FEWEST_IMAGES), ("image_size", 1), ("steps", 0)):
            value = getattr(self, name)
            if name == "image_size" and value is None:
                continue
            require_whole(name, value, least)
        require_choice(self, "method", get_args(RecoverMethod))
        require_name("distillation", self.distillation, METHODS)


_SECTIONS = {"quantize": Quantize, "policy": Search, "prune": Prune, "recover": Recover, "generate": Generate}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All options that decide the result, besides the model, the input range and the seed.

    Attributes:
        name: Name of the preset that the recipe is, or a name of your own.
        quantize: Options of quantization; None leaves the file in float.
        policy: Search for the bits of each layer; None gives every layer `quantize.weight_bits`.
        prune: Options of pruning; None keeps every weight. Zeros are exact zeros in the integer file, too.
        recover: Recovery on generated images after quantization; None leaves the integer network as it is.
        float16: Store float weights as float16; only without `quantize`.
        equalize: Make the kernels of successive layers similar in range first, where that keeps the function (Nagel et al.
            2019, section 4.1).
        equalize_power: Part of the way to equal kernel ranges, above 0 and at most 1. With less of it, the channels of
            activations differ less in range.
        equalize_caps: What `equalize` does at ReLU6 and other caps. "keep": it does not scale across them. "channel": it gives
            each channel a cap of its own, which is exact and costs one MINIMUM operator each. "limit": it takes only scales
            at which BatchNorm statistics say that the cap is not reached. "drop": it removes caps that are not reached by
            these statistics. "limit" and "drop" change the float function; the report says by how much.
        scale_outliers: For one weight step per tensor. Scale channels with outlying weights across ReLU6 and other caps. It
            stops where the error of the caps would exceed the error of rounding with the larger step. It adds no operators
            and changes the float function; the report says by how much.
        level_activations: Make the channels of a tensor more similar in range, where that keeps the function, for activations
            of 8 bits or fewer. It does nothing with `equalize`, which uses the same scales for kernels.
        absorb_bias: Move high biases through ReLU into the next layer (Nagel et al. 2019, section 4.1.3).
        generate: Generated inputs for ranges and corrections.
        rules: Settings for single layers. The first rule that matches a layer decides for it.
    """

    name: str = "custom"
    quantize: Quantize | None = Quantize()
    policy: Search | None = None
    prune: Prune | None = None
    recover: Recover | None = None
    float16: bool = False
    equalize: bool = False
    equalize_power: float = 1.0
    equalize_caps: Caps = "keep"
    scale_outliers: bool = False
    level_activations: bool = True
    absorb_bias: bool = False
    generate: Generate = Generate()
    rules: tuple[Rule, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "rules", require_rules(self.rules))
        if not isinstance(self.name, str):
            raise ValueError(f"name is {short(self.name)}; give a text.")
        for name, section in _SECTIONS.items():
            value = getattr(self, name)
            if not isinstance(value, section) and (value is not None or name == "generate"):
                raise ValueError(f"{name} is {short(value)}; give its options as a {section.__name__}(...).")
        for rule in self.rules:
            self._check_rule(rule)
        if self.float16 and self.quantize is not None:
            raise ValueError("float16 is for float files; set quantize=None, or leave float16 out.")
        if self.policy is not None:
            self._check_policy()
        if self.recover is not None:
            self._check_recover()
        for name in ("float16", "equalize", "scale_outliers", "level_activations", "absorb_bias"):
            require_choice(self, name, (True, False))
        require_choice(self, "equalize_caps", CAPS)
        if not (is_number(self.equalize_power) and 0 < self.equalize_power <= 1):
            raise ValueError(f"equalize_power is {self.equalize_power!r}; choose a number above 0 and at most 1.")

    @property
    def quantization(self) -> Quantize:
        """The options of a recipe that quantizes."""
        assert self.quantize is not None, "only a recipe that quantizes is asked for these options"
        return self.quantize

    def _check_policy(self) -> None:
        if self.quantize is None or self.quantize.simulated:
            why = "the recipe does not quantize" if self.quantize is None else self.quantize.simulated
            raise ValueError(
                f"policy searches bits for an integer file, but there will be no such file: {why}; leave policy out."
            )
        if self.quantize.weight_bits != 8:
            raise ValueError(
                f"weight_bits is {self.quantize.weight_bits}, but the policy chooses the bits of every layer; leave one out."
            )

    def _check_recover(self) -> None:
        if self.quantize is None:
            raise ValueError(
                "recover works on integers, but quantize is None, so that everything stays in float; leave recover out, and "
                "call feature_regression(compressed, model, images) for a float network."
            )
        if self.prune is not None and self.prune.method == "channel":
            raise ValueError(
                "recover compares the channels of each layer with the model's, but prune.method is 'channel', which takes "
                "channels out; leave recover out, or choose another method."
            )

    def _check_rule(self, rule: Rule) -> None:
        """Raises ValueError for a rule about something that this recipe does not do."""
        for name in rule.settings:
            if name != "sparsity" and self.quantize is None:
                raise ValueError(
                    f"rule {rule.pattern!r} sets {name}, but quantize is None, so that everything stays in float; "
                    "leave the rule out, or set quantize=Quantize()."
                )
        if rule.sparsity is None:
            return
        if self.prune is None:
            raise ValueError(
                f"rule {rule.pattern!r} sets sparsity, but the recipe does not prune; leave it out, or add "
                "prune=Prune(sparsity=0.5), whose sparsity includes that of the rule."
            )
        if self.prune.method == "channel":
            raise ValueError(
                f"rule {rule.pattern!r} sets sparsity, which counts zeros, but prune.method is 'channel', which makes "
                "none; choose another method, or leave the rule out."
            )
        fixed = None if self.prune.pattern is None else parse_pattern(self.prune.pattern).sparsity
        if fixed is not None and rule.sparsity not in (0, fixed):
            raise ValueError(
                f"rule {rule.pattern!r} sets sparsity={rule.sparsity}, but pattern {self.prune.pattern!r} gives {fixed:g}; "
                "choose 0, which keeps the layer dense, or leave the rule out."
            )

    def to_dict(self) -> dict:
        """Plain values, as in the JSON record and in recipe files: all options, the settings of each rule, the format version."""
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        values["rules"] = [{"pattern": rule.pattern, **rule.settings} for rule in self.rules]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_dict` gave as these values, or a recipe that names only the options that differ from a preset.

        Args:
            values: Options by name. Those of `quantize`, `policy`, `prune`, `recover` and `generate` are mappings of their own;
                rules are a list. An option that is missing is that of the preset that "base" names; without "base", that of
                Recipe(). "format_version" tells how to read the values; without it they are read as version 1.
                "$schema" is for editors.

        Raises:
            ValueError: An option is unknown (suggests the most similar one), or has a wrong value. Or the format version is
                newer than those that this tfdatafree reads.
        """
        values = dict(require_mapping("the recipe", values))
        values.pop("$schema", None)  # is for editors
        require_format(values.pop("format_version", FIRST_FORMAT_VERSION))
        base = get_recipe(values.pop("base")) if "base" in values else cls()
        require_known("the recipe", values, cls, also=("base", "format_version"))
        for name, section in _SECTIONS.items():
            if values.get(name) is not None:
                values[name] = parse_section(name, section, getattr(base, name), values[name])
            elif name == "generate" and name in values:
                raise ValueError("generate is null; give its options, or leave it out.")
        if "rules" in values:
            values["rules"] = parse_rules(values["rules"])
        changed = {name for name, value in values.items() if value != getattr(base, name)}
        if changed and "name" not in values:
            values["name"] = "custom"
        return dataclasses.replace(base, **values)


PRESETS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="int8"),
        Recipe(
            name="int8_per_tensor",
            equalize=True,
            equalize_power=0.5,  # kernels alike at any price make activations unlike
            scale_outliers=True,
            quantize=Quantize(per_channel=False, weight_ranges="search"),
        ),
        Recipe(name="int16x8", quantize=Quantize(activation_bits=16)),
        Recipe(name="w4a8", quantize=Quantize(weight_bits=4, depthwise_bits=8, int4=True)),
        Recipe(name="float16", quantize=None, float16=True),
        Recipe(
            name="dfq",
            equalize=True,
            absorb_bias=True,
            quantize=Quantize(per_channel=False, rounding="nearest", ranges="k_sigma", range_source="gaussian"),
        ),
        Recipe(
            name="lwdf",
            equalize=True,
            absorb_bias=True,
            quantize=Quantize(per_channel=False, rounding="nearest", ranges="search", range_source="gaussian"),
        ),
    )
}


def with_split_outputs(recipe: "str | Recipe") -> Recipe:
    """The preset or the Recipe with `Quantize.split_outputs`.

    Raises:
        ValueError: It leaves everything in float, or no preset has this name.
    """
    recipe = get_recipe(recipe)
    if recipe.quantize is None:
        raise ValueError(
            f"split_outputs is True, but recipe {recipe.name!r} leaves everything in float, where each value has its own step; "
            "leave split_outputs out, or choose a recipe that quantizes, e.g. 'int8'."
        )
    return dataclasses.replace(recipe, quantize=dataclasses.replace(recipe.quantize, split_outputs=True))


def get_recipe(recipe: "str | Recipe") -> Recipe:
    """The preset of that name, or the Recipe itself.

    Raises:
        ValueError: No preset has this name; suggests the most similar one.
    """
    if isinstance(recipe, Recipe):
        return recipe
    require_name("recipe", recipe, PRESETS, also=", or pass a Recipe")
    return PRESETS[recipe]
