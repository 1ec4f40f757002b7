"""The library called from Python's ctypes: no C compiler, no header, no generated code.

What a binding needs is in two tables below: the values that the header states for its enums, and
the fields of msc4203_item, the one struct that both sides look into. Everything else is memory of a
size that the library tells. What it reads is compared with what Python's own JSON parser finds.

    python3 test/bindings/test_ctypes.py build/bindings/libmsc4203.so     in the project's root
"""
import ctypes
import glob
import json
import sys

if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)

TRANSACTION, SEND, EDU, SYNC, JSON = 0, 1, 2, 3, 4
(TO_DEVICE, EVENT, EPHEMERAL, DEVICE_CHANGED, DEVICE_LEFT, KEY_COUNTS, FALLBACK_TYPES, MESSAGE_ID,
 NEXT_BATCH, ALL_KINDS) = 1, 2, 4, 8, 16, 32, 64, 128, 256, 511
LONE_SURROGATE, HUGE_NUMBER, LATE = 1, 2, 4
UNSTABLE_KEYS, STABLE_KEYS = 0, 1
OK, ITEM, MORE, END = 0, 1, 2, 3
E_SYNTAX, E_UTF8, E_TRUNCATED, E_ROOT, E_MESSAGES, E_NO_MESSAGES = -1, -2, -3, -4, -5, -6
E_FIELD_MISSING, E_FIELD_TYPE, E_FIELD_TWICE, E_TOO_DEEP = -20, -21, -22, -23
E_SURROGATE, E_NUMBER, E_TOO_LARGE = -24, -25, -26
E_FULL, E_ORDER, E_KIND, E_SECOND, E_USAGE = -40, -41, -42, -43, -60
OBJECT_ITEM, OBJECT_READER, OBJECT_ALGORITHMS, OBJECT_WRITER = 0, 1, 2, 3


class Span(ctypes.Structure):
    _fields_ = [("ptr", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    def bytes(self):
        return None if self.ptr is None else ctypes.string_at(self.ptr, self.len)


class Item(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("error", ctypes.c_int), ("flags", ctypes.c_uint),
                ("index", ctypes.c_uint), ("offset", ctypes.c_uint64), ("sender", Span),
                ("type", Span), ("user_id", Span), ("device_id", Span), ("content", Span),
                ("id", Span)]


SPANS = ("sender", "type", "user_id", "device_id", "content", "id")
POINTER, SIZE, INT, UNSIGNED = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
FUNCTIONS = {
    "item_error": (INT, POINTER),
    "span_equal": (INT, POINTER, ctypes.c_char_p),
    "result_text": (ctypes.c_char_p, INT),
    "result_errcode": (ctypes.c_char_p, INT),
    "result_status": (INT, INT),
    "version": (UNSIGNED,),
    "reader_init": (INT, POINTER, INT, UNSIGNED, POINTER, SIZE),
    "reader_preset": (None, POINTER, POINTER),
    "reader_feed": (INT, POINTER, POINTER, SIZE, INT),
    "reader_next": (INT, POINTER, ctypes.POINTER(ctypes.POINTER(Item))),
    "reader_offset": (ctypes.c_uint64, POINTER),
    "algorithms_init": (None, POINTER, POINTER),
    "algorithms_next": (INT, POINTER, ctypes.POINTER(Span), ctypes.POINTER(ctypes.c_uint64)),
    "writer_begin": (INT, POINTER, INT, UNSIGNED, POINTER, SIZE),
    "writer_reserve": (INT, POINTER, SIZE),
    "writer_item": (INT, POINTER, POINTER),
    "writer_end": (INT, POINTER, ctypes.POINTER(SIZE)),
    "writer_needed": (SIZE, POINTER),
    "writer_clear": (INT, POINTER),
    "sizeof": (SIZE, INT),
    "alignof": (SIZE, INT),
}


class Library:
    """The functions, without their prefix."""

    def __init__(self, path):
        shared = ctypes.CDLL(path)
        for name, (result, *arguments) in FUNCTIONS.items():
            function = getattr(shared, "msc4203_" + name)
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)

    def new(self, which):
        """Memory for one of the library's objects; keep it as long as the object is used."""
        size, alignment = self.sizeof(which), self.alignof(which)
        memory = ctypes.create_string_buffer(size + alignment)
        start = ctypes.addressof(memory)
        return memory, start + -start % alignment


def copy(item):
    """An item as a dictionary that outlives the next call."""
    found = {name: getattr(item, name).bytes() for name in SPANS}
    found.update(kind=item.kind, error=item.error, flags=item.flags, index=item.index,
                 offset=item.offset)
    return found


def read(lib, shape, body, chunk=None, scratch_bytes=0, kinds=ALL_KINDS):
    """All items, what reading ended with, and the offset."""
    memory, reader = lib.new(OBJECT_READER)
    scratch = ctypes.create_string_buffer(scratch_bytes) if scratch_bytes else None
    assert lib.reader_init(reader, shape, kinds, scratch, scratch_bytes) == OK
    items, at, result = [], 0, MORE
    pointer = ctypes.POINTER(Item)()
    while result == MORE:
        piece = body[at:] if chunk is None else body[at:at + chunk]
        at += len(piece)
        held = ctypes.create_string_buffer(piece, max(1, len(piece)))
        assert lib.reader_feed(reader, held, len(piece), int(at == len(body))) == OK
        result = lib.reader_next(reader, ctypes.byref(pointer))
        while result == ITEM:
            items.append(copy(pointer.contents))
            result = lib.reader_next(reader, ctypes.byref(pointer))
    offset = lib.reader_offset(reader)
    assert lib.reader_next(reader, ctypes.byref(pointer)) == result
    del memory
    return items, result, offset


def parse(text):
    """By Python's parser; numbers keep their spelling."""
    return json.loads(text, parse_int=lambda n: "int " + n, parse_float=lambda n: "float " + n)


STABLE_NAMES = {
    "de.sorunome.msc2409.to_device": "to_device",
    "de.sorunome.msc2409.ephemeral": "ephemeral",
    "org.matrix.msc3202.device_lists": "device_lists",
    "org.matrix.msc3202.device_one_time_keys_count": "device_one_time_keys_count",
    "org.matrix.msc3202.device_one_time_key_counts": "device_one_time_keys_count",
    "org.matrix.msc3202.device_unused_fallback_key_types": "device_unused_fallback_key_types",
}


def text(string):
    return string.encode("utf-8", "surrogatepass")


def expected(body):
    """What a transaction holds, as (kind, fields): the first filled spelling of each key counts."""
    wanted, done = [], set()
    for key, value in parse(body).items():
        name = STABLE_NAMES.get(key, key)
        if name in done or not value:
            continue
        found = []
        if name == "to_device":
            found = [(TO_DEVICE, {"sender": text(m["sender"]), "type": text(m["type"]),
                                  "user_id": text(m["to_user_id"]),
                                  "device_id": text(m["to_device_id"]),
                                  "content": m["content"]}) for m in value]
        elif name == "events" or name == "ephemeral":
            kind = EVENT if name == "events" else EPHEMERAL
            found = [(kind, {"content": event}) for event in value]
        elif name == "device_lists":
            for list_name, users in value.items():
                kind = DEVICE_CHANGED if list_name == "changed" else DEVICE_LEFT
                found += [(kind, {"user_id": text(user)}) for user in users]
        elif name in ("device_one_time_keys_count", "device_unused_fallback_key_types"):
            kind = KEY_COUNTS if name == "device_one_time_keys_count" else FALLBACK_TYPES
            found = [(kind, {"user_id": text(user), "device_id": text(device), "content": what})
                     for user, devices in value.items() for device, what in devices.items()]
        if found:
            done.add(name)
        wanted += found
    return wanted


def test_sizes(lib):
    assert ctypes.sizeof(Item) == lib.sizeof(OBJECT_ITEM)
    assert ctypes.alignment(Item) == lib.alignof(OBJECT_ITEM)
    for which in (OBJECT_READER, OBJECT_ALGORITHMS, OBJECT_WRITER):
        assert 0 < lib.sizeof(which) <= 1024
        assert lib.alignof(which) in (1, 2, 4, 8, 16)
        assert lib.sizeof(which) % lib.alignof(which) == 0
    assert lib.sizeof(-1) == lib.alignof(4711) == 0
    assert lib.version() >= 1000


def test_transactions(lib):
    """Every captured transaction, in one piece and in pieces of 64 bytes."""
    paths = sorted(glob.glob("test/data/synapse/transactions/*.json"))
    assert len(paths) > 50
    count = 0
    for path in paths:
        with open(path, "rb") as file:
            body = file.read()
        wanted = expected(body)
        whole = read(lib, TRANSACTION, body, scratch_bytes=4096)
        pieces = read(lib, TRANSACTION, body, chunk=64, scratch_bytes=len(body))
        assert whole == pieces, path
        items, result, offset = whole
        assert result == END and offset == len(body), path
        assert len(items) == len(wanted), path
        for item, (kind, fields) in zip(items, wanted):
            assert item["kind"] == kind and item["error"] == OK, path
            for name in SPANS:
                if name == "content" and name in fields:
                    assert item[name] in body, path
                    assert parse(item[name]) == fields[name], path
                else:
                    assert item[name] == fields.get(name), path
            count += 1
    assert count > 100
    return "%d items of %d bodies" % (count, len(paths))


def test_algorithms(lib):
    body = (b'{"device_one_time_keys_count":{"@u:b":{"D":{"signed_curve25519":50,"\\u0061":0}}},'
            b'"device_unused_fallback_key_types":{"@u:b":{"D":["signed_curve25519"]}}}')
    items, result, _ = read(lib, TRANSACTION, body, scratch_bytes=100)
    assert result == END and [item["kind"] for item in items] == [KEY_COUNTS, FALLBACK_TYPES]
    found = []
    for item in items:
        memory, algorithms = lib.new(OBJECT_ALGORITHMS)
        held = ctypes.create_string_buffer(item["content"])
        given = Item(kind=item["kind"])
        given.content = Span(ctypes.addressof(held), len(item["content"]))
        lib.algorithms_init(algorithms, ctypes.addressof(given))
        name, number = Span(), ctypes.c_uint64()
        while lib.algorithms_next(algorithms, ctypes.byref(name), ctypes.byref(number)) == ITEM:
            found.append((name.bytes(), number.value))
        assert lib.algorithms_next(algorithms, ctypes.byref(name), ctypes.byref(number)) == END
        del memory
    assert found == [(b"signed_curve25519", 50), (b"a", 0), (b"signed_curve25519", 0)]


def test_broken(lib):
    items, result, offset = read(lib, TRANSACTION, b'{"events":[],}')
    assert (items, result, offset) == ([], E_SYNTAX, 13)
    assert read(lib, TRANSACTION, b'{"events":"\xff"}')[1:] == (E_UTF8, 11)
    assert read(lib, TRANSACTION, b'{"events":[', chunk=1)[1:] == (E_TRUNCATED, 11)
    assert read(lib, SEND, b"[]")[1:] == (E_ROOT, 0)
    assert read(lib, SEND, b'{"messages":1}')[1] == E_MESSAGES
    assert read(lib, SEND, b"{}")[1] == E_NO_MESSAGES
    items, result, _ = read(lib, SEND, b'{"messages":{"@u:b":{"D":{"n":1e400},"E":[],"F":{}}}}')
    assert result == END
    assert [item["error"] for item in items] == [OK, E_FIELD_TYPE, OK]
    assert [item["flags"] for item in items] == [HUGE_NUMBER, 0, 0]
    given = Item(kind=TO_DEVICE, flags=items[0]["flags"])
    assert lib.item_error(ctypes.addressof(given)) == E_NUMBER


def new_item(kind, keep, **fields):
    """An item to write; `keep` holds what its spans point to."""
    item = Item(kind=kind)
    for name, value in fields.items():
        held = ctypes.create_string_buffer(value, max(1, len(value)))
        keep.append(held)
        setattr(item, name, Span(ctypes.addressof(held), len(value)))
    return item


def write(lib, shape, items, capacity, flags=UNSTABLE_KEYS):
    """The results of all calls, and the body; a capacity of None measures."""
    memory, writer = lib.new(OBJECT_WRITER)
    buffer = None if capacity is None else ctypes.create_string_buffer(max(1, capacity))
    results = [lib.writer_begin(writer, shape, flags, buffer, capacity or 0)]
    results += [lib.writer_item(writer, ctypes.addressof(item)) for item in items]
    needed = lib.writer_needed(writer)
    size = SIZE()
    results.append(lib.writer_end(writer, ctypes.byref(size)))
    # What sticks can be forgotten; that an id is still missing does not stick.
    sticks = OK if results[-1] == E_FIELD_MISSING else results[-1]
    assert lib.writer_clear(writer) == sticks
    del memory
    body = buffer.raw[:size.value] if buffer is not None else size.value
    return results, body, needed


def test_writing(lib):
    keep = []
    names = [("@ü:b", "A\"\\\n", b'{"k":[1,"\\u0041"]}'), ("@a:b", "\0", b"{}")]
    items = [new_item(TO_DEVICE, keep, sender=b"@s:b", type=b"m.t", user_id=text(user),
                      device_id=text(device), content=content) for user, device, content in names]
    items.append(new_item(KEY_COUNTS, keep, user_id=b"@u:b", device_id=b"D", content=b'{"x":7}'))
    results, body, _ = write(lib, TRANSACTION, items, 4096)
    assert results == [OK] * 5
    wanted = [{"to_user_id": user, "to_device_id": device, "type": "m.t", "sender": "@s:b",
               "content": json.loads(content)} for user, device, content in names]
    assert json.loads(body) == {
        "events": [], "de.sorunome.msc2409.to_device": wanted,
        "org.matrix.msc3202.device_one_time_keys_count": {"@u:b": {"D": {"x": 7}}}}
    assert write(lib, TRANSACTION, items, None)[:2] == ([OK] * 5, len(body))
    assert write(lib, TRANSACTION, items, len(body))[1] == body
    stable = json.loads(write(lib, TRANSACTION, items, 4096, STABLE_KEYS)[1])
    assert set(stable) == {"events", "to_device", "device_one_time_keys_count"}
    results, shorter, needed = write(lib, TRANSACTION, items, len(body) - 1)
    assert results == [OK, OK, OK, E_FULL, OK] and needed == len(body)
    assert json.loads(shorter) == {"events": [], "de.sorunome.msc2409.to_device": wanted}
    back = read(lib, TRANSACTION, body, scratch_bytes=100)
    assert back[1] == END and [item["kind"] for item in back[0]] == [1, 1, 32]
    assert back[0][0]["content"] == names[0][2] and back[0][0]["device_id"] == b"A\"\\\n"
    bad = new_item(TO_DEVICE, keep, sender=b"s", type=b"t", user_id=b"u", device_id=b"d",
                   content=b'{}],"injected":[{}')
    assert write(lib, TRANSACTION, [bad], 4096)[0] == [OK, E_SYNTAX, E_SYNTAX]
    again = new_item(MESSAGE_ID, keep, id=b"m")
    assert write(lib, EDU, [again, items[0]], 4096)[0] == [OK] * 4
    assert write(lib, EDU, [again, again], 4096)[0][-1] == E_SECOND
    assert write(lib, TRANSACTION, [again], 4096)[0][-1] == E_KIND
    assert write(lib, EDU, [items[0]], 4096)[0][-1] == E_FIELD_MISSING


def test_results(lib):
    assert lib.result_text(OK) and lib.result_text(E_SYNTAX) != lib.result_text(E_UTF8)
    assert lib.result_text(4711) == b"unknown result"
    wanted = {OK: (b"", 200), END: (b"", 200), E_SYNTAX: (b"M_NOT_JSON", 400),
              E_UTF8: (b"M_NOT_JSON", 400), E_ROOT: (b"M_BAD_JSON", 400),
              E_NO_MESSAGES: (b"M_MISSING_PARAM", 400), E_FIELD_TYPE: (b"M_BAD_JSON", 400),
              E_NUMBER: (b"M_BAD_JSON", 400), E_TOO_LARGE: (b"M_TOO_LARGE", 413),
              E_USAGE: (b"M_UNKNOWN", 500)}
    for result, (errcode, status) in wanted.items():
        assert lib.result_errcode(result) == errcode, result
        assert lib.result_status(result) == status, result


def test_misuse(lib):
    memory, reader = lib.new(OBJECT_READER)
    assert lib.reader_init(reader, 99, ALL_KINDS, None, 0) == E_USAGE
    pointer = ctypes.POINTER(Item)()
    assert lib.reader_next(reader, ctypes.byref(pointer)) == E_USAGE
    assert lib.reader_init(reader, SYNC, ALL_KINDS, None, 0) == OK
    preset = Item(user_id=Span(ctypes.addressof(memory), 1))
    lib.reader_preset(reader, ctypes.addressof(preset))
    assert lib.reader_feed(reader, b"{}", 2, 1) == OK
    assert lib.reader_feed(reader, b"{}", 2, 1) == E_USAGE
    assert lib.reader_next(reader, ctypes.byref(pointer)) == END
    held = ctypes.create_string_buffer(b"abc")
    span = Span(ctypes.addressof(held), 3)
    assert lib.span_equal(ctypes.addressof(span), b"abc") == 1
    assert lib.span_equal(ctypes.addressof(span), b"ab") == 0
    memory, writer = lib.new(OBJECT_WRITER)
    assert lib.writer_begin(writer, JSON, 0, None, 0) == E_USAGE
    assert lib.writer_clear(writer) == E_USAGE
    assert lib.writer_begin(writer, SYNC, 0, None, 0) == OK
    assert lib.writer_reserve(writer, 100) == OK


def main():
    lib = Library(sys.argv[1])
    passed = failed = 0
    for name, test in sorted(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            said = test(lib)
            passed += 1
            if said:
                print("ctypes %s: %s" % (name, said))
        except AssertionError:
            failed += 1
            import traceback
            traceback.print_exc()
    print("bindings_ctypes: %d passed, %d failed" % (passed, failed))
    return failed != 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
