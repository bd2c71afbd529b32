"""The contestant's interface: everything that the author of a method imports.

A method is announced by a `Method` (a light description, importable without torch) under the entry-point group
`tags_bench.methods`. Its `factory` is imported only when the method is really used.

    Method ──build──► Segmenter ──open(volume, target)──► Session ──segment(prompts)──► mask

`examples/my_method` is a whole one. `prepare` takes a volume to the network's grid, and the `Prepared` that it gives
takes points there (`to_prepared`) and masks back (`to_native_mask`).
"""

from benchmarks.common.checkpoint import load_weights, save_weights
from benchmarks.common.errors import UserError
from benchmarks.common.plugins import BrokenPlugin
from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants.description import Card, Method, Seen, ZooTraining
from benchmarks.contestants.environment import Environment
from benchmarks.contestants.installed import ENTRY_POINT_GROUP, broken_methods, method, methods
from benchmarks.contestants.interface import (
    NO_AUGMENTATION,
    Augmentation,
    Batch,
    Budget,
    OwnTraining,
    Segmenter,
    Session,
    Trainable,
    TrainingRecipe,
)
from benchmarks.data.dataset import Case
from benchmarks.data.preprocessing import Prepared, Preprocessing, crop, paste, prepare
from benchmarks.data.target import Target
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Box, Click, PromptKind, Prompts

__all__ = [
    "ENTRY_POINT_GROUP",
    "NO_AUGMENTATION",
    "Augmentation",
    "Batch",
    "BoolArray",
    "Box",
    "BrokenPlugin",
    "Budget",
    "Card",
    "Case",
    "Click",
    "Environment",
    "FloatArray",
    "Method",
    "OwnTraining",
    "Prepared",
    "Preprocessing",
    "PromptKind",
    "Prompts",
    "Seen",
    "Segmenter",
    "Session",
    "Target",
    "Trainable",
    "TrainingRecipe",
    "UserError",
    "Volume",
    "WeightFile",
    "ZooTraining",
    "broken_methods",
    "crop",
    "load_weights",
    "method",
    "methods",
    "paste",
    "prepare",
    "save_weights",
]
