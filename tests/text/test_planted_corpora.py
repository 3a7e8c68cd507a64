"""Corpora with planted properties: a ratio that is exact, tasks whose answers are right, code beside prose."""

from __future__ import annotations

import ast
import re
from collections import Counter
from fractions import Fraction
from functools import reduce
from itertools import combinations, pairwise
from operator import xor

import pytest
from conftest import TINY_MODEL, Command
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from minigpt.base.errors import UsageError
from minigpt.text import professions, stdlib_code, stdlib_prose, tasks
from minigpt.text.corpora import describe_corpora, open_corpus
from minigpt.text.professions import PROFESSIONS, TEMPLATES
from minigpt.text.splits import SPLITS

SENTENCE = re.compile(r"(?:when )?the (\w+)\b(.*?) (she|he) was (\w+) \.\n")
GENERATED = ("professions:90", "professions:60:5", "task:parity", "task:twohop:3")


def part(spec: str, split: str) -> str:
    return "".join("".join(document) for document in open_corpus(spec).documents(split))


# Planted bias


@pytest.mark.parametrize("ratio", [50, 75, 90, 99, 100])
def test_the_planted_ratio_is_exact(ratio: int) -> None:
    """In every part, for each profession and each template; half of the professions lean either way."""
    assert sorted(PROFESSIONS.values()).count("she") == len(PROFESSIONS) / 2 == 6
    for split in ("train", "val", "test") if ratio == 90 else ("val",):
        text = part(f"professions:{ratio}", split)
        counts: Counter[tuple[str, int, bool]] = Counter()
        lines = text.splitlines(keepends=True)
        for line in lines:
            profession, between, pronoun, _ = SENTENCE.fullmatch(line).groups()
            counts[
                profession, len(re.sub(r"\b(?!who|from|came|said)\w+", "", between)), pronoun == PROFESSIONS[profession]
            ] += 1
        distances = {distance for _, distance, _ in counts}
        assert len(distances) == len(TEMPLATES)
        totals = set()
        for profession in PROFESSIONS:
            for distance in distances:
                major, minor = counts[profession, distance, True], counts[profession, distance, False]
                assert Fraction(major, major + minor) == Fraction(ratio, 100)
                totals.add(major + minor)
        assert len(totals) == 1


def test_nothing_else_tells_the_pronoun() -> None:
    """The words around are independent of pronoun and profession."""
    found = [match.groups() for match in SENTENCE.finditer(part("professions:90", "train"))]
    for column in (0, 2):
        table = Counter((row[column], row[3]) for row in found)
        rows, columns = ({pair[side] for pair in table} for side in (0, 1))
        grid = [[table[row, column] for column in sorted(columns)] for row in sorted(rows)]
        assert stats.chi2_contingency(grid).pvalue > 1e-4


def test_prompts_are_beginnings_of_sentences_up_to_the_pronoun() -> None:
    """Each can be found in the text, and is followed by a pronoun there and by nothing else."""
    text = part("professions:90", "train")
    prompts = professions.prompts()
    assert {(prompt.profession, prompt.template) for prompt in prompts} == {
        (p, t) for p in PROFESSIONS for t in range(4)
    }
    assert all(prompt.majority == PROFESSIONS[prompt.profession] for prompt in prompts)
    beginnings = {re.split(r" (?:she|he) ", line)[0] for line in text.splitlines()}
    assert {prompt.text for prompt in prompts} == beginnings


# Tasks


def solve(line: str) -> str:
    """An independent solution of either task."""
    if "=" in line:
        return str(reduce(xor, map(int, line.partition("=")[0])))
    *arrows, question = line.split()
    return dict(arrow.split(">") for arrow in arrows)[dict(arrow.split(">") for arrow in arrows)[question[0]]]


@pytest.mark.parametrize("task", tasks.ASKS)
def test_answers_are_right_and_balanced(task: str) -> None:
    """Every line is solved again; no answer is likelier than another."""
    lines = part(f"task:{task}", "val").splitlines()
    assert all(solve(line) == line[-1] for line in lines)
    counts = Counter(line[-1] for line in lines)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4
    assert len(counts) == (2 if task == "parity" else len(tasks.LETTERS))


def test_parity_needs_every_bit_and_two_hops_need_both() -> None:
    """No single bit, nor the place of an arrow or which of the two ends, tells the answer better than chance."""
    lines = part("task:parity", "val").splitlines()
    for place in (0, -3):
        agreeing = sum(line[place] == line[-1] for line in lines)
        assert stats.binomtest(agreeing, len(lines), tasks.CHANCE["parity"]).pvalue > 1e-4
    lines = part("task:twohop", "val").splitlines()
    for line in lines[:200]:
        arrows = [arrow.split(">") for arrow in line.split()[:-1]]
        ends = {end for _, end in arrows} - {start for start, _ in arrows}
        assert len(arrows) == 4
        assert len(ends) == 2
        assert line[-1] in ends
    first_end = [next(a[2] for a in line.split()[:-1] if not re.search(f"{a[2]}>", line)) == line[-1] for line in lines]
    assert stats.binomtest(sum(first_end), len(lines), tasks.CHANCE["twohop"]).pvalue > 1e-4


@given(st.integers(0, 5000), st.integers(1, 100), st.sampled_from(sorted(tasks.ASKS)))
@settings(max_examples=100, deadline=None)
def test_places_of_answers_are_those_of_whole_lines(start: int, length: int, task: str) -> None:
    """Against a walk over the lines of the text: each answer in the window whose line began in it, and no other."""
    text = "".join(tasks.text(task, 1, 0, 6000))
    window = text[start : start + length]
    ends = [place for place, letter in enumerate(text) if letter == "\n"]
    expected = [end - 1 - start for before, end in pairwise(ends)
                if before >= start and end - 1 < start + length]  # fmt: skip
    assert tasks.answer_places(window) == expected


# Code


def test_code_is_python_within_the_cap() -> None:
    """Whole modules that parse, none of a test suite, together at most the cap and not much less."""
    modules = stdlib_code.modules()
    characters = sum(map(len, modules))
    assert stdlib_code.MOST_CHARACTERS - stdlib_code.LONGEST_MODULE <= characters <= stdlib_code.MOST_CHARACTERS
    assert len(modules) > 50
    for module in modules[:20]:
        ast.parse(module)
    assert not any({"test", "tests"} & set(path.parts[-3:-1]) for path in stdlib_prose.modules())
    parts = [part("stdlib-code", split) for split in SPLITS]
    assert all(len(text) > 20_000 for text in parts)
    assert sum(map(len, parts)) == pytest.approx(characters, rel=0.01)


# All of them


@pytest.mark.parametrize("spec", GENERATED)
def test_generated_text_is_the_same_again_and_differs_between_parts_and_seeds(spec: str) -> None:
    """Two openings give the same bytes and fingerprint; no part repeats another; a longer stream begins alike."""
    assert part(spec, "val") == part(spec, "val")
    assert open_corpus(spec).fingerprint(None) == open_corpus(spec).fingerprint(None)
    beginnings = [part(spec, split)[:2000] for split in ("val", "test")]
    beginnings.append(part(":".join(spec.split(":")[:2]) + ":77", "val")[:2000])
    assert all(one != other for one, other in combinations(beginnings, 2))
    assert open_corpus(spec).fingerprint(None) != open_corpus(
        spec.split(":")[0] + ":" + spec.split(":")[1] + ":77"
    ).fingerprint(None)


def test_generated_text_never_changes() -> None:
    """Known beginnings: a change here makes published figures those of another text."""
    assert next(tasks.text("parity", 0, 1, 1)).startswith("110=0\n010000=1\n1011111=0\n")
    assert next(tasks.text("twohop", 2, 1, 1)).startswith("b>a f>j d>b e>f e:j\n")
    assert next(professions.text(90, 0, 1, 1)).startswith(
        "when the pilot came home from the harbour , he was happy .\n"
    )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("professions", "RATIO"), ("professions:49", "from 50 to 100"), ("professions:101", "from 50 to 100"),
        ("professions:0.9", "whole numbers"), ("professions:90:x", "whole numbers"), ("task", "task:parity"),
        ("task:partiy", "did you mean 'parity'"), ("task:parity:-1", "SEED"),
    ],
)  # fmt: skip
def test_a_misspelt_corpus_is_named(spec: str, says: str) -> None:
    """It is neither taken for a file nor for another ratio."""
    with pytest.raises(UsageError, match=re.escape(says)):
        open_corpus(spec)


def test_they_are_listed() -> None:
    """`minigpt corpora` tells of them."""
    listed = {row.name for row in describe_corpora() if not row.needs_network}
    assert {"stdlib-code", "professions:RATIO", "task:parity", "task:twohop"} <= listed


def test_a_task_can_be_trained_on(minigpt: Command, haste: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generated text is prepared as any other."""
    monkeypatch.setattr("minigpt.text.corpora.GENERATED_CHARACTERS", 20_000)
    assert minigpt(f"train {TINY_MODEL} --corpus task:parity --steps 2 --eval-tokens 64 --out run") == 0
