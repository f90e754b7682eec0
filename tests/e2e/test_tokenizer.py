"""The tokenizer against the `tokenizers` package, which is the yardstick: what it gives is what models were trained on.

Expected values come live from the package, so there is nothing golden to grow stale. The library is compiled here as
a shared object and called with ctypes: 10,000 seeded strings would be slow through processes.
Environment: SLUICE_BUILD names the build directory (default: build) where the shared object is kept.
"""
import ctypes
import fcntl
import json
import lzma
import os
import pathlib
import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD", ROOT / "build"))
DEMO = ROOT / "demo" / "tokenizer.json"
NOVELS = ROOT.parent / "shared" / "data" / "novels-valid.txt.xz"


class Err(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("text", ctypes.c_char * 320)]


class Detok(ctypes.Structure):
    _fields_ = [("tokenizer", ctypes.c_void_p), ("skip_special", ctypes.c_bool), ("held", ctypes.c_uint8 * 4),
                ("n_held", ctypes.c_uint32)]


def build_library():
    sources = sorted(ROOT.glob("model/tokenizer/*.c")) + [ROOT / "base/status.c"]
    headers = sorted(ROOT.glob("model/tokenizer/*.h")) + sorted(ROOT.glob("base/*.h"))
    BUILD.mkdir(parents=True, exist_ok=True)
    library = BUILD / "libtokenizer_test.so"
    newest = max(path.stat().st_mtime for path in sources + headers)
    with open(library.with_suffix(".lock"), "wb") as lock:  # runs side by side want it at the same moment
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists() or library.stat().st_mtime < newest:
            subprocess.run(["gcc", "-std=gnu11", "-O2", "-D_GNU_SOURCE", "-shared", "-fPIC", f"-I{ROOT}", "-o", library,
                            *sources, "-ljansson", "-lutf8proc"], check=True)
    lib = ctypes.CDLL(str(library))
    lib.sl_tokenizer_piece.restype = ctypes.c_char_p
    lib.sl_detok_push.restype = lib.sl_detok_flush.restype = lib.sl_detok_room.restype = ctypes.c_size_t
    return lib


LIB = build_library()
LIBC = ctypes.CDLL(None)


class Ours:
    def __init__(self, text):
        data = text.encode()
        self.t, err = ctypes.c_void_p(), Err()
        if LIB.sl_tokenizer_parse(ctypes.byref(self.t), data, ctypes.c_size_t(len(data)), ctypes.byref(err)) != 0:
            raise ValueError(err.text.decode())
        self.room = LIB.sl_detok_room(self.t)

    def __del__(self):
        LIB.sl_tokenizer_destroy(self.t)

    def encode_bytes(self, data):
        ids, n, err = ctypes.POINTER(ctypes.c_uint32)(), ctypes.c_uint32(), Err()
        status = LIB.sl_tokenizer_encode(self.t, data, ctypes.c_size_t(len(data)), ctypes.byref(ids), ctypes.byref(n),
                                         ctypes.byref(err))
        if status != 0:
            raise ValueError(err.text.decode())
        out = ids[: n.value]
        LIBC.free(ids)
        return out

    def encode(self, text):
        return self.encode_bytes(text.encode())

    def pieces(self, ids, skip_special):
        """What each push gives, and the flush."""
        d, out = Detok(), ctypes.create_string_buffer(self.room)
        LIB.sl_detok_init(ctypes.byref(d), self.t, ctypes.c_bool(skip_special))
        parts = []
        for i in ids:
            n = LIB.sl_detok_push(ctypes.byref(d), ctypes.c_uint32(i), out)
            assert n <= self.room
            parts.append(out.raw[:n])
        n = LIB.sl_detok_flush(ctypes.byref(d), out)
        return parts + [out.raw[:n]]

    def decode(self, ids, skip_special):
        return "".join(part.decode() for part in self.pieces(ids, skip_special))  # each part is whole UTF-8


def pair(change=None):
    spec = json.loads(DEMO.read_text())
    if change:
        change(spec)
    text = json.dumps(spec)
    return Ours(text), Tokenizer.from_str(text)


def add_tokens(spec, tokens):
    vocab = spec["model"]["vocab"]
    spec["added_tokens"] = []
    next_id = len(vocab)
    for content, flags in tokens:
        token = dict(id=vocab.get(content, next_id), content=content, single_word=False, lstrip=False, rstrip=False,
                     normalized=False, special=False)
        next_id += content not in vocab
        token.update({flag: True for flag in flags.split()})
        spec["added_tokens"].append(token)


def odd_tokens(spec):
    """Every flag, contents that nest, need NFC, are spaces or look like byte-level text."""
    add_tokens(spec, [("<|end|>", "special"), ("<L>", "lstrip special"), ("<R>", "rstrip special"),
                      ("<LR>", "lstrip rstrip"), ("<W>", "single_word"), ("<b>x", ""), ("<b>", "special"),
                      ("e\u0301!", "normalized"), ("e\u0301?", ""), ("ö#", "normalized lstrip single_word"),
                      ("   ", ""), ("\t", "rstrip"), ("éé", "special"), ("Ġx Ġ", ""), ("日本", "normalized"),
                      ("N", "normalized rstrip special")])


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_", "<|end|>", "<L>", "<R>", "<LR>", "<W>", "<b>x", "<b>",
            "e\u0301!", "é!", "e\u0301?", "é?", "ö#", "o\u0308#", "   ", "\t", "éé", "Ġx Ġ", "日本", "N"]
SPACES = [" ", " ", " ", "\n", "\n", "\r\n", "\r", "\t", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028",
          "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\ufeff"]
WORDS = ["the", "It", "don't", "I'LL", "we'Ve", "'\u017f", "'S", "'re", "'l", "'k", "x'd", "’s", "'ſt", "naïve", "Straße",
         "Ελλάδα", "привет", "ёлка", "שלום", "السلام", "नमस्ते", "ไทย", "한국어", "각", "日本語", "漢字かな", "が", "か\u3099",
         "😀", "👩‍👩‍👧", "🇩🇪", "ﬁ", "Å", "Å", "\u1100\u1161\u11a8", "\uac00\u11a7", "1234", "٣٤", "½", "Ⅷ", "१२", "𝟘",
         "...", "!?", "—", "#!/bin", "{}", "$€", "_", "a_b", "\x00", "\x7f", "\x1b[0m", "\u0958", "\u0f43", "\U0001d160"]
MARKS = ["\u0301", "\u0300", "\u0323", "\u0327", "\u0345", "\u05b0", "\u093c", "\u3099", "\u0334", "\u1dce", "\u0fb5"]


def random_string(rng):
    parts = []
    for _ in range(rng.randint(0, 24)):
        kind = rng.random()
        if kind < 0.22:
            parts.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 3, 5]))
        elif kind < 0.55:
            parts.append(rng.choice(WORDS))
        elif kind < 0.65:
            parts.append(rng.choice(SPECIALS))
        elif kind < 0.75:
            parts.append("".join(rng.choice(MARKS) for _ in range(rng.choice([1, 2, 3, 40]))))
        elif kind < 0.85:
            parts.append("".join(chr(rng.randint(1, 0x17F)) for _ in range(rng.randint(1, 6))))
        else:
            c = rng.choice([rng.randint(0, 0x2FFF), rng.randint(0, 0xD7FF), rng.randint(0xE000, 0x10FFFF),
                            rng.randint(0x10000, 0x1FFFF)])
            parts.append(chr(c) * rng.choice([1, 1, 2]))
    return "".join(parts)


@pytest.mark.parametrize("change", [None, odd_tokens, lambda spec: spec.update(normalizer=None)],
                         ids=["demo", "odd-tokens", "no-nfc"])
def test_random_strings(change):
    ours, theirs = pair(change)
    rng = random.Random(20250717)
    for number in range(10_000):
        text = random_string(rng)
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected, (number, text)
        for skip in (True, False):
            assert ours.decode(expected, skip) == theirs.decode(expected, skip_special_tokens=skip), (number, text)


def test_random_ids_decode_the_same():
    """Ids in any order give broken UTF-8: where U+FFFD comes, and how many, must agree."""
    ours, theirs = pair(odd_tokens)
    rng = random.Random(7)
    vocab = json.loads(DEMO.read_text())["model"]["vocab"]
    high = [i for piece, i in vocab.items() if any(ord(c) >= 0x7F for c in piece)]
    top = theirs.get_vocab_size() + 10
    for _ in range(10_000):
        ids = [rng.choice(high) if rng.random() < 0.8 else rng.randrange(top) for _ in range(rng.randint(0, 30))]
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), ids


def test_every_character_alone_and_beside_others():
    """All of Unicode: classes and word breaks, NFC with marks of several classes, and the strips of added tokens.
    Of the planes where nothing is assigned, and of private use, a sample."""
    ours, theirs = pair(odd_tokens)
    for first in range(0, 0x110000, 64):
        step = 1 if first < 0x33000 or 0xE0000 <= first < 0xE0200 else 61
        chars = [chr(c) for c in range(first, first + 64, step) if not 0xD800 <= c < 0xE000]
        if not chars:
            continue
        text = "".join(f"!{c}a1{c}{c} {c}\u0334 x\u0301{c}\u0323\u0345{c}\u093c<W>{c}<W> {c}<L><R>{c}" for c in chars)
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, hex(first)


def test_every_pair_of_marks():
    """Canonical ordering and composition of pairs: all marks that can move, over starters that can compose."""
    ours, theirs = pair()
    import unicodedata
    marks = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
    rng = random.Random(3)
    for mark in marks:
        text = " ".join(rng.choice("aeoAKyぱ가कଡ") + mark + other for other in rng.sample(marks, 40))
        text += " " + " ".join("e" + other + mark for other in rng.sample(marks, 40))
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, hex(ord(mark))
    composed = [chr(c) for c in range(0x110000) if unicodedata.decomposition(chr(c)) and "<" not in
                unicodedata.decomposition(chr(c))]
    for c in composed:
        text = c + " " + unicodedata.normalize("NFD", c) + "\u0323 " + c + "\u0301 "
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, hex(ord(c))


def test_merges_that_compete():
    """One token made of several pairs, in any order of rank: what is merged first decides, and candidates go stale."""
    def change(spec):
        alphabet = [piece for piece in spec["model"]["vocab"] if len(piece) == 1]
        words = ["ab", "bc", "cd", "abc", "bcd", "abcd", "da", "cda", "dab"]
        spec["added_tokens"] = []
        spec["model"]["vocab"] = {piece: i for i, piece in enumerate(alphabet + words)}
        merges = [["bc", "d"], ["a", "bc"], ["a", "b"], ["c", "d"], ["b", "c"], ["ab", "c"], ["b", "cd"], ["d", "a"],
                  ["ab", "cd"], ["a", "bcd"], ["abc", "d"], ["cd", "a"], ["c", "da"], ["d", "ab"], ["da", "b"]]
        rng.shuffle(merges)
        spec["model"]["merges"] = merges
    rng = random.Random(11)
    for _ in range(60):
        ours, theirs = pair(change)
        for _ in range(100):
            text = "".join(rng.choice("abcd") for _ in range(rng.randint(1, 40)))
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


def test_a_whole_novel():
    if not NOVELS.exists():
        pytest.skip(f"{NOVELS} is not here")
    text = lzma.decompress(NOVELS.read_bytes()).decode()
    ours, theirs = pair()
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids, False) == text


def test_merges_as_strings():
    def change(spec):
        spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
        spec["model"]["continuing_subword_prefix"] = spec["model"]["end_of_word_suffix"] = ""
    ours, theirs = pair(change)
    text = "It was the best of times, it was the worst of times"
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_bytes_that_are_not_text():
    ours, _ = pair()
    rng = random.Random(5)
    for _ in range(5_000):
        data = bytearray("añ日😀 end".encode() * 2)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(data[: rng.randint(1, len(data))])
        try:
            data.decode()
        except UnicodeDecodeError as error:
            with pytest.raises(ValueError, match=f"byte offset {error.start} "):
                ours.encode_bytes(data)
        else:
            assert ours.decode(ours.encode_bytes(data), False) == data.decode()


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
