"""Curves: p as a function of the scores and the unknown threshold, in stable coordinates.

A *curve* gives p for v = z − anchor at a place on it, in coordinates that neither overflow nor
cancel, and defines how to move along it.

The curves of `Tsallis` with a = α − 1 are all p = (c + a v)₊^(1/a). Up to a = 1 the anchor is the
largest score and c, or its logarithm, is kept as a sum of two floats: rounded to one, it would
spoil the sum of a wide row. For a > 1, p leaves zero with infinite slope, and so many digits of c
matter that the anchor has to be the class at the edge of the support itself.
"""

from jsoftmax.core.curves._bounded_marginals import bounded_marginals as bounded_marginals
from jsoftmax.core.curves._bounded_marginals import masses_and_slopes as masses_and_slopes
from jsoftmax.core.curves._bounded_marginals import slope_at as slope_at
from jsoftmax.core.curves._capped_curve import Capped as Capped
from jsoftmax.core.curves._curve import Curve as Curve
from jsoftmax.core.curves._curve import has_slopes as has_slopes
from jsoftmax.core.curves._curve import is_asked as is_asked
from jsoftmax.core.curves._curve import two_sum as two_sum
from jsoftmax.core.curves._edge import Edge as Edge
from jsoftmax.core.curves._level import Level as Level
from jsoftmax.core.curves._level import LevelPlace as LevelPlace
from jsoftmax.core.curves._power import Power as Power
from jsoftmax.core.curves._scaled import Scaled as Scaled
from jsoftmax.core.curves._shift import Shift as Shift
