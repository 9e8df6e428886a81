#!/usr/bin/env python3
"""Restores a vault's snapshot from a server's disk, by docs/vault-format.md alone.

    reader.py DATA KEY PASSPHRASE SNAPSHOT TARGET

DATA is the server's data folder, KEY a vault.key, PASSPHRASE a file with its passphrase, SNAPSHOT the id of a snapshot; contents,
folders and links are written below TARGET. It is independent of the program, made to hold the page against it: only Python's own
library, no speed. What does not verify ends it.
"""

import hashlib
import hmac
import json
import os
import struct
import sys
import zlib

MASK32 = 0xFFFFFFFF
MASK64 = 0xFFFFFFFFFFFFFFFF


def check(holds, what):
    if not holds:
        sys.exit(f"reader: damaged: {what}")


class Bytes:
    """Reads fields one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(self.at + count <= len(self.data), "cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def bytes16(self):
        return self.take(self.number("H"))

    def is_at_end(self):
        return self.at == len(self.data)


# BLAKE3 (hash, keyed hash, key derivation)

BLAKE3_IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
BLAKE3_PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
BLAKE3_MIXES = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, DERIVE_CONTEXT, DERIVE_MATERIAL = 1, 2, 4, 8, 16, 32, 64


def blake3_compress(chaining, block, counter, length, flags):
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = chaining + BLAKE3_IV[:4] + [counter & MASK32, counter >> 32, length, flags]
    for turn in range(7):
        for index, (a, b, c, d) in enumerate(BLAKE3_MIXES):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            va = (va + vb + m[2 * index]) & MASK32
            vd ^= va
            vd = (vd >> 16 | vd << 16) & MASK32
            vc = (vc + vd) & MASK32
            vb ^= vc
            vb = (vb >> 12 | vb << 20) & MASK32
            va = (va + vb + m[2 * index + 1]) & MASK32
            vd ^= va
            vd = (vd >> 8 | vd << 24) & MASK32
            vc = (vc + vd) & MASK32
            vb ^= vc
            vb = (vb >> 7 | vb << 25) & MASK32
            v[a], v[b], v[c], v[d] = va, vb, vc, vd
        m = [m[place] for place in BLAKE3_PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3_words(key, flags, data):
    def chunk(number, text):
        chaining, blocks = key, [text[at : at + 64] for at in range(0, len(text), 64)] or [b""]
        for index, block in enumerate(blocks):
            kind = flags | (CHUNK_START if index == 0 else 0) | (CHUNK_END if index + 1 == len(blocks) else 0)
            if index + 1 == len(blocks):
                return lambda extra: blake3_compress(chaining, block, number, len(block), kind | extra)
            chaining = blake3_compress(chaining, block, number, 64, kind)

    def tree(first, text):
        if len(text) <= 1024:
            return chunk(first, text)
        chunks = (len(text) - 1) // 1024
        left = 1 << (chunks.bit_length() - 1)
        block = struct.pack("<16I", *tree(first, text[: left * 1024])(0), *tree(first + left, text[left * 1024 :])(0))
        return lambda extra: blake3_compress(key, block, 0, 64, flags | PARENT | extra)

    return tree(0, data)(ROOT)


def blake3(data):
    return struct.pack("<8I", *blake3_words(BLAKE3_IV, 0, data))


def blake3_keyed(key, data):
    return struct.pack("<8I", *blake3_words(list(struct.unpack("<8I", key)), KEYED, data))


def blake3_derived(context, data):
    return struct.pack("<8I", *blake3_words(blake3_words(BLAKE3_IV, DERIVE_CONTEXT, context), DERIVE_MATERIAL, data))


# Argon2id (RFC 9106), one lane

def long_hash(length, data):
    data = struct.pack("<I", length) + data
    if length <= 64:
        return hashlib.blake2b(data, digest_size=length).digest()
    part, out = hashlib.blake2b(data).digest(), b""
    while length - len(out) > 64:
        out += part[:32]
        rest = length - len(out)
        part = hashlib.blake2b(part, digest_size=64 if rest > 64 else rest).digest()
    return out + part


def argon2_permute(v, places):
    def mix(a, b, c, d):
        va, vb, vc, vd = v[a], v[b], v[c], v[d]
        va = (va + vb + 2 * (va & MASK32) * (vb & MASK32)) & MASK64
        vd ^= va
        vd = (vd >> 32 | vd << 32) & MASK64
        vc = (vc + vd + 2 * (vc & MASK32) * (vd & MASK32)) & MASK64
        vb ^= vc
        vb = (vb >> 24 | vb << 40) & MASK64
        va = (va + vb + 2 * (va & MASK32) * (vb & MASK32)) & MASK64
        vd ^= va
        vd = (vd >> 16 | vd << 48) & MASK64
        vc = (vc + vd + 2 * (vc & MASK32) * (vd & MASK32)) & MASK64
        vb ^= vc
        vb = (vb >> 63 | vb << 1) & MASK64
        v[a], v[b], v[c], v[d] = va, vb, vc, vd

    for a, b, c, d in BLAKE3_MIXES:
        mix(places[a], places[b], places[c], places[d])


ARGON2_ROWS = [[16 * row + i for i in range(16)] for row in range(8)]
ARGON2_COLUMNS = [[2 * column + 16 * (i // 2) + i % 2 for i in range(16)] for column in range(8)]


def argon2_block(left, right, before=None):
    mixed = [a ^ b for a, b in zip(left, right)]
    v = list(mixed)
    for places in ARGON2_ROWS + ARGON2_COLUMNS:
        argon2_permute(v, places)
    if before is None:
        return [a ^ b for a, b in zip(v, mixed)]
    return [a ^ b ^ c for a, b, c in zip(v, mixed, before)]


def argon2id(passphrase, salt, memory, passes, length):
    field = lambda data: struct.pack("<I", len(data)) + data
    start = struct.pack("<6I", 1, length, memory, passes, 0x13, 2)
    seed = hashlib.blake2b(start + field(passphrase) + field(salt) + field(b"") + field(b"")).digest()
    count = memory // 4 * 4
    slice_length = count // 4
    zero = [0] * 128
    blocks = [None] * count
    for first in range(2):
        blocks[first] = list(struct.unpack("<128Q", long_hash(1024, seed + struct.pack("<II", first, 0))))
    for turn in range(passes):
        for part in range(4):
            independent = turn == 0 and part < 2
            inputs, addresses = [turn, 0, part, count, passes, 2, 0] + [0] * 121, None
            for place in range(slice_length):
                if independent and (place % 128 == 0 or addresses is None):
                    inputs[6] = place // 128 + 1
                    addresses = argon2_block(zero, argon2_block(zero, inputs))
                if turn == 0 and part == 0 and place < 2:
                    continue
                at = part * slice_length + place
                before = (at - 1) % count
                random = addresses[place % 128] if independent else blocks[before][0]
                # What may be referred to: all that is done but the block before.
                if turn == 0:
                    area, origin = at - 1, 0
                else:
                    area, origin = count - slice_length + place - 1, (part + 1) * slice_length % count
                low = random & MASK32
                reference = (origin + area - 1 - (area * (low * low >> 32) >> 32)) % count
                blocks[at] = argon2_block(blocks[before], blocks[reference], blocks[at] if turn else None)
    return long_hash(length, struct.pack("<128Q", *blocks[count - 1]))


# AES-256-CBC, decryption (FIPS 197)

def aes_tables():
    box, power, value = [0x63] * 256, [0] * 256, 1
    log = [0] * 256
    for exponent in range(255):
        power[exponent], log[value] = value, exponent
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)
        value &= 0xFF
    for number in range(1, 256):
        inverse = power[(255 - log[number]) % 255]
        spread = inverse
        for _ in range(4):
            inverse = (inverse << 1 | inverse >> 7) & 0xFF
            spread ^= inverse
        box[number] = spread ^ 0x63
    times = lambda a, b: power[(log[a] + log[b]) % 255] if a and b else 0
    inverse_box = [0] * 256
    for number in range(256):
        inverse_box[box[number]] = number
    columns = []
    for number in range(256):
        columns.append(times(number, 14) << 24 | times(number, 9) << 16 | times(number, 13) << 8 | times(number, 11))
    rotated = [[(word >> 8 * turn | word << 32 - 8 * turn) & MASK32 for word in columns] for turn in range(4)]
    return box, inverse_box, rotated


AES_BOX, AES_INVERSE_BOX, AES_UNMIX = aes_tables()
AES_ROUND = [[table[number] for number in AES_INVERSE_BOX] for table in AES_UNMIX]


def aes_decryption_keys(key):
    words = list(struct.unpack(">8I", key))
    constant = 1
    substitute = lambda word: sum(AES_BOX[word >> shift & 0xFF] << shift for shift in (0, 8, 16, 24))
    for index in range(8, 60):
        word = words[-1]
        if index % 8 == 0:
            word = substitute((word << 8 | word >> 24) & MASK32) ^ constant << 24
            constant <<= 1
        elif index % 8 == 4:
            word = substitute(word)
        words.append(words[index - 8] ^ word)
    rounds = [words[at : at + 4] for at in range(0, 60, 4)][::-1]
    unmix = lambda word: (AES_UNMIX[0][word >> 24] ^ AES_UNMIX[1][word >> 16 & 0xFF]
                          ^ AES_UNMIX[2][word >> 8 & 0xFF] ^ AES_UNMIX[3][word & 0xFF])
    return [rounds[0]] + [[unmix(word) for word in words] for words in rounds[1:-1]] + [rounds[-1]]


def aes_cbc_decrypt(key, vector, text):
    rounds, (t0, t1, t2, t3), box = aes_decryption_keys(key), AES_ROUND, AES_INVERSE_BOX
    before, out = struct.unpack(">4I", vector), []
    for block in struct.iter_unpack(">4I", text):
        a, b, c, d = (word ^ key for word, key in zip(block, rounds[0]))
        for k in rounds[1:-1]:
            a, b, c, d = (
                t0[a >> 24] ^ t1[d >> 16 & 255] ^ t2[c >> 8 & 255] ^ t3[b & 255] ^ k[0],
                t0[b >> 24] ^ t1[a >> 16 & 255] ^ t2[d >> 8 & 255] ^ t3[c & 255] ^ k[1],
                t0[c >> 24] ^ t1[b >> 16 & 255] ^ t2[a >> 8 & 255] ^ t3[d & 255] ^ k[2],
                t0[d >> 24] ^ t1[c >> 16 & 255] ^ t2[b >> 8 & 255] ^ t3[a & 255] ^ k[3],
            )
        last = lambda p, q, r, s: box[p >> 24] << 24 | box[q >> 16 & 255] << 16 | box[r >> 8 & 255] << 8 | box[s & 255]
        plain = (last(a, d, c, b), last(b, a, d, c), last(c, b, a, d), last(d, c, b, a))
        out.append(struct.pack(">4I", *(p ^ k ^ x for p, k, x in zip(plain, rounds[-1], before))))
        before = block
    return b"".join(out)


def unpadded(text):
    check(text and 1 <= text[-1] <= 16 and text.endswith(bytes([text[-1]]) * text[-1]), "padding")
    return text[: -text[-1]]


# RSA-OAEP with SHA-256 (RFC 8017)

def der_fields(data):
    """The fields of a DER sequence, as (tag, bytes)."""
    at, fields = 0, []
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        fields.append((tag, data[at : at + length]))
        at += length
    return fields


class PrivateKey:
    def __init__(self, pkcs8):
        inner = der_fields(der_fields(pkcs8)[0][1])
        numbers = [int.from_bytes(field, "big") for _, field in der_fields(der_fields(inner[2][1])[0][1])]
        self.modulus, self.private = numbers[1], numbers[3]

    def open(self, label, ciphertext):
        length = (self.modulus.bit_length() + 7) // 8
        text = pow(int.from_bytes(ciphertext, "big"), self.private, self.modulus).to_bytes(length, "big")
        mask = lambda seed, count: b"".join(
            hashlib.sha256(seed + struct.pack(">I", n)).digest() for n in range(-(-count // 32)))[:count]
        xor = lambda left, right: bytes(a ^ b for a, b in zip(left, right))
        seed = xor(text[1:33], mask(text[33:], 32))
        data = xor(text[33:], mask(seed, length - 33))
        rest = data[32:].lstrip(b"\0")
        check(text[0] == 0 and data[:32] == hashlib.sha256(label).digest() and rest[:1] == b"\1", "a wrapped key")
        return rest[1:]


def hkdf(salt, key, info, length=32):
    root, block, out = hmac.digest(salt, key, "sha256"), b"", b""
    while len(out) < length:
        block = hmac.digest(root, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


# The vault

CONTENT, METADATA, HEAD = b"content names", b"list names", b"head names"
LABEL = b"cyberbackup vault 1 "
KEY, CHUNK, LIST, SNAPSHOT = 1, 2, 3, 4
FOLDER, SYMBOLIC_LINK = 2, 3


class Vault:
    def __init__(self, folder, key_file, passphrase):
        self.read_key_file(key_file, passphrase)
        self.names = {kind: hkdf(self.id, self.id_key, LABEL + kind) for kind in (CONTENT, METADATA, HEAD)}
        self.authentication = hkdf(self.id, self.mac_key, LABEL + b"authentication")
        self.wrapped, self.records, self.ciphers = {}, {}, {}
        packs = os.path.join(folder, "vaults", self.id.hex(), "packs")
        for name in sorted(os.listdir(packs)):
            if name.endswith(".pack"):
                with open(os.path.join(packs, name), "rb") as file:
                    self.read_pack(int(name[:8], 16), file.read())

    def read_key_file(self, data, passphrase):
        reader = Bytes(data[:-32])
        check(reader.take(8) == b"\xcbcbkVKEY" and reader.number("I") == 1, "the key file's magic")
        self.id = reader.take(16)
        memory, passes, lanes = (reader.number("I") for _ in range(3))
        salt, vector = reader.take(16), reader.take(16)
        check(lanes == 1, "the key file's lanes")
        derived = argon2id(passphrase, salt, memory, passes, 64)
        code = hmac.digest(derived[32:], data[:-32], "sha256")
        check(hmac.compare_digest(code, data[-32:]), "the key file, or the passphrase is wrong")
        plain = Bytes(unpadded(aes_cbc_decrypt(derived[:32], vector, reader.data[reader.at :])))
        check(plain.take(16) == self.id, "the key file's vault")
        plain.bytes16()
        self.id_key, self.mac_key, verifier = plain.take(32), plain.take(32), plain.take(32)
        self.private = PrivateKey(plain.bytes16())
        check(hashlib.sha256(plain.take(32)).digest() == verifier and plain.is_at_end(), "the read token")

    def read_pack(self, number, data):
        head = data[:36]
        check(head[:8] == b"\xcbcbkPACK" and struct.unpack("<I", head[8:12])[0] == 1, "a pack's magic")
        check(head[12:28] == self.id and struct.unpack("<I", head[28:32])[0] == number, "a pack's place")
        check(zlib.crc32(head[:32]) == struct.unpack("<I", head[32:])[0], "a pack's head")
        reader = Bytes(data)
        reader.take(36)
        while not reader.is_at_end():
            start = reader.at
            kind, length, name = reader.number("B"), reader.number("I"), reader.take(32)
            key = reader.take(16) if kind in (CHUNK, SNAPSHOT) else None
            payload = reader.take(length)
            end = reader.at
            check(zlib.crc32(data[start:end]) == reader.number("I"), f"record at {start} of pack {number}")
            if kind == KEY:
                check(hashlib.sha256(payload).digest()[:16] == name[:16], "a wrapped key's id")
                self.wrapped[name[:16]] = payload
            elif kind == SNAPSHOT:
                # A head's name may come again with other bytes: the server calls a snapshot by its record.
                self.records[kind, blake3(data[start:end])] = (key, name, payload)
            else:
                self.records[kind, name] = (key, payload)

    def root_set(self, roots):
        key = hkdf(self.id, self.id_key, LABEL + b"root sets")
        return blake3_keyed(key, b"".join(struct.pack("<H", len(root)) + root for root in roots))[:16]

    def cipher(self, key):
        if key not in self.ciphers:
            data_key = self.private.open(LABEL + b"data key", self.wrapped[key])
            self.ciphers[key] = hkdf(self.id, data_key, LABEL + b"encryption")
        return self.ciphers[key]

    def open(self, kind, name, key, sealed):
        vector, text, code, crc = sealed[:16], sealed[16:-36], sealed[-36:-4], sealed[-4:]
        check(len(text) >= 16 and len(text) % 16 == 0, "a chunk's length")
        check(zlib.crc32(name + key + sealed[:-4]) == struct.unpack("<I", crc)[0], "a chunk's CRC32")
        covered = name + key + vector + text
        check(hmac.compare_digest(hmac.digest(self.authentication, covered, "sha256"), code), "a chunk's HMAC")
        body = Bytes(unpadded(aes_cbc_decrypt(self.cipher(key), vector, text)))
        method, payload = body.number("B"), body.take(body.number("I"))
        if method == 1:
            payload = zlib.decompress(payload, wbits=-15)
        check(blake3_keyed(self.names[kind], payload) == name, "a chunk's name")
        return payload

    def chunk(self, kind, name):
        check((CHUNK, name) in self.records, f"chunk {name.hex()} is missing")
        return self.open(kind, name, *self.records[CHUNK, name])

    def stream(self, names, length):
        data = b"".join(self.chunk(METADATA, name) for name in names)
        check(len(data) == length, "a stream's length")
        return data

    def head(self, record, snapshot):
        check((SNAPSHOT, record) in self.records, "the snapshot's record is missing")
        key, name, payload = self.records[SNAPSHOT, record]
        reader = Bytes(payload)
        check(reader.take(25) == snapshot.encode(), "the record is another snapshot's")
        reader.take(16)
        lists = [reader.take(32) for _ in range(reader.number("I"))]
        for each in lists:
            check((LIST, each) in self.records, f"list {each.hex()} is missing")
            check(blake3_derived(b"cyberbackup vault 1 list", self.records[LIST, each][1]) == each, "a list's id")
        return Bytes(self.open(HEAD, name, key, payload[reader.at :]))


class Restore:
    def __init__(self, vault, target):
        self.vault, self.target, self.files = vault, target, 0

    def run(self, head, snapshot, root_set):
        check(head.number("B") == 1, "a head's version")
        head.take(16 + 8 + 32)
        check(head.take(25) == snapshot.encode(), "the snapshot is shown under another one's id")
        head.take(12)
        entries, _, _, _ = (head.number("Q") for _ in range(4))
        head.bytes16(), head.bytes16()
        for _ in range(head.number("I")):
            head.bytes16()
        roots = [head.bytes16() for _ in range(head.number("I"))]
        check(self.vault.root_set(roots) == root_set, "what stands for the roots")
        length = head.number("Q")
        index = Bytes(self.vault.stream([head.take(32) for _ in range(head.number("I"))], length))
        check(head.is_at_end(), "a head's end")
        found = 0
        while not index.is_at_end():
            index.bytes16()
            length = index.number("Q")
            names = [index.take(32) for _ in range(index.number("I"))]
            entries_of_range = Bytes(self.vault.stream(names, length))
            while not entries_of_range.is_at_end():
                self.entry(entries_of_range)
                found += 1
        check(found == entries, "the count of entries")

    def entry(self, reader):
        entry = Bytes(reader.take(reader.number("I")))
        kind, mode, size = entry.number("B"), entry.number("H"), entry.number("Q")
        seconds, nanoseconds = entry.number("q"), entry.number("I")
        entry.take(12 + 8 + 4 + 4)
        path = os.path.join(self.target, entry.bytes16())
        entry.take(entry.number("B")), entry.take(entry.number("B"))
        link, first = entry.bytes16(), entry.bytes16()
        content = self.content(reader) if reader.number("B") else None
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if first:
            os.link(os.path.join(self.target, first), path)
        elif kind == FOLDER:
            os.makedirs(path, exist_ok=True)
        elif kind == SYMBOLIC_LINK:
            os.symlink(link, path)
        elif content is not None:
            with open(path, "wb") as file:
                file.write(content)
            os.chmod(path, mode)
            os.utime(path, ns=(seconds * 10**9 + nanoseconds,) * 2)
            self.files += 1

    def content(self, reader):
        size, crc, hash_, flags = reader.number("Q"), reader.number("I"), reader.take(32), reader.number("B")
        data = b""
        for _ in range(reader.number("I")):
            length = reader.number("I")
            chunk = self.vault.chunk(CONTENT, reader.take(32))
            check(len(chunk) == length, "a chunk's length in its file")
            data += chunk
        if flags & 4:
            return None
        check(len(data) == size and zlib.crc32(data) == crc and blake3(data) == hash_, "a file's sums")
        return data


def main():
    data, key_file, passphrase, snapshot, target = sys.argv[1:]
    with open(passphrase, "rb") as file:
        words = file.read().removesuffix(b"\n")
    with open(key_file, "rb") as file:
        vault = Vault(data, file.read(), words)
    heads = os.path.join(data, "snapshots")
    for client in os.listdir(heads):
        path = os.path.join(heads, client, snapshot + ".json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                head = json.load(file)
            break
    else:
        sys.exit(f"reader: no snapshot {snapshot}")
    place = head["vault"]
    check(place["id"] == vault.id.hex(), "the snapshot belongs to another vault")
    restore = Restore(vault, os.fsencode(target))
    sealed = vault.head(bytes.fromhex(place["object"]), snapshot)
    restore.run(sealed, snapshot, bytes.fromhex(place["set"]))
    print(f"{restore.files} files")


if __name__ == "__main__":
    main()
