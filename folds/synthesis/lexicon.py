"""A small English vocabulary with pronunciations, and random sentences made of it, for the demo competition.

Pronunciations are ARPAbet with stress digits on the vowels (1 primary, 2 secondary, 0 none), written by hand for this
file; every phoneme of the competition's alphabet occurs. It is not a dictionary for real text, and its grammar has just
enough structure for a phone language model to learn from.
"""

from __future__ import annotations

import numpy as np


def _words(block: str) -> dict[str, tuple[str, ...]]:
    """`"cat K AE1 T | dog D AO1 G"` → `{"cat": ("K", "AE1", "T"), …}`."""
    entries = (entry.split() for entry in block.replace("\n", "|").split("|"))
    return {word: tuple(phonemes) for word, *phonemes in (entry for entry in entries if entry)}


PRONOUNS = _words("""
    I AY1 | he HH IY1 | she SH IY1 | we W IY1 | they DH EY1 | you Y UW1 | everyone EH1 V R IY0 W AH2 N
    nobody N OW1 B AA2 D IY0 | somebody S AH1 M B AA2 D IY0
""")
DETERMINERS = _words("""
    the DH AH0 | a AH0 | this DH IH1 S | that DH AE1 T | every EH1 V R IY0 | each IY1 CH | his HH IH1 Z | her HH ER1
    our AW1 ER0 | my M AY1 | your Y AO1 R | some S AH1 M | no N OW1 | their DH EH1 R | another AH0 N AH1 DH ER0
    one W AH1 N | which W IH1 CH
""")
ADJECTIVES = _words("""
    young Y AH1 NG | old OW1 L D | quick K W IH1 K | quiet K W AY1 AH0 T | yellow Y EH1 L OW0 | blue B L UW1
    green G R IY1 N | brown B R AW1 N | small S M AO1 L | large L AA1 R JH | thick TH IH1 K | thin TH IH1 N
    smooth S M UW1 DH | rough R AH1 F | loud L AW1 D | noisy N OY1 Z IY0 | joyful JH OY1 F AH0 L | good G UH1 D
    full F UH1 L | wooden W UH1 D AH0 N | golden G OW1 L D AH0 N | usual Y UW1 ZH UW0 AH0 L | casual K AE1 ZH UW0 AH0 L
    beige B EY1 ZH | great G R EY1 T | strange S T R EY1 N JH | gentle JH EH1 N T AH0 L | happy HH AE1 P IY0
    angry AE1 NG G R IY0 | hungry HH AH1 NG G R IY0 | early ER1 L IY0 | dirty D ER1 T IY0 | third TH ER1 D
    fourth F AO1 R TH | huge HH Y UW1 JH | cheap CH IY1 P | rich R IH1 CH | fresh F R EH1 SH | sharp SH AA1 R P
    short SH AO1 R T | heavy HH EH1 V IY0 | empty EH1 M P T IY0 | white W AY1 T | bright B R AY1 T | proud P R AW1 D
    warm W AO1 R M | cold K OW1 L D | lazy L EY1 Z IY0 | busy B IH1 Z IY0 | clever K L EH1 V ER0
""")
NOUNS = _words("""
    boy B OY1 | girl G ER1 L | child CH AY1 L D | teacher T IY1 CH ER0 | judge JH AH1 JH | nurse N ER1 S
    father F AA1 DH ER0 | mother M AH1 DH ER0 | brother B R AH1 DH ER0 | uncle AH1 NG K AH0 L | king K IH1 NG
    queen K W IY1 N | soldier S OW1 L JH ER0 | doctor D AA1 K T ER0 | sailor S EY1 L ER0 | neighbour N EY1 B ER0
    visitor V IH1 Z AH0 T ER0 | thief TH IY1 F | author AO1 TH ER0 | dog D AO1 G | cat K AE1 T | horse HH AO1 R S
    mouse M AW1 S | fox F AA1 K S | bird B ER1 D | fish F IH1 SH | sheep SH IY1 P | lion L AY1 AH0 N | house HH AW1 S
    garage G AH0 R AA1 ZH | village V IH1 L AH0 JH | church CH ER1 CH | bridge B R IH1 JH | garden G AA1 R D AH0 N
    river R IH1 V ER0 | ocean OW1 SH AH0 N | mountain M AW1 N T AH0 N | valley V AE1 L IY0 | road R OW1 D
    path P AE1 TH | tower T AW1 ER0 | window W IH1 N D OW0 | kitchen K IH1 CH AH0 N | table T EY1 B AH0 L
    chair CH EH1 R | book B UH1 K | letter L EH1 T ER0 | picture P IH1 K CH ER0 | treasure T R EH1 ZH ER0
    vision V IH1 ZH AH0 N | television T EH1 L AH0 V IH2 ZH AH0 N | coin K OY1 N | toy T OY1 | voice V OY1 S
    noise N OY1 Z | oil OY1 L | music M Y UW1 Z IH0 K
    song S AO1 NG | ring R IH1 NG | cloth K L AO1 TH | clothing K L OW1 DH IH0 NG
    leather L EH1 DH ER0 | feather F EH1 DH ER0 | tooth T UW1 TH | mouth M AW1 TH | shoe SH UW1 | spoon S P UW1 N
    moon M UW1 N | food F UW1 D | foot F UH1 T | wood W UH1 D | bush B UH1 SH | sugar SH UH1 G ER0 | cake K EY1 K
    cheese CH IY1 Z | orange AO1 R AH0 N JH | apple AE1 P AH0 L | egg EH1 G | paper P EY1 P ER0 | engine EH1 N JH AH0 N
    ship SH IH1 P | boat B OW1 T | train T R EY1 N | question K W EH1 S CH AH0 N | answer AE1 N S ER0
    number N AH1 M B ER0 | language L AE1 NG G W AH0 JH | thing TH IH1 NG | yard Y AA1 R D | onion AH1 N Y AH0 N
    cloud K L AW1 D | crowd K R AW1 D | wall W AO1 L
""")
VERBS = _words("""
    saw S AO1 | took T UH1 K | shook SH UH1 K | gave G EY1 V | found F AW1 N D | heard HH ER1 D | called K AO1 L D
    watched W AA1 CH T | followed F AA1 L OW0 D | carried K AE1 R IY0 D | measured M EH1 ZH ER0 D
    enjoyed EH0 N JH OY1 D | joined JH OY1 N D | avoided AH0 V OY1 D AH0 D | pushed P UH1 SH T | pulled P UH1 L D
    used Y UW1 Z D | moved M UW1 V D | chose CH OW1 Z | broke B R OW1 K | wrote R OW1 T | brought B R AO1 T
    taught T AO1 T | reached R IY1 CH T | changed CH EY1 N JH D | thanked TH AE1 NG K T | loved L AH1 V D
    liked L AY1 K T | loathed L OW1 DH D | bathed B EY1 DH D | washed W AA1 SH T | covered K AH1 V ER0 D
    opened OW1 P AH0 N D | noticed N OW1 T AH0 S T | imagined IH0 M AE1 JH AH0 N D | asked AE1 S K T
    helped HH EH1 L P T | sold S OW1 L D | hid HH IH1 D | drew D R UW1 | knew N UW1 | understood AH2 N D ER0 S T UH1 D
    visited V IH1 Z AH0 T AH0 D
""")
PREPOSITIONS = _words("""
    in IH0 N | on AA1 N | under AH1 N D ER0 | near N IH1 R | behind B IH0 HH AY1 N D | beyond B IH0 AA1 N D
    with W IH0 DH | without W IH0 TH AW1 T | through TH R UW1 | toward T AH0 W AO1 R D | around AH0 R AW1 N D
    above AH0 B AH1 V | for F AO1 R | from F R AH1 M | by B AY1 | over OW1 V ER0 | into IH1 N T UW0
""")
ADVERBS = _words("""
    slowly S L OW1 L IY0 | usually Y UW1 ZH UW0 AH0 L IY0 | together T AH0 G EH1 DH ER0 | again AH0 G EH1 N
    yesterday Y EH1 S T ER0 D EY2 | tonight T AH0 N AY1 T | today T AH0 D EY1 | outside AW2 T S AY1 D | here HH IH1 R
""")
CONJUNCTIONS = _words("""
    and AE1 N D | but B AH1 T | while W AY1 L | because B IH0 K AO1 Z | then DH EH1 N | so S OW1 | when W EH1 N
    though DH OW1 | before B IH0 F AO1 R | since S IH1 N S | where W EH1 R | after AE1 F T ER0
""")
LEXICON = PRONOUNS | DETERMINERS | ADJECTIVES | NOUNS | VERBS | PREPOSITIONS | ADVERBS | CONJUNCTIONS


def sentence(rng: np.random.Generator) -> list[list[str]]:
    """One or two clauses of words; there is a pause between them.

    >>> " / ".join(" ".join(clause) for clause in sentence(np.random.default_rng(2)))  # doctest: +SKIP
    'the old sailor found a treasure / and she sold it tonight'
    """
    first = _clause(rng)
    if rng.random() < 0.75:
        return [first]
    return [first, [_choice(rng, CONJUNCTIONS), *_clause(rng)]]


def _clause(rng: np.random.Generator) -> list[str]:
    subject = [_choice(rng, PRONOUNS)] if rng.random() < 0.3 else _noun_phrase(rng)
    words = [*subject, _choice(rng, VERBS), *_noun_phrase(rng)]
    ending = rng.random()
    if ending < 0.4:
        words += [_choice(rng, PREPOSITIONS), *_noun_phrase(rng)]
    elif ending < 0.6:
        words.append(_choice(rng, ADVERBS))
    return words


def _noun_phrase(rng: np.random.Generator) -> list[str]:
    adjective = [_choice(rng, ADJECTIVES)] if rng.random() < 0.4 else []
    return [_choice(rng, DETERMINERS), *adjective, _choice(rng, NOUNS)]


def _choice(rng: np.random.Generator, words: dict[str, tuple[str, ...]]) -> str:
    return str(rng.choice(list(words)))
