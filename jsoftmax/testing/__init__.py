"""Value assertions in the style of chex, for tests of code that uses jsoftmax."""

from jsoftmax.testing._assert_certificate import assert_certificate
from jsoftmax.testing._assert_distribution import assert_distribution
from jsoftmax.testing._assert_same_mapping import assert_same_mapping

__all__ = ["assert_certificate", "assert_distribution", "assert_same_mapping"]
