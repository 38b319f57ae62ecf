"""distill(): a pruned or quantized network is trained end to end on images that a network makes up.

    pose the problem -> images that judge -> images that train, or a generator -> train -> judge -> Keras model (-> integer file)

The methods and their options are in `recipe/distillation.py`, the loop is in loop.py, and each part has a file of its own.
"""

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import keras
import numpy as np
import tensorflow as tf

from tfdatafree.canonical.separate import separate
from tfdatafree.compressed import Compressed
from tfdatafree.inputs.checkpoint import digest_of, require_npz
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.inputs.input_range import find_input_ranges
from tfdatafree.inputs.make import affordable, make_inputs, ranges_by_input
from tfdatafree.limits import require_memory, require_seed
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.model.network import InputRange
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.progress import Progress
from tfdatafree.recipe.distillation import Distillation, ImageGenerator, InvertedImages, MatchedImages, get_method
from tfdatafree.recovery.activation_grids import trained_grids
from tfdatafree.recovery.distillation.deep_inversion import Inverter
from tfdatafree.recovery.distillation.generator_losses import require_possible
from tfdatafree.recovery.distillation.generator_network import build_generator, require_pictures
from tfdatafree.recovery.distillation.held_out import HeldOut, discrepancy, is_better
from tfdatafree.recovery.distillation.images import Place, inverted_images, matched_images
from tfdatafree.recovery.distillation.loop import Checkpoint, Course, run
from tfdatafree.recovery.distillation.pool import Batches, Pool
from tfdatafree.recovery.distillation.relation import require_related
from tfdatafree.recovery.distillation.student import Student
from tfdatafree.recovery.distillation.student_loss import StudentLoss, last_maps
from tfdatafree.recovery.distillation.teacher import Teacher
from tfdatafree.recovery.distillation.thresholds import first_settled
from tfdatafree.recovery.distillation.trainer import Adversary, Trainer
from tfdatafree.recovery.outputs import OutputPair, output_pairs
from tfdatafree.recovery.parameters import Bounds, feature_sizes, trained_parameters
from tfdatafree.recovery.problem import Judge, Problem, pose
from tfdatafree.recovery.write_back import write_back
from tfdatafree.report.assemble import Change

# Copies of a batch's activations that a step holds: forward, gradients, workspace.
_COPIES = 3
_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What `distill` returns.

    Attributes:
        model: The student with new weights, built as it was.
        compressed: If the student was the result of a quantizing `compress`: that result with the new weights, and with new
            scales of weights and activations. None for any other student, if `grids` were given, or if no file could be written;
            `kept` then says why.
        before, after: Discrepancy from the teacher on held-out inputs (`response_discrepancy`); after <= before, but for a
            student that got zeros (`thresholds`).
        loss: Loss of each step of the student.
        judged: (checks, 2): step, and discrepancy on the held-out inputs. Step 0 is the student before training.
        best_step: The step whose student was taken; 0: none was better than the start.
        images: Some of the images that it was trained on, (n, ...) per input name; at most 64.
        kept: Layer -> why it was not trained, or not compared.
    """

    model: keras.Model
    compressed: Compressed | None
    before: float
    after: float
    loss: np.ndarray
    judged: np.ndarray
    best_step: int
    images: dict[str, np.ndarray]
    kept: dict[str, str]


_SHOWN = 64
# Matched images that judge, where none of them train. They need not be as near to the statistics as those that train.
_JUDGING = MatchedImages(images=64, steps=50)
# The judging inputs' seed is away from those of the images that train.
_JUDGES = 2**20


def distill(
    student: "keras.Model | Compressed",
    teacher: keras.Model,
    method: str | Distillation = "matched",
    *,
    images: "np.ndarray | list[np.ndarray] | Mapping[str, np.ndarray] | GeneratedImages | None" = None,
    masks: Mapping[str, np.ndarray] | None = None,
    grids: Mapping[str, Quantizer] | None = None,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    path: str | os.PathLike | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> Distilled:
    """Trains the whole student end to end, so that it gives the teacher's results. Neither model is changed.

    Weights outside masks stay zero. Weights and activations on grids are rounded in each step, and gradients pass straight
    through; the scales of the grids are trained, too. The student is judged by its responses to held-out inputs: matched and
    procedural ones, or a quarter of real `images`. The best is taken, and one counts as better only where its gain is larger
    than its standard error. Labels are never read.

    Args:
        student: A compressed form of the teacher, as for `feature_regression`; best one that `feature_regression` has solved.
        teacher: The float model.
        method: Name of a published method in `METHODS`, with its settings for two cores; or a Distillation.
        images: Values (n, *shape) to train on in place of those that the method makes, as for `feature_regression`. A quarter
            of real ones (arrays) is held out.
        masks, grids: As for `feature_regression`.
        input_range: As for `compress`. None: that of a quantized `Compressed`, else as `compress` finds it.
        steps, batch_size: In place of those of the method.
        path: An .npz file for the unfinished run. An interrupted run continues from it, and gives the same bytes as an
            uninterrupted one. Images are kept beside it, in a file that ends in .images.npz.
        seed: The same seed gives the same bytes.
        verbose: 0 hides the progress bar, which shows the loss and the discrepancy.

    Returns:
        A Distilled: `.model`, and of a `Compressed` `.compressed`, which holds the integer file.

    Guarantees that the discrepancy on the held-out inputs is not larger than before, but for `thresholds`.

    Raises:
        ValueError: An option is wrong; the student is no compressed form of this teacher; a batch would take too much memory;
            or `path` holds the run of another model or of other options.
        UnsupportedModelError: The method makes no images for this model (no picture, no BatchNorm, no classes); says what to do.
        LoadError: `path` is damaged, or as for `compress`.
    """
    started = time.perf_counter()
    options = _with_own(get_method(method), steps, batch_size)
    seed = require_seed(seed)
    place = Place(None if path is None else require_npz(path), seed, verbose)
    teacher = load(teacher)
    teacher_graph = separate(Graph.from_keras(teacher)).graph
    student = student if isinstance(student, Compressed) else load(student)
    student_model = student.model if isinstance(student, Compressed) else student
    student_graph = separate(Graph.from_keras(student_model)).graph
    require_related(student_graph, teacher_graph)
    if images is None and isinstance(options.images, ImageGenerator):
        require_pictures(teacher_graph)
    largest = options.batch_size
    if images is None and isinstance(options.images, InvertedImages):
        largest = max(largest, options.images.group)
    _require_memory(student_graph, teacher_graph, largest, options.held_out)
    ranges = _ranges(student, teacher_graph, input_range, seed)
    made = images is None or isinstance(images, GeneratedImages)
    makes_own = images is None and not isinstance(options.images, MatchedImages)
    if images is None and isinstance(options.images, MatchedImages):
        images = matched_images(teacher, teacher_graph, ranges, options.images, place, "images")
    elif images is None:
        images = matched_images(teacher, teacher_graph, ranges, _JUDGING, place, "held_out")
    problem = pose(student, teacher, images, masks=masks, grids=grids, seed=seed)
    parts = _Parts.of(student, problem, options)
    if makes_own:
        source = _own_source(parts, ranges, place)
    else:
        source = Batches(Pool(problem.images.student), options.batch_size, views=options.views, seed=seed)
    kinds = [problem.inputs if makes_own else problem.images.held_out_student]
    if made:
        n = affordable(problem.student, options.held_out)
        kinds.append(make_inputs(problem.student, n, ranges, seed=seed + _JUDGES))
    held_out = HeldOut(problem.teacher, kinds, options.batch_size)
    rate = options.learning_rate
    if options.optimizer == "adam" and options.thresholds is None:
        rate *= min(
            1.0, Judge(problem).discrepancy(problem.student)
        )  # a student that is nearly right has a short way to go
    trainer = Trainer(parts.student, parts.teacher, parts.loss, source, options, seed=seed)
    course = _run(trainer, held_out, parts, place, rate)
    return _finish(student, parts, held_out, course, _shown(source, problem, seed), started)


def _with_own(options: Distillation, steps: int | None, batch_size: int | None) -> Distillation:
    return dataclasses.replace(
        options,
        steps=options.steps if steps is None else steps,
        batch_size=options.batch_size if batch_size is None else batch_size,
    )


def _require_memory(student: Graph, teacher: Graph, batch_size: int, held_out: int) -> None:
    elements = sum(
        math.prod(size or 1 for size in spec.shape[1:]) for graph in (student, teacher) for spec in graph.specs.values()
    )
    require_memory(
        f"a step on {batch_size} images",
        _COPIES * _FLOAT_BYTES * elements * batch_size,
        "give a smaller batch_size (or group, for Deep Inversion)",
    )
    inputs = sum(math.prod(teacher.specs[tensor].example_shape) for tensor in teacher.inputs)
    require_memory(
        f"judging by {held_out} inputs", _FLOAT_BYTES * inputs * held_out, "give a Distillation with a smaller held_out"
    )


def _ranges(student: object, teacher: Graph, input_range, seed: int) -> tuple[InputRange, ...]:
    if input_range is None and isinstance(student, Compressed) and student.probes is not None:
        return tuple(ranges_by_input(teacher, student.probes.ranges))
    return tuple(find_input_ranges(teacher, None if input_range is None else check_input_range(input_range), seed))


@dataclass(frozen=True)
class _Parts:
    """What is trained, what it imitates, and what is compared."""

    problem: Problem
    options: Distillation
    student: Student
    teacher: Teacher
    loss: StudentLoss
    outputs: list[OutputPair]

    @classmethod
    def of(cls, given: object, problem: Problem, options: Distillation) -> "_Parts":
        features = list(problem.pairs.values())
        teacher = Teacher(problem.teacher, mixed_precision=options.mixed_precision)
        sizes = feature_sizes(problem.student, problem.teacher, features, problem.images.held_out_teacher)
        bounds = Bounds(problem.masks, problem.grids, lambda key: key not in problem.fixed)
        student = Student(
            problem.student,
            trained_parameters(problem.student, sizes, bounds),
            trained_grids(given if problem.file_grids else None),
            scales=options.scales if problem.file_grids else 0.0,
            relative=options.optimizer == "adam",
            batch_statistics=options.batchnorm == "training",
            thresholds=options.thresholds,
            mixed_precision=options.mixed_precision,
        )
        outputs = output_pairs(problem.student, problem.teacher)
        loss = StudentLoss(options.compare, student, teacher, features, outputs)
        return cls(problem, options, student, teacher, loss, outputs)


def _own_source(parts: _Parts, ranges: Sequence[InputRange], place: Place) -> Batches | Adversary:
    """What Deep Inversion made, or a generator."""
    options, teacher = parts.options, parts.teacher
    chosen = next((pair for pair in parts.outputs if pair.classes), None)
    if isinstance(options.images, InvertedImages):
        ends = [range_.ends for range_ in ranges]
        inverter = Inverter(teacher, parts.student, options.images, ends, chosen, seed=place.seed)
        graphs = [parts.problem.student, teacher.graph] if options.images.competition else [teacher.graph]
        identity = digest_of((options.images, ends, place.seed), [], graphs)
        pool = inverted_images(inverter, teacher.graph, place, identity)
        return Batches(pool, options.batch_size, views=options.views, seed=place.seed)
    assert isinstance(options.images, ImageGenerator), "matched images are no source of their own"
    classes = 0 if chosen is None else chosen.classes
    require_possible(options.images, teacher, classes)
    network = build_generator(
        require_pictures(teacher.graph), ranges[0].ends, options.images, classes=classes, seed=place.seed
    )
    maps = last_maps(teacher, list(parts.problem.pairs.values())) or list(parts.problem.pairs.values())
    logits = (chosen or parts.outputs[0]).teacher
    return Adversary(network, options.images, classes, logits, maps[-1][1])


def _run(trainer: Trainer, held_out: HeldOut, parts: _Parts, place: Place, rate: float) -> Course:
    options = parts.options
    warm_up = trainer.source.options.warm_up if isinstance(trainer.source, Adversary) else 0
    pool = trainer.source.pool.arrays if isinstance(trainer.source, Batches) else []
    identity = digest_of(
        (options, place.seed), [*chain(*held_out.kinds), *pool], [parts.problem.student, parts.problem.teacher]
    )
    checkpoint, judge = Checkpoint(place.checkpoint, identity), held_out.of(parts.student)
    course = checkpoint.read(trainer, rate)
    progress = Progress(warm_up + options.steps, place.verbose, steps_done=course.done)
    try:
        run(
            trainer,
            judge,
            checkpoint,
            course,
            warm_up=warm_up,
            steps=options.steps,
            settled=0 if options.thresholds is None else first_settled(options.steps),
            on_step=progress.step,
        )
    finally:
        progress.close()
    return course


def _shown(source: Batches | Adversary, problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """Some images that the student was trained on, by input."""
    if isinstance(source, Batches):
        arrays = source.pool.first(_SHOWN).arrays
    else:
        arrays = [source.draw(_SHOWN, tf.constant([seed % 2**31, 0], tf.int32))[0].numpy()]
    return dict(zip(problem.student.inputs, arrays, strict=True))


def _finish(
    given: "keras.Model | Compressed",
    parts: _Parts,
    held_out: HeldOut,
    course: Course,
    images: dict[str, np.ndarray],
    started: float,
) -> Distilled:
    """The best student, written back; the one that was given where that one is better."""
    problem, before = parts.problem, course.judged[0][1]
    after, kept = before, dict(problem.reasons)
    unchanged = model = given.model if isinstance(given, Compressed) else given
    compressed = given if problem.file_grids and isinstance(given, Compressed) else None
    if course.best_step:
        note = f"step {course.best_step}: discrepancy {before:.4g} -> {course.least:.4g} on held-out inputs"
        change = Change("distillation", note, time.perf_counter() - started)
        written = write_back(
            given,
            problem,
            parts.student.result(),
            grids=parts.student.grids(),
            change=change,
            ranges=parts.student.ranges(),
        )
        kept |= written.reasons
        found = held_out.of_graph(separate(Graph.from_keras(written.model)).graph)
        pruned = parts.options.thresholds is not None
        if not written.reasons and (pruned or is_better(found, held_out.of_graph(problem.student))):
            model, compressed, after = written.model, written.compressed, discrepancy(found)
    return Distilled(
        model=model,
        compressed=compressed,
        before=before,
        after=after,
        loss=np.array(course.loss, np.float32),
        judged=np.array(course.judged),
        best_step=course.best_step if model is not unchanged else 0,
        images=images,
        kept=kept,
    )
