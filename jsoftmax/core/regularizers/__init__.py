"""The regularizers of the library. They override base-class methods for speed and precision."""

from jsoftmax.core.regularizers._chosen import chosen, of_order
from jsoftmax.core.regularizers._elastic import Elastic
from jsoftmax.core.regularizers._fermi_dirac import FermiDirac
from jsoftmax.core.regularizers._jensen_shannon import JensenShannon
from jsoftmax.core.regularizers._laplace import Laplace
from jsoftmax.core.regularizers._tsallis import SHANNON, Tsallis

__all__ = [
    "SHANNON",
    "Elastic",
    "FermiDirac",
    "JensenShannon",
    "Laplace",
    "Tsallis",
    "chosen",
    "of_order",
]
