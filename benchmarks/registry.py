"""List the benchmarks: names and modules, in the order of `make bench`. None is imported here."""

import ast
import importlib
import pathlib

from benchmarks.benchmark import Benchmark

# Mappings and attention first: threads of torch, once started, would spin beside the others.
MODULES = {
    "mappings": "benchmarks.mappings",
    "sampling": "benchmarks.sampling",
    "truncation": "benchmarks.truncation",
    "regression": "benchmarks.regression",
    "estimators": "benchmarks.estimators",
    "gumbel_softmax_table": "benchmarks.gumbel_softmax_table",
    "calibration_peers": "benchmarks.calibration_peers",
    "attention": "benchmarks.attention.benchmark",
    "short_attention": "benchmarks.short_attention",
    "linear": "benchmarks.linear",
    "experts_and_contrast": "benchmarks.experts_and_contrast",
    "trees": "benchmarks.trees",
    "sampled": "benchmarks.sampled",
    "adaptive": "benchmarks.adaptive",
    "language_model": "benchmarks.language_model",
    "text": "benchmarks.text",
    "word_vectors": "benchmarks.word_vectors",
    "multilabel": "benchmarks.multilabel",
    "conformance": "benchmarks.conformance.benchmark",
    "newest_peers": "benchmarks.newest_peers",
    "chips": "benchmarks.chips.benchmark",
    "attention_kernels": "benchmarks.chips.attention_kernels",
    "linear_kernel": "benchmarks.chips.linear_kernel",
    "at_scale": "benchmarks.chips.at_scale",
    "against": "benchmarks.against",
}


def load(name: str) -> Benchmark:
    """Import a benchmark, and with it the peers that it needs."""
    return importlib.import_module(MODULES[name]).BENCHMARK


def description(name: str) -> str:
    """The first line of the module's docstring, read without an import."""
    file = pathlib.Path(__file__).parent.parent.joinpath(*MODULES[name].split("."))
    tree = ast.parse(file.with_suffix(".py").read_text())
    return (ast.get_docstring(tree) or "").partition("\n")[0]
