"""What to do to a model: frozen options, each default in one place, and named presets."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tfdatafree.optimizers.patterns import parse_pattern
from tfdatafree.rules import Rule

RangeMethod = Literal["min_max", "search", "percentile", "k_sigma", "aciq"]
RangeSource = Literal["images", "gaussian", "standard"]
EdgeDtype = Literal["int8", "uint8", "int16", "float32"]
Caps = Literal["keep", "limit", "channel", "drop"]
CAPS: tuple[Caps, ...] = get_args(Caps)
PruneMethod = Literal[
    "auto", "obs", "str", "energy", "global", "global_unfolded", "uniform", "erk", "erk_lwdf", "budget", "channel"
]  # fmt: skip
PRUNE_METHODS: tuple[str, ...] = get_args(PruneMethod)
_PATTERNED = ("auto", "obs", "energy", "global", "global_unfolded")


def _choose(owner: object, name: str, choices: tuple) -> None:
    value = getattr(owner, name)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}; choose one of {listed}.")


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Integer weights and activations.

    Attributes:
        weight_bits: 8, or 4 to 7: a coarser grid, stored in int8.
        int4: Store 4-bit weights two to a byte (INT4 tensors): half the bytes. LiteRT on a CPU reads them, at the cost of
            unpacking them at every run; compilers for NPUs may not (Arm's Vela 5.2 crashes), and code 4-bit grids in int8
            tensors well by themselves. None: only where a `Recipe.policy` asks for a file of some size and the target
            reads them; otherwise a weight takes a byte, which runs everywhere.
        activation_bits: 8, or 16 ("int16x8": symmetric int16 activations, int64 biases). 4 to 7 are simulated only:
            no integer runtime has them, and there will be no file.
        per_channel: One weight step per output channel; False gives one per tensor, which several NPUs want.
        dense_per_channel: The same for dense layers alone; None: as `per_channel` says, unless the target wants one per
            tensor.
        symmetric_weights: Weight grids around 0, as TFLite stores them. False: from the smallest to the largest weight,
            as papers on low bit widths have it; simulated only.
        weight_ranges: What the largest weight integer stands for. "max": the largest weight; "search": what makes the
            smallest error in the layer's output, each output counting by what the next layers make of it. Below 8 bits
            error feedback begins there, and fits one step per channel to the integers that it found.
        rounding: "feedback": each weight is rounded with regard to what the others lost, by the covariance of generated
            layer inputs (GPTQ), below 8 bits once more when all are known; "adaround": up or down is learned for the layer's
            output (Nagel et al. 2020); "nearest".
        equalized_rounding: Round weights between the buffers of assumption-free equalization (Horton et al. 2021, eq. 3-9)
            and fold these back in afterwards: one step per tensor times a factor per channel. Simulated only.
        ranges: How an activation range is chosen from the samples of its tensor. "min_max"; "search", the grid search of
            Horton et al. 2021, figure 4; "percentile" (99.99); "k_sigma", six standard deviations around the channel
            means (Nagel et al. 2019); "aciq", analytic clipping (Banner et al. 2019).
        range_source: What the samples are. "images": procedural images passed through the float model;
            "gaussian": layer-wise samples from BatchNorm statistics (Horton et al. 2021, eq. 10-12); "standard": the same
            from N(0, 1), bias correction included, which shows what the statistics are worth.
        bias_correction: How the mean shift that weight rounding causes is taken back out of the biases. "analytic" (or
            True): from the means that BatchNorm statistics give each layer's input; "empirical": as seen on generated
            inputs, layer by layer behind the rounded layers before it; False: not at all.
        activation_correction: Take the mean shift that rounding and clipping activations causes out of the biases, too.
        edge_dtype: Type of the file's inputs and outputs: "int8", "uint8" or "float32"; beside 16-bit activations "int16" or
            "float32". None: the activations' own.
    """

    weight_bits: int = 8
    int4: bool | None = None
    activation_bits: int = 8
    per_channel: bool = True
    dense_per_channel: bool | None = None
    symmetric_weights: bool = True
    weight_ranges: Literal["max", "search"] = "max"
    rounding: Literal["feedback", "adaround", "nearest"] = "feedback"
    equalized_rounding: bool = False
    ranges: RangeMethod = "min_max"
    range_source: RangeSource = "images"
    bias_correction: Literal["analytic", "empirical"] | bool = "analytic"
    activation_correction: bool = False
    edge_dtype: EdgeDtype | None = None

    def __post_init__(self):
        _choose(self, "weight_bits", (4, 5, 6, 7, 8))
        _choose(self, "activation_bits", (4, 5, 6, 7, 8, 16))
        _choose(self, "int4", (None, True, False))
        _choose(self, "per_channel", (True, False))
        _choose(self, "dense_per_channel", (None, True, False))
        _choose(self, "symmetric_weights", (True, False))
        _choose(self, "weight_ranges", ("max", "search"))
        _choose(self, "rounding", ("feedback", "adaround", "nearest"))
        if self.weight_ranges == "search" and self.rounding == "nearest":
            raise ValueError(
                "weight_ranges='search' weighs errors by what layers see, which rounding='nearest' does not look at; "
                "choose rounding='feedback' or 'adaround', or weight_ranges='max'."
            )
        _choose(self, "equalized_rounding", (True, False))
        _choose(self, "ranges", get_args(RangeMethod))
        _choose(self, "range_source", get_args(RangeSource))
        _choose(self, "activation_correction", (True, False))
        if self.bias_correction is True:
            object.__setattr__(self, "bias_correction", "analytic")
        _choose(self, "bias_correction", ("analytic", "empirical", False))
        if self.edge_dtype is None:
            object.__setattr__(self, "edge_dtype", "int8" if self.activation_bits <= 8 else "int16")
        allowed = ("int8", "uint8", "float32") if self.activation_bits <= 8 else ("int16", "float32")
        _choose(self, "edge_dtype", allowed)

    def one_step_per_channel(self, *, dense: bool) -> bool:
        """Whether a layer's weights have one step per output channel; `dense` tells dense layers from the others."""
        return self.per_channel if not dense or self.dense_per_channel is None else self.dense_per_channel

    @property
    def simulated(self) -> str | None:
        """Why no integer file can hold this, so that it is only simulated; None where a file can."""
        if self.activation_bits not in (8, 16):
            return f"TFLite stores activations in 8 or 16 bits, not {self.activation_bits}"
        if self.equalized_rounding:
            return "TFLite has no factors per channel on either side of a kernel"
        return None if self.symmetric_weights else "TFLite stores symmetric weights only"


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Inputs made without data.

    Attributes:
        images: Procedural images per model input.
        samples: Rows of the layer-wise Gaussian samples.
    """

    images: int = 32
    samples: int = 2000

    def __post_init__(self):
        for name in ("images", "samples"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number of at least 1.")


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Zeros in the kernels of convolution and dense layers. Give either `sparsity` or `strength`.

    Attributes:
        sparsity: Part of all these weights that becomes zero, in [0, 1); met exactly over the whole network.
        strength: Weight decay of the learned thresholds (Horton et al. 2021: 1.55e-5); the sparsity is what comes out.
            For the methods "str" and "budget" only.
        method: "obs": supports and weights that least change each layer's output, by the covariance of generated
            inputs; as many per layer as cost the model's results least when it alone is pruned, measured on generated
            images. "str": soft thresholds trained per layer (Horton et al. 2021, eq. 15-16), as many as for "obs".
            "energy": the weights that carry least of their layer's output variance. "global": the smallest folded
            weights; "global_unfolded": before BatchNorm is folded. "uniform": the smallest, the same part of each
            layer. "erk": the same, wide layers more (Evci et al. 2020); "erk_lwdf": by Horton et al. 2021, eq. 17.
            "budget": as many per layer as "str" would, the smallest. "auto" makes "obs", "energy", "global",
            "global_unfolded", "uniform" and "erk" (in a pattern "obs" and "energy") and takes the one whose outputs on
            generated inputs differ least. "channel" makes no zeros: whole channels are taken out of the model, `sparsity`
            of these weights and the depthwise ones, as nearly as channels allow.
        pattern: Where zeros may lie. None: anywhere. "2:4": of every 4 weights along the input channels of an output 2 stay,
            and the like; it decides the sparsity. "4x1": blocks of 4 input channels by 1 output go or stay, and the like
            ("16x1" is what TFLite calls 1x16). For "auto", "obs", "energy", "global" and "global_unfolded".
        multiple: For "channel": layers keep a multiple of so many channels, as NPUs like them, or all.
        correct: Take the mean shift that pruning causes out of the biases.
        refit: Least-squares repair of the weights that stay; None leaves it to the method ("obs" does it, and "str" unless
            a strength is given).
        restore: Scale each output channel such that its variance is that of the float layer.
        inputs: What the layers are thought to see. "normalized": generated images with every BatchNorm's statistics put
            right; "gaussian": independent normal samples from BatchNorm statistics; "standard": N(0, 1).
        activations: Pass "gaussian" inputs through the activations before a layer; the paper leaves them out.
        images: Generated images for "normalized".
        depthwise: Prune depthwise kernels, too. They hold few weights, and miss each of them.
    """

    sparsity: float | None = None
    strength: float | None = None
    method: PruneMethod = "auto"
    pattern: str | None = None
    multiple: int = 1
    correct: bool = True
    refit: bool | None = None
    restore: bool = True
    inputs: Literal["normalized", "gaussian", "standard"] = "normalized"
    activations: bool = True
    images: int = 256
    depthwise: bool = False

    def __post_init__(self):
        _choose(self, "method", PRUNE_METHODS)
        _choose(self, "correct", (True, False))
        _choose(self, "refit", (None, True, False))
        _choose(self, "restore", (True, False))
        _choose(self, "inputs", ("normalized", "gaussian", "standard"))
        _choose(self, "activations", (True, False))
        _choose(self, "depthwise", (True, False))
        self._check_pattern()
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple!r}; give a whole number of at least 1.")
        if self.multiple > 1 and self.method != "channel":
            raise ValueError(f"multiple is for the method 'channel', not {self.method!r}.")
        if (self.sparsity is None) == (self.strength is None):
            came = "neither" if self.sparsity is None else "both"
            raise ValueError(f"{came} of sparsity and strength came; give one: sparsity=0.5, or strength=1.55e-5.")
        if self.sparsity is not None and not (_is_number(self.sparsity) and 0 <= self.sparsity < 1):
            raise ValueError(f"sparsity is {self.sparsity!r}; give the part of zeros, at least 0 and less than 1.")
        if self.strength is not None:
            if not (_is_number(self.strength) and 0 < self.strength < float("inf")):
                raise ValueError(f"strength is {self.strength!r}; give a positive number, e.g. 1.55e-5.")
            if self.method == "auto":
                object.__setattr__(self, "method", "str")
            if self.method not in ("str", "budget"):
                raise ValueError(f"strength is for the methods 'str' and 'budget', not {self.method!r}; give sparsity.")
        if not isinstance(self.images, int) or self.images < 1:
            raise ValueError(f"images is {self.images!r}; give a whole number of at least 1.")

    def _check_pattern(self) -> None:
        if self.pattern is None:
            return
        pattern = parse_pattern(self.pattern)
        if self.method not in _PATTERNED:
            listed = ", ".join(map(repr, _PATTERNED))
            raise ValueError(
                f"pattern is {self.pattern!r}, which method {self.method!r} does not make; choose {listed}."
            )
        if pattern.sparsity is None or self.strength is not None:
            return
        if self.sparsity is None:
            object.__setattr__(self, "sparsity", pattern.sparsity)
        elif self.sparsity != pattern.sparsity:
            raise ValueError(
                f"sparsity is {self.sparsity!r}, but pattern {self.pattern!r} gives {pattern.sparsity:g}; leave one out."
            )


@dataclass(frozen=True, kw_only=True)
class Search:
    """The bits of each layer's weights, 4 or 8, chosen such that the file has the size asked for.

    Attributes:
        size: Of the file, as a part of the bytes that the same file takes with 8 bits everywhere, above 0 and at most 1.
            Never more; the result that harms the network's outputs least, as far as single layers tell.
        images: Generated inputs on which the harm of each layer is measured.
    """

    size: float
    images: int = 16

    def __post_init__(self):
        if not (_is_number(self.size) and 0 < self.size <= 1):
            raise ValueError(
                f"size is {self.size!r}; give a part of the int8 file's bytes, above 0 and at most 1, e.g. 0.6."
            )
        if not isinstance(self.images, int) or self.images < 1:
            raise ValueError(f"images is {self.images!r}; give a whole number of at least 1.")


@dataclass(frozen=True, kw_only=True)
class Recover:
    """What quantizing took, partly won back: the layers of the integer network are solved for the model's own outputs on
    generated images (`generate_images`, then `feature_regression`). Worth trying at 4 bits; the model needs its BatchNorms.

    Attributes:
        images: Generated images, as varied as the training data by BatchNorm statistics; a quarter of them only judges.
        image_size: Their height and width; None: the model's own. Smaller ones take less time and memory.
        steps: Of training after the layers were solved. 0: none; they take most of the time and here bring little.
    """

    images: int = 256
    image_size: int | None = None
    steps: int = 0

    def __post_init__(self):
        for name, least in (("images", 2), ("image_size", 1), ("steps", 0)):
            value = getattr(self, name)
            if name == "image_size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rules(rules: object) -> tuple[Rule, ...]:
    if isinstance(rules, Rule):
        rules = (rules,)
    if not isinstance(rules, (list, tuple)) or not all(isinstance(rule, Rule) for rule in rules):
        raise ValueError(f"rules are {rules!r}; give Rule objects: rules=(Rule('block_1*', weight_bits=4),).")
    return tuple(rules)


def _mapping(what: str, values: object) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{what} is {values!r}; give options by name, e.g. {{'base': 'int8'}}.")
    return values


def _known(what: str, values: Iterable[str], owner: type, also: tuple[str, ...] = ()) -> None:
    """Raises ValueError for a name in `values` that is no option of `owner`."""
    names = [*also, *(field.name for field in dataclasses.fields(owner))]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(names)}."
            raise ValueError(f"{what} has no option {name!r}; {hint}")


def _section(name: str, owner: type, base: Any, values: object) -> Any:
    """The options `owner` of one section: those of `base` with `values` in place of some."""
    given = _mapping(name, values)
    _known(name, given, owner)
    start = {} if base is None else {f.name: getattr(base, f.name) for f in dataclasses.fields(owner)}
    if base is not None and start.get("edge_dtype") == _default_edge(start):
        start.pop("edge_dtype", None)  # it followed from activation_bits, and does so again
    return owner(**{**start, **given})


def _default_edge(quantize: Mapping[str, Any]) -> str | None:
    return Quantize(activation_bits=quantize["activation_bits"]).edge_dtype if "activation_bits" in quantize else None


def _rules_of(values: object) -> tuple[Rule, ...]:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"rules is {values!r}; give a list, e.g. [{{'pattern': 'logits', 'keep_float': True}}].")
    rules = []
    for at, value in enumerate(values):
        options = dict(_mapping(f"rule {at + 1}", value))
        _known(f"rule {at + 1}", options, Rule)
        if "pattern" not in options:
            raise ValueError(f"rule {at + 1} has no 'pattern'; give the name or type of the layers it is for.")
        rules.append(Rule(options.pop("pattern"), **options))
    return tuple(rules)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, beside the model, the input range and the seed.

    Attributes:
        name: The preset it came from.
        quantize: None leaves the file in float.
        policy: Bits layer by layer, found by a search; None gives every layer `quantize.weight_bits`.
        prune: None leaves every weight; zeros are exact zeros in the integer file, too.
        recover: Layers of the integer network solved anew on generated images, once it is made; None leaves it as it is.
        float16: Store float weights as float16; only without `quantize`.
        equalize: Even out kernels across layers first, where that keeps the function (Nagel et al. 2019, section 4.1).
        equalize_power: Part of the way to equal kernels, above 0 and at most 1; less leaves activation ranges more alike.
        equalize_caps: What becomes of ReLU6 and other caps. "keep": not equalized across; "channel": one cap per channel,
            exact, one MINIMUM operator each; "limit": scales that BatchNorm statistics say do not reach the cap; "drop":
            caps that they say are not reached are taken out. The last two change the float function; the report says
            by how much.
        scale_outliers: For one weight step per tensor: scale channels with outlying weights across ReLU6 and other caps, as
            far as what caps then cut off costs less than rounding with the larger step would. It adds no operators and
            changes the float function; the report says by how much.
        level_activations: Bring channels of a tensor nearer to one another's reach where that keeps the function, for steps
            of 8 bits or fewer. Not beside `equalize`, which needs the same freedom for kernels.
        absorb_bias: Move high biases through ReLU into the next layer (Nagel et al. 2019, section 4.1.3).
        generate: Inputs for ranges and corrections.
        rules: What single layers get instead; the first that matches a layer decides for it.
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
        object.__setattr__(self, "rules", _rules(self.rules))
        for rule in self.rules:
            self._check_rule(rule)
        if self.float16 and self.quantize is not None:
            raise ValueError("float16 is for float files; set quantize=None, or leave float16 out.")
        if self.policy is not None:
            self._check_policy()
        if self.recover is not None:
            self._check_recover()
        for name in ("float16", "equalize", "scale_outliers", "level_activations", "absorb_bias"):
            _choose(self, name, (True, False))
        _choose(self, "equalize_caps", CAPS)
        if not (_is_number(self.equalize_power) and 0 < self.equalize_power <= 1):
            raise ValueError(f"equalize_power is {self.equalize_power!r}; choose a number above 0 and at most 1.")

    def _check_policy(self) -> None:
        if self.quantize is None or self.quantize.simulated:
            why = "the recipe does not quantize" if self.quantize is None else self.quantize.simulated
            raise ValueError(f"policy searches bits for an integer file, and there will be none: {why}.")
        if self.quantize.weight_bits != 8:
            raise ValueError(
                f"weight_bits is {self.quantize.weight_bits}, but the policy chooses the bits of every layer; leave one out."
            )

    def _check_recover(self) -> None:
        if not isinstance(self.recover, Recover):
            raise ValueError(f"recover is {self.recover!r}; give its options, e.g. Recover(images=256).")
        if self.quantize is None:
            raise ValueError(
                "recover works on integers, but quantize is None, so that everything stays in float; leave recover out, and "
                "call feature_regression(compressed, model, images) for a float network."
            )
        if self.prune is not None and self.prune.method == "channel":
            raise ValueError(
                "recover compares layers channel by channel with the model's, but prune.method is 'channel', which takes "
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
                f"rule {rule.pattern!r} sets sparsity, but the recipe does not prune; add prune=Prune(sparsity=0.5), of "
                "which this rule is a part."
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
        """Plain values, as in the JSON record and in recipe files; of rules only what they set."""
        values = dataclasses.asdict(self)
        values["rules"] = [{"pattern": rule.pattern, **rule.settings} for rule in self.rules]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_dict` made these values of; or one that says only what is to be different.

        Args:
            values: Options by name, those of `quantize`, `policy`, `prune`, `recover` and `generate` in mappings of their own,
                rules in a list. What is left out is as in the preset that "base" names; without "base", as in Recipe().

        Raises:
            ValueError: An option is unknown (names the nearest) or has a wrong value.
        """
        values = dict(_mapping("the recipe", values))
        base = get_recipe(values.pop("base")) if "base" in values else cls()
        _known("the recipe", values, cls, also=("base",))
        for name, section in _SECTIONS.items():
            if values.get(name) is not None:
                values[name] = _section(name, section, getattr(base, name), values[name])
            elif name == "generate" and name in values:
                raise ValueError("generate is null; give its options, or leave it out.")
        if "rules" in values:
            values["rules"] = _rules_of(values["rules"])
        changed = {name for name, value in values.items() if value != getattr(base, name)}
        if changed and "name" not in values:
            values["name"] = "custom"
        return dataclasses.replace(base, **values)


_SECTIONS = {"quantize": Quantize, "policy": Search, "prune": Prune, "recover": Recover, "generate": Generate}

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


def get_recipe(recipe: "str | Recipe") -> Recipe:
    """The preset of that name, or the Recipe itself.

    Raises:
        ValueError: No preset has this name; says the nearest one.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe in PRESETS:
        return PRESETS[recipe]
    near = difflib.get_close_matches(str(recipe), PRESETS, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"recipe is {recipe!r};{hint} choose one of {', '.join(PRESETS)}, or pass a Recipe.")
