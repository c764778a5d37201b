"""ARPA files of phone language models: a round trip, files of other tools, and damaged ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.lm import automaton
from ensemble.lm.arpa import read_arpa, write_arpa
from ensemble.lm.automaton import START
from ensemble.lm.ngram import PhoneLM, estimate
from registry.errors import InputError

PHONEMES = ("", "[SIL]", "AA", "B", "K")
CLASSES = len(PHONEMES)
TRANSCRIPTS = st.lists(st.lists(st.integers(1, CLASSES - 1), max_size=8), min_size=1, max_size=12)


@settings(deadline=None, max_examples=25)
@given(TRANSCRIPTS, st.integers(1, 7))
def test_arpa_round_trip(tmp_path_factory, transcripts, order):
    lm = estimate(transcripts, CLASSES, order)
    path = tmp_path_factory.mktemp("arpa") / "lm.arpa"
    write_arpa(path, lm, PHONEMES)
    read = read_arpa(path, PHONEMES)
    assert read.order == order
    np.testing.assert_array_equal(read.automaton.cells, lm.automaton.cells)


def test_the_end_of_an_utterance_has_no_back_off_weight_and_its_start_is_never_predicted(tmp_path):
    """Both are label 0 in memory."""
    write_arpa(tmp_path / "lm.arpa", estimate([[1, 2], [1, 3]], CLASSES, 2), PHONEMES)
    fields = [line.split("\t") for line in (tmp_path / "lm.arpa").read_text().splitlines()]
    (end,) = (row for row in fields if row[1:2] == ["</s>"])
    (start,) = (row for row in fields if row[1:2] == ["<s>"])
    assert len(end) == 2 and float(end[0]) < 0
    assert start[0] == "-99" and len(start) == 3 and float(start[2]) < 0


# An ARPA file that `write_arpa` would not write: pruned, with <unk>, without some back-off weights. log10 p.
FOREIGN = """
a comment
\\data\\
ngram 1=7
ngram 2=2

\\1-grams:
-99 <s> -0.30103
-2 <unk>
-0.69897 </s>
-0.69897\t[SIL]\t-0.1
-0.69897 AA
-0.69897 B
-0.69897 K

\\2-grams:
-0.5 <s> AA
-0.2 [SIL] AA

\\end\\
"""


def test_a_foreign_arpa_file_is_read_as_back_off_models_are(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(FOREIGN)
    lm = read_arpa(path, PHONEMES)
    fifth = np.log(10) * -0.69897
    assert lm.score([2]) == pytest.approx(np.log(10) * -0.5 + fifth, abs=1e-5)
    # <s> [SIL] backs off; [SIL] AA is a bigram; AA </s> has no back-off weight.
    assert lm.score([1, 2]) == pytest.approx(np.log(10) * (-0.30103 - 0.2) + 2 * fifth, abs=1e-5)
    assert lm.score([3, 4]) == pytest.approx(np.log(10) * -0.30103 + 3 * fifth, abs=1e-5)
    assert isinstance(lm, PhoneLM)


@pytest.mark.parametrize("dense_bytes", [0, 1 << 20])
def test_a_back_off_weight_counts_without_longer_n_grams(tmp_path, monkeypatch, dense_bytes):
    monkeypatch.setattr(automaton, "_DENSE_BYTES", dense_bytes)
    path = tmp_path / "lm.arpa"
    # `[SIL] AA` has a weight although no trigram begins with it, as in a pruned model; n-grams with `<unk>`, and those
    # that no utterance contains, change nothing.
    path.write_text(
        FOREIGN.replace("-0.2 [SIL] AA\n", "-0.2 [SIL] AA -0.25\n-0.3 B K -0.35\n")
        .replace("-0.3 B K", "-0.1 <unk> AA\n-0.1 </s> AA\n-0.1 AA <s>\n-0.3 B K")
        .replace("ngram 2=2", "ngram 2=6\nngram 3=1")
        .replace("\\end\\", "\\3-grams:\n-0.05 <s> AA K\n\n\\end\\")
    )
    lm = read_arpa(path, PHONEMES)
    fifth = np.log(10) * -0.69897
    assert lm.score([1, 2]) == pytest.approx(np.log(10) * (-0.30103 - 0.2 - 0.25) + 2 * fifth, abs=1e-5)
    assert lm.score([1, 2, 3]) == pytest.approx(np.log(10) * (-0.30103 - 0.2 - 0.25) + 3 * fifth, abs=1e-5)
    assert lm.score([2, 4]) == pytest.approx(np.log(10) * (-0.5 - 0.05) + fifth, abs=1e-5)


@pytest.mark.parametrize("dense_bytes", [0, 1 << 20])
def test_a_history_may_make_what_it_does_not_list_more_probable(tmp_path, monkeypatch, dense_bytes):
    """Pruned models have positive back-off weights. The search must not underestimate what a token may add."""
    monkeypatch.setattr(automaton, "_DENSE_BYTES", dense_bytes)
    path = tmp_path / "lm.arpa"
    path.write_text(
        FOREIGN.replace("-0.2 [SIL] AA\n", "-0.9 [SIL] AA 0.25\n")
        .replace("ngram 2=2", "ngram 2=2\nngram 3=1")
        .replace("\\end\\", "\\3-grams:\n-0.9 [SIL] AA K\n\n\\end\\")
    )
    lm = read_arpa(path, PHONEMES)
    state, log10 = START, np.log(10)
    for token in (1, 2):
        state = automaton.advance(*lm.automaton, state, token)[1]
    following = [automaton.advance(*lm.automaton, state, token)[0] for token in range(1, CLASSES)]
    np.testing.assert_allclose(following, log10 * np.array([*[0.25 - 0.69897] * 3, -0.9]), rtol=1e-5)
    assert lm.automaton.cells[state - 1]["log_prob"] == pytest.approx(log10 * (0.25 - 0.69897), rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("B", "ZZ", "line 13: 'ZZ' is not in the competition's alphabet"),
        ("-0.5 <s>", "-0.x <s>", "line 17: found '-0.x' where a number is expected"),
        ("-0.5 <s>", "nan <s>", "finite"),
        ("-0.5 <s> AA", "-0.5 <s>", "line 17: .* expected a probability, 2 words"),
        ("ngram 2=2", "ngram 2=3", "has .* n-grams by order, but its header says"),
        ("\\end\\", "", "incomplete, or not an ARPA file"),
        ("\\data\\", "", "incomplete, or not an ARPA file"),
        ("-0.69897 K\n", "", "header says"),
        ("-0.2 [SIL] AA", "-0.2 <s> AA", "lists the 2-gram '<s> AA' twice"),
        ("\\end\\", "\\3-grams:\n-1 K B B\n\\end\\", "3-gram 'K B B' without the 2-gram of its first words"),
    ],
)
def test_damaged_arpa_files_are_refused_with_the_line(tmp_path, old, new, message):
    path = tmp_path / "lm.arpa"
    text = FOREIGN.replace(old, new)
    path.write_text(text.replace("ngram 2=2", "ngram 2=2\nngram 3=1") if "3-grams" in text else text)
    with pytest.raises(InputError, match=message):
        read_arpa(path, PHONEMES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ngram 2=2", "ngram 0=0\nngram 2=2", "n-grams of order 0, 1, 2; expected every order from 1 to the highest"),
        ("ngram 2=2", "ngram 2=2\nngram 4=0", "n-grams of order 1, 2, 4; expected every order"),
    ],
)
def test_orders_that_are_missing_or_none_are_refused(tmp_path, old, new, message):
    path, order = tmp_path / "lm.arpa", new.removeprefix("ngram 2=2\n")[6]
    path.write_text(FOREIGN.replace(old, new).replace("\\end\\", f"\\{order}-grams:\n\n\\end\\"))
    with pytest.raises(InputError, match=message):
        read_arpa(path, PHONEMES)


def test_an_order_whose_n_grams_are_no_numbers_of_64_bits_is_refused(tmp_path):
    path, words = tmp_path / "lm.arpa", ["AA"] * 30
    grams = [(n, " ".join(words[:n])) for n in range(2, 31)]
    counts = "".join(f"ngram {n}=1\n" for n, _ in grams)
    body = "".join(f"\\{n}-grams:\n-0.1 {text} -0.1\n\n" for n, text in grams)
    unigrams = FOREIGN[FOREIGN.index("\\1-grams:") : FOREIGN.index("\\2-grams:")]
    path.write_text(f"\\data\\\nngram 1=7\n{counts}\n{unigrams}{body}\\end\\\n")
    with pytest.raises(InputError, match="has order 30; expected at most 26 for 5 classes"):
        read_arpa(path, PHONEMES)


def test_a_label_without_a_unigram_another_alphabet_and_no_file_are_refused(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(FOREIGN.replace("-0.69897 K\n", "").replace("ngram 1=7", "ngram 1=6"))
    with pytest.raises(InputError, match="no unigram for label 4"):
        read_arpa(path, PHONEMES)
    with pytest.raises(InputError, match="no such file"):
        read_arpa(tmp_path / "none.arpa", PHONEMES)
    path.write_bytes(b"\\data\\\n\xff\xfe")
    with pytest.raises(InputError, match="not text"):
        read_arpa(path, PHONEMES)
    lm = estimate([[1, 2]], CLASSES)
    with pytest.raises(InputError, match="5 classes, the alphabet 3"):
        write_arpa(path, lm, PHONEMES[:3])
    for names in (("", "a b", "c", "d", "e"), ("", "a", "c", "c", "e"), ("", "<unk>", "c", "d", "e")):
        with pytest.raises(InputError, match="distinct single words"):
            write_arpa(path, lm, names)
