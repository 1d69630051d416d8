"""Skip-gram by hierarchical softmax, beside gensim.

FOLDER holds `valid.txt` and `test.txt` of WikiText-2: words with spaces between. Both learn from
valid.txt, and are judged by pairs of words of test.txt. Nothing is downloaded.
"""

import collections
import os
import statistics
import time
from typing import NamedTuple

import numpy as np
from rich.progress import track

from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.runner import command
from benchmarks.skipgram import DIMENSION, SIZES, WINDOW, Learned, Skipgram
from benchmarks.tables import Table
from benchmarks.wikitext import FOLDER, JUDGED, LEARNED, texts

EPOCHS, ROUNDS = 5, 3
RATES, THEIR_RATES = (0.01, 0.03, 0.1), (0.0125, 0.025, 0.05)
PAIRS = 200_000  # of the judged text, at most
FREQUENCIES = "frequencies alone"


# The text.


class Text(NamedTuple):
    """Lines to learn from, as words and as their numbers; pairs (centre, neighbour) to judge by."""

    lines: list[list[str]]
    words: dict[str, int]
    counts: np.ndarray
    numbers: np.ndarray
    line_of: np.ndarray
    learned_pairs: np.ndarray
    pairs: np.ndarray

    @classmethod
    def read(cls, *both: str) -> "Text":
        """Words are numbered by frequency. Windows stay within a line, as in gensim."""
        learned, judged = ([line.split() for line in text.splitlines()] for text in both)
        learned = [line for line in learned if line]
        found = collections.Counter(word for line in learned for word in line).most_common()
        words = {word: i for i, (word, _) in enumerate(found)}
        numbers, line_of = _numbered(learned, words)
        return cls(
            learned,
            words,
            np.array([count for _, count in found]),
            numbers,
            line_of,
            _pairs(numbers, line_of),
            _pairs(*_numbered(judged, words)),
        )


def _numbered(lines, words):
    """One number a word, −1 for those that are not in `words`, and the line of each."""
    numbers = np.array([words.get(word, -1) for line in lines for word in line], np.int32)
    return numbers, np.repeat(np.arange(len(lines), dtype=np.int32), [len(x) for x in lines])


def _pairs(numbers, line_of):
    """Centre and neighbour, of all windows, thinned out evenly to at most `PAIRS`."""
    both = []
    for offset in range(1, WINDOW + 1):
        a, b = numbers[:-offset], numbers[offset:]
        kept = (line_of[:-offset] == line_of[offset:]) & (a >= 0) & (b >= 0)
        both += [np.stack([a[kept], b[kept]], 1), np.stack([b[kept], a[kept]], 1)]
    pairs = np.concatenate(both)
    return pairs[:: -(-len(pairs) // PAIRS)]


# The learners.


class Gensim:
    """`gensim.models.Word2Vec` with the same window, dimension, epochs and text."""

    def __init__(self, text: Text, epochs: int):
        self.text, self.epochs = text, epochs

    def learn(self, seed: int, rate: float) -> Learned:
        """From a new model; finding the words of the text is not timed, training is."""
        from gensim.models import Word2Vec

        model = Word2Vec(
            vector_size=DIMENSION, window=WINDOW, min_count=1, sg=1, hs=1, negative=0, sample=0,
            workers=os.cpu_count() or 1, seed=seed + 1, epochs=self.epochs,
            alpha=rate,
        )  # fmt: skip
        model.build_vocab(self.text.lines)
        start, cpu = time.perf_counter(), time.process_time()
        model.train(self.text.lines, total_examples=model.corpus_count, epochs=self.epochs)
        seconds = time.perf_counter() - start, time.process_time() - cpu
        theirs = [model.wv.key_to_index[word] for word in self.text.words]
        points, codes = ([model.wv.expandos[name][i] for i in theirs] for name in ("point", "code"))
        lengths = np.array([len(x) for x in codes])
        shape = len(theirs), lengths.max()
        paths, taken = np.full(shape, -1), np.zeros(shape, np.int64)
        for i, length in enumerate(lengths):
            paths[i, :length], taken[i, :length] = points[i], codes[i]
        return Learned(*seconds, model.wv.vectors[theirs], model.syn1, paths, taken, lengths)


def surprise(learned: Learned, pairs: np.ndarray) -> float:
    """The mean −log p(centre | neighbour), in nats, by one formula in float64 for both."""
    total = 0.0
    for centre, neighbour in zip(*(np.array_split(x, 50) for x in pairs.T), strict=True):
        h = learned.vectors[neighbour].astype(np.float64)
        rows = learned.nodes[learned.paths[centre]].astype(np.float64)
        sign = 1.0 - 2.0 * learned.codes[centre]
        z = sign * np.einsum("pnd,pd->pn", rows, h)
        total += np.logaddexp(0, -z)[learned.paths[centre] >= 0].sum()
    return total / len(pairs)


# The table.


def table(records: list[dict], text: Text, epochs: int, ours: Skipgram) -> Table:
    """One row a learner and rate."""
    words = epochs * len(text.numbers)
    p = text.counts / text.counts.sum()
    rows = [
        [
            r["learner"],
            f"{r['rate']:g}",
            f"{words / min(r['seconds']):,.0f}",
            f"{min(r['seconds']):.2f}",
            f"{words / min(r['cpu_seconds']):,.0f}",
            f"{statistics.mean(r['surprise']):.3f}",
            f"{min(r['surprise']):.3f}–{max(r['surprise']):.3f}",
            f"{r['learned_surprise']:.3f}",
            f"{r['mean_length']:.2f}",
            str(r["depth"]),
        ]
        for r in records
    ]
    alone = [-np.log(p)[pairs[:, 0]].mean() for pairs in (text.pairs, text.learned_pairs)]
    rows.append([FREQUENCIES, *"––––", f"{alone[0]:.3f}", "–", f"{alone[1]:.3f}", "–", "–"])
    return Table(
        "WikiText-2",
        f"Skip-gram predicts each word from each of its neighbours, by Huffman's tree over "
        f"{len(p):,} words: {DIMENSION} dimensions, window {WINDOW} (of random reach), {epochs} "
        f"epochs of {len(text.numbers):,} words of {LEARNED}. gensim: hs=1, no subsampling, as "
        f"many workers as cores, a rate that falls to 0 (from 0.025 by default). jsoftmax: "
        f"row-wise Adagrad at a constant rate, one step for each of "
        f"{len(ours.tiles.centres):,} tiles of the text. A tile has "
        f"{len(text.numbers) / len(ours.tiles.centres):.1f} centre words on average, at most "
        f"{SIZES['words']} distinct words and {SIZES['nodes']} nodes. The two rates do not "
        f"compare, so each learner has three. Times are of training alone, the fastest of "
        f"{len(records[0]['seconds'])} interleaved rounds. They leave out compiling, numbering "
        f"words (gensim looks each up as it trains), and cutting the text into tiles "
        f"({ours.preparing:.2f} s, once). CPU seconds add up all threads, and depend less on other "
        f"work on the machine. −log p is in nats, a mean over rounds and over "
        f"{len(text.pairs):,} pairs of {JUDGED} (thinned out; all words known), each learner "
        f"with its own tree.",
        [
            "",
            "rate",
            "words a second",
            "s",
            "words a CPU second",
            "−log p",
            "of rounds",
            "learned text",
            "mean path",
            "depth",
        ],
        rows,
    )


def run(settings, screen) -> Outcome:
    """Let both libraries learn, in turns."""
    text = Text.read(*texts(settings.data))
    ours = Skipgram(text.counts, text.numbers, text.line_of, settings.epochs)
    learners = {"jsoftmax": ours, "gensim": Gensim(text, settings.epochs)}
    runs = [
        (name, rate)
        for rates in zip(RATES, THEIR_RATES, strict=True)
        for name, rate in zip(learners, rates, strict=True)
    ]
    found: dict[tuple[str, float], list[Learned]] = {run: [] for run in runs}
    for seed in track(range(settings.rounds), "rounds", console=screen):
        for name, rate in runs:  # in turns, so that a slow spell falls on all
            found[name, rate].append(learners[name].learn(seed, rate))
    records = [
        {
            "learner": name,
            "rate": rate,
            "seconds": [x.seconds for x in each],
            "cpu_seconds": [x.cpu_seconds for x in each],
            "surprise": [surprise(x, text.pairs) for x in each],
            "learned_surprise": surprise(each[0], text.learned_pairs),
            "mean_length": float(text.counts @ each[0].lengths / text.counts.sum()),
            "depth": int(each[0].lengths.max()),
        }
        for (name, rate), each in sorted(found.items(), reverse=True)
    ]
    kept = {"epochs": settings.epochs, "preparing": ours.preparing, "records": records}
    return Outcome([table(records, text, settings.epochs, ours)], kept)


BENCHMARK = Benchmark(
    "word_vectors",
    "Word vectors, against gensim",
    run,
    {
        "data": FOLDER,
        "epochs": Setting(EPOCHS, 1, "of a round"),
        "rounds": Setting(ROUNDS, 1, "each takes turns"),
    },
)


if __name__ == "__main__":
    command("word_vectors")
