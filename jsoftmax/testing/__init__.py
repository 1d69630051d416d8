"""Value assertions for tests of what is built on jsoftmax, in the manner of chex."""

from jsoftmax.testing._assert_certificate import assert_certificate
from jsoftmax.testing._assert_distribution import assert_distribution
from jsoftmax.testing._assert_same_mapping import assert_same_mapping

__all__ = ["assert_certificate", "assert_distribution", "assert_same_mapping"]
