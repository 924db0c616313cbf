"""Slot transform: a state becomes another, on entering a stage (``stages.i.transforms``) or offline (``ingot transform``).

A transform has two sides (core.seams.Transform):

    graph(tree) -> tree                      the model section after it, from the one before it: a pure edit of plain, resolved data
    __call__(snapshot, target) -> Snapshot   weights and optimizer state, whole CPU tensors by name, made to fit the new model

``graph`` alone rebuilds the model of a later stage, so a resumed run never grows twice. Both sides read the declared axes, never
class names. ``_carry`` moves a weight together with its optimizer state:

    take = Take(snapshot, target)
    take.copy("encoder.blocks.3.mixer.query.weight", "encoder.blocks.1.mixer.query.weight")    the weight, its state verbatim
    take.map(name, source, (rows, columns))                       each axis through a Map: index, value factor, gradient factor
    take.fresh(name)                                              the target's initial value, no state
    return take.result()                                          checks names and shapes, collects notes

A weight whose state cannot be moved (per axis, projected or quantized state under a map that is not the identity, or a key of unknown
power) starts with fresh state, and a note says so.

The package is its own front door: ``ingot.transform(run, transforms)`` is build.grow.transform.
"""

from __future__ import annotations

from ..core.front_door import answer_calls

answer_calls(__name__, "ingot.build.grow", "transform")
