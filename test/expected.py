#!/usr/bin/env python3
"""Writes test/data/expected: what an independent parser finds in the captured bodies.

    python3 test/expected.py          writes the files
    python3 test/expected.py --check  says whether they are as they would be written

This shares nothing with the library but the JSON grammar: strings are decoded by Python's json, the
spans of values are found by the few lines of skip(), and which keys are known is written down again
below. test_corpus.c compares the library's reading with these files.

A file has a line for each item, in the order of the body, then one for the result:

    T0 @35 s=@alice:x t=m.dummy u=@bob:x d=DEV c=46+17:8d3f2a10:{"hello":"world"}
    END @808

A letter for the kind (as in items.h), the item's index and offset, `!ERROR`, `~FLAGS`, the strings
with \\xHH for bytes up to the blank, the backslash and from 0x7f on, and for contents their offset,
length, CRC-32, and the bytes themselves when there are at most 40 and the item has no error.
"""
import decimal
import glob
import json
import os
import re
import sys
import zlib

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
LEVELS = 1024
SPACE = re.compile(r"[ \t\n\r]*")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
LITERAL = re.compile(r"true|false|null")
LIMIT = decimal.Decimal("1.7976931348623158e308")

SPELLINGS = {  # of the keys of a transaction: the first of a row's lists with an element counts
    "events": "E",
    "to_device": "T", "de.sorunome.msc2409.to_device": "T",
    "ephemeral": "P", "de.sorunome.msc2409.ephemeral": "P",
    "device_lists": "CL", "org.matrix.msc3202.device_lists": "CL",
    "device_one_time_keys_count": "K", "org.matrix.msc3202.device_one_time_keys_count": "K",
    "org.matrix.msc3202.device_one_time_key_counts": "K",
    "device_unused_fallback_key_types": "F",
    "org.matrix.msc3202.device_unused_fallback_key_types": "F",
}


class Body:
    """A body as Latin-1 text, so that offsets in it are offsets of bytes."""

    def __init__(self, data):
        data.decode("utf-8")
        self.data = data
        self.text = data.decode("latin-1")

    def space(self, at):
        return SPACE.match(self.text, at).end()

    def skip_string(self, at):
        """Returns the end of the string at `at`."""
        if self.text[at] != '"':
            raise ValueError("no string at %d" % at)
        return json.decoder.scanstring(self.text, at + 1, True)[1]

    def string(self, at):
        """Returns the string at `at`, which may hold lone surrogates."""
        return json.loads(self.data[at:self.skip_string(at)].decode("utf-8"))

    def skip_scalar(self, at):
        if self.text[at] == '"':
            return self.skip_string(at)
        match = NUMBER.match(self.text, at) or LITERAL.match(self.text, at)
        if not match:
            raise ValueError("no value at %d" % at)
        return match.end()

    def skip(self, at, leaf=lambda kind, text: None):
        """Returns the end of the value at `at` and how many levels it opens; no recursion."""
        stack, deepest, text = [], 0, self.text
        while True:
            if text[at] in "{[":
                stack.append(text[at])
                deepest = max(deepest, len(stack))
                at = self.space(at + 1)
                if text[at] == ("}" if stack[-1] == "{" else "]"):
                    stack.pop()
                    at += 1
                else:
                    at = self.key(at, leaf) if stack[-1] == "{" else at
                    continue
            else:
                end = self.skip_scalar(at)
                leaf(text[at], self.data[at:end])
                at = end
            while stack:
                at = self.space(at)
                if text[at] == ",":
                    at = self.space(at + 1)
                    at = self.key(at, leaf) if stack[-1] == "{" else at
                    break
                if text[at] != ("}" if stack[-1] == "{" else "]"):
                    raise ValueError("no comma at %d" % at)
                stack.pop()
                at += 1
            else:
                return at, deepest

    def key(self, at, leaf):
        end = self.skip_string(at)
        leaf('"', self.data[at:end])
        colon = self.space(end)
        if self.text[colon] != ":":
            raise ValueError("no colon at %d" % colon)
        return self.space(colon + 1)

    def members(self, at):
        """Yields (key, the key's offset, the value's offset) of the object at `at`."""
        at = self.space(at + 1)
        while self.text[at] != "}":
            value = self.key(at, lambda kind, text: None)
            yield self.string(at), at, value
            at = self.space(self.skip(value)[0])
            if self.text[at] == ",":
                at = self.space(at + 1)

    def elements(self, at):
        at = self.space(at + 1)
        while self.text[at] != "]":
            yield at
            at = self.space(self.skip(at)[0])
            if self.text[at] == ",":
                at = self.space(at + 1)


def escape(data):
    return "".join(chr(c) if 0x20 < c < 0x7f and c != 0x5c else "\\x%02x" % c for c in data)


def lone(string):
    return any("\ud800" <= c <= "\udfff" for c in string)


class Reading:
    """Goes through a body and collects the lines of its items."""

    def __init__(self, data):
        self.body = Body(data)
        self.lines = []
        self.count = {}

    def item(self, letter, offset, strings, content=None, level=0, want="{"):
        """One item. `strings` are (name, text); `level` is that of the content's outermost."""
        body, error, flags = self.body, None, set()
        index = self.count[letter] = self.count.get(letter, -1) + 1

        def leaf(kind, text):
            if kind == '"':
                if lone(json.loads(text.decode("utf-8"))):
                    flags.add("S")
            elif kind in "-0123456789" and abs(decimal.Decimal(text.decode())) >= LIMIT:
                flags.add("N")

        if content is not None:
            end, deep = body.skip(content, leaf)
            if body.text[content] != want:
                error = "TYPE"
            elif level + deep - 1 > LEVELS:
                error = "DEEP"
        if any(lone(text) for name, text in strings):
            error = error or "SURROGATE"
        line = "%s%d @%d" % (letter, index, offset)
        if error:
            line += " !" + error
        elif flags:
            line += " ~" + "".join(flag for flag in "SN" if flag in flags)
        for name, text in strings:
            shown = "".join("\ufffd" if lone(c) else c for c in text)
            line += " %s=%s" % (name, escape(shown.encode("utf-8")))
        if content is not None and not error:
            raw = body.data[content:end]
            line += " c=%d+%d:%08x" % (content, len(raw), zlib.crc32(raw))
            if len(raw) <= 40:
                line += ":" + escape(raw)
        self.lines.append(line)

    def message(self, at, level):
        """A to-device event of a transaction or a /sync response."""
        names = {"sender": "s", "type": "t", "to_user_id": "u", "to_device_id": "d"}
        strings, content = {}, None
        for key, _, value in self.body.members(at):
            if key in names:
                strings[names[key]] = self.body.string(value)
            elif key == "content":
                content = value
        self.item("T", at, [(n, strings[n]) for n in "stud" if n in strings], content, level)

    def per_device(self, letter, at, want):
        for user, _, devices in self.body.members(at):
            for device, quote, value in self.body.members(devices):
                self.item(letter, quote if letter == "T" else value,
                          [("u", user), ("d", device)], value, 4, want)

    def transaction(self):
        body, taken = self.body, set()
        for key, _, value in body.members(0):
            letter = SPELLINGS.get(key)
            if not letter or letter in taken:
                continue
            before = len(self.lines)
            if letter == "CL":
                for name, _, users in body.members(value):
                    for user in body.elements(users):
                        self.item({"changed": "C", "left": "L"}[name], user,
                                  [("u", body.string(user))])
            elif letter in "KF":
                self.per_device(letter, value, "{" if letter == "K" else "[")
            else:
                for element in body.elements(value):
                    if letter == "T":
                        self.message(element, 4)
                    else:
                        self.item(letter, element, [], element, 3)
            if len(self.lines) > before:
                taken.add(letter)

    def sync(self):
        body = self.body
        for key, _, value in body.members(0):
            if key == "next_batch":
                self.item("N", value, [("i", body.string(value))])
            elif key == "to_device":
                for name, _, events in body.members(value):
                    if name == "events":
                        for element in body.elements(events):
                            self.message(element, 5)

    def send(self):
        """Returns the result's line."""
        body = self.body
        start = body.space(0)
        if body.text[start] != "{":
            return "ROOT @%d" % start
        found = False
        for key, _, value in body.members(start):
            if key == "messages":
                found = True
                if body.text[value] != "{":
                    return "MESSAGES @%d" % value
                for user, _, devices in body.members(value):
                    if body.text[devices] != "{":
                        self.item("T", devices, [("u", user)], devices, 3)
                        continue
                    for device, quote, content in body.members(devices):
                        self.item("T", quote, [("u", user), ("d", device)], content, 4)
        return None if found else "NO_MESSAGES @%d" % (body.text.rindex("}"))


def expected(shape, data):
    """Returns the text of the expected file, or None when the body is no JSON."""
    try:
        reading = Reading(data)
        end = reading.body.space(reading.body.skip(reading.body.space(0))[0])
        if end != len(data):
            return None
    except (ValueError, IndexError):
        return None
    last = {"transactions": reading.transaction, "sync": reading.sync,
            "requests": reading.send}[shape]()
    return "\n".join(reading.lines + [last or "END @%d" % len(data)]) + "\n"


def main():
    check, wrong, index = "--check" in sys.argv[1:], [], []
    files = {}
    for shape, ending in (("transactions", ".json"), ("sync", ".json"), ("requests", ".req")):
        for path in sorted(glob.glob(os.path.join(DATA, "synapse", shape, "*" + ending))):
            with open(path, "rb") as file:
                text = expected(shape, file.read())
            name = os.path.splitext(os.path.basename(path))[0]
            if text is not None:
                files["%s-%s.txt" % (shape, name)] = text
                index.append("%s %s\n" % (shape, name))
    files["index.txt"] = "".join(index)
    for name, text in files.items():
        path = os.path.join(DATA, "expected", name)
        if check:
            if not os.path.exists(path) or open(path, encoding="ascii").read() != text:
                wrong.append(name)
        else:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
    for name in wrong:
        print("%s differs" % name)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
