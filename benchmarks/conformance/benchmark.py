"""Ask every library the same questions at the edges; the answers are docs/conformance.md."""

import collections
import itertools

from rich.progress import track

from benchmarks.benchmark import ROOT, Benchmark, Outcome, Setting
from benchmarks.conformance import attention, dtypes, edges, faults
from benchmarks.conformance.judge import ERROR, MISSING, NAN, RIGHT, WRONG, Verdict, ask
from benchmarks.conformance.libraries import ATTENDING
from benchmarks.conformance.questions import Question, Section
from benchmarks.tables import Table

INTRODUCTION = """\
Each row is one question, put to every library that has the function. A cell says *right*; *wrong*,
with the numbers that came back; *NaN*; the *error* that was raised; or – where the library has no
such function or argument. Right means within 1e-5 (absolute and relative) of a float64 answer
computed separately, in numpy by bisection, unless the row states a tolerance. Where an error is
right, one of any type will do. Sections marked † hold a promise of jsoftmax's where another answer
could be defended. optax's and jaxopt's projections, which take one vector, are vmapped over the
rows; entmax is the torch package, by its sort and by its bisection where it has both. Attention is
that of jax.nn (which flax.nnx calls), flax.linen, tokamax (plain and in chunks), and torch.
"""


def verdicts(question: Question, libraries: tuple[str, ...]) -> dict[str, dict[str, Verdict]]:
    """The answers of every library, by its ways to compute."""
    return {
        library: {
            way: ask(call, question.right) for way, call in question.calls.get(library, {}).items()
        }
        for library in libraries
    }


def table(section: Section, rows: list[tuple[Question, dict]]) -> Table:
    """A section as text."""
    return Table(
        section.title + (" †" if section.convention else ""),
        "",
        ["question", "right answer", *section.libraries],
        [
            [question.name, str(question.right), *map(_cell, given.values())]
            for question, given in rows
        ],
    )


def tallies(answers: list[tuple[Section, list[tuple[Question, dict]]]]) -> list[Table]:
    """How many questions each library answered, and how; apart where the libraries differ."""
    asked = collections.defaultdict(list)
    for section, rows in answers:
        asked[section.libraries] += [given for _, given in rows]
    return [tally(libraries, given) for libraries, given in asked.items()]


def tally(libraries: tuple[str, ...], asked: list[dict]) -> Table:
    """How these libraries answered these questions."""
    counts = {name: collections.Counter() for name in libraries}
    for given in asked:
        for name in libraries:
            # A library with two ways is counted by the better one.
            kinds = {verdict.kind for verdict in given[name].values()}
            best = (kind for kind in (RIGHT, WRONG, NAN, ERROR) if kind in kinds)
            counts[name][next(best, MISSING)] += 1
    kinds = (RIGHT, WRONG, NAN, ERROR, MISSING)
    return Table(
        f"{len(asked)} questions" + (" about attention" if libraries == ATTENDING else ""),
        "A library with two ways to compute is counted by its better answer.",
        ["", *libraries],
        [[kind, *(str(counts[name][kind]) for name in libraries)] for kind in kinds],
    )


def _cell(given: dict[str, Verdict]) -> str:
    known = {way: verdict for way, verdict in given.items() if verdict.kind != MISSING}
    if not known:
        return MISSING
    if len({str(verdict) for verdict in known.values()}) == 1:
        return str(next(iter(known.values())))
    return "; ".join(f"{way} {verdict}".strip() for way, verdict in known.items())


def run(settings, screen) -> Outcome:
    """Ask everything, or of each section the first questions."""
    sections = [*dtypes.sections(), *edges.sections(), *faults.sections(), *attention.sections()]
    answers = [
        (
            section,
            [
                (each, verdicts(each, section.libraries))
                for each in itertools.islice(section.questions, settings.questions)
            ],
        )
        for section in track(sections, "asking", console=screen)
    ]
    report = [*tallies(answers), *(table(section, rows) for section, rows in answers)]
    return Outcome(report, about=INTRODUCTION)


BENCHMARK = Benchmark(
    "conformance",
    "Conformance at the edges",
    run,
    {"questions": Setting(None, 2)},  # of each section
    folder=ROOT / "docs",
)
