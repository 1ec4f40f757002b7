// The library called from Go without cgo: no C compiler, no header. What a binding needs is below:
// the values that the header states for its enums, and the fields of msc4203_item. Everything else
// is memory of a size that the library tells. What it reads is compared with what encoding/json
// finds.
//
//	test_go build/bindings/libmsc4203.so     in the project's root
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

const (
	transaction, send, edu, sync = 0, 1, 2, 3

	toDevice, event, ephemeral, deviceChanged, deviceLeft = 1, 2, 4, 8, 16
	keyCounts, fallbackTypes, messageID, allKinds         = 32, 64, 128, 511

	hugeNumber = 2

	resultOK, resultItem, resultMore, resultEnd = 0, 1, 2, 3
	eSyntax, eUTF8, eTruncated, eRoot           = -1, -2, -3, -4
	eFieldMissing, eFieldType, eNumber          = -20, -21, -25
	eTooLarge, eFull, eSecond, eUsage           = -26, -40, -43, -60

	objectItem, objectReader, objectWriter = 0, 1, 3
)

type pointer = unsafe.Pointer

type span struct {
	ptr pointer
	len uintptr
}

type item struct {
	kind, error                                   int32
	flags, index                                  uint32
	offset                                        uint64
	sender, typ, userID, deviceID, content, ident span
}

var (
	itemError     func(*item) int32
	resultText    func(int32) string
	resultErrcode func(int32) string
	resultStatus  func(int32) int32
	version       func() uint32
	readerInit    func(reader pointer, shape int32, kinds uint32, scratch pointer, n uintptr) int32
	readerFeed    func(reader pointer, data pointer, n uintptr, last int32) int32
	readerNext    func(reader pointer, found *pointer) int32
	readerOffset  func(reader pointer) uint64
	writerBegin   func(writer pointer, shape int32, flags uint32, buffer pointer, n uintptr) int32
	writerItem    func(writer pointer, it *item) int32
	writerEnd     func(writer pointer, n *uintptr) int32
	writerNeeded  func(writer pointer) uintptr
	sizeOf        func(object int32) uintptr
	alignOf       func(object int32) uintptr
)

func load(path string) error {
	library, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return err
	}
	for name, function := range map[string]interface{}{
		"item_error": &itemError, "result_text": &resultText, "result_errcode": &resultErrcode,
		"result_status": &resultStatus, "version": &version, "reader_init": &readerInit,
		"reader_feed": &readerFeed, "reader_next": &readerNext, "reader_offset": &readerOffset,
		"writer_begin": &writerBegin, "writer_item": &writerItem, "writer_end": &writerEnd,
		"writer_needed": &writerNeeded, "sizeof": &sizeOf, "alignof": &alignOf,
	} {
		purego.RegisterLibFunc(function, library, "msc4203_"+name)
	}
	return nil
}

var passed, failed int

func check(ok bool, format string, arguments ...interface{}) {
	if ok {
		passed++
		return
	}
	failed++
	_, _, line, _ := runtime.Caller(1)
	fmt.Printf("main.go:%d: failed: %s\n", line, fmt.Sprintf(format, arguments...))
}

// The library keeps pointers into this memory, which Go's collector does not see but does not move
// either: whoever calls keeps the slice alive (runtime.KeepAlive). Words, so that it is aligned.
func allocate(bytes uintptr) ([]uint64, pointer) {
	memory := make([]uint64, bytes/8+1)
	return memory, pointer(&memory[0])
}

func (s span) bytes() []byte {
	if s.ptr == nil {
		return nil
	}
	return append([]byte{}, unsafe.Slice((*byte)(s.ptr), s.len)...)
}

// What an item says, outliving the next call.
type copied struct {
	Kind, Error                                    int32
	Flags, Index                                   uint32
	Offset                                         uint64
	Sender, Type, UserID, DeviceID, Content, Ident []byte
}

func (it *item) copy() copied {
	return copied{it.kind, it.error, it.flags, it.index, it.offset, it.sender.bytes(),
		it.typ.bytes(), it.userID.bytes(), it.deviceID.bytes(), it.content.bytes(),
		it.ident.bytes()}
}

type reading struct {
	Items  []copied
	Result int32
	Offset uint64
}

// Reads a body in pieces of `chunk` bytes.
func read(shape int32, body []byte, chunk, scratchBytes int) reading {
	var out reading
	var found pointer
	memory, reader := allocate(sizeOf(objectReader))
	scratch, scratchAt := allocate(uintptr(scratchBytes))
	check(readerInit(reader, shape, allKinds, scratchAt, uintptr(scratchBytes)) == resultOK, "init")
	out.Result = resultMore
	for at := 0; out.Result == resultMore; {
		n := len(body) - at
		if n > chunk {
			n = chunk
		}
		piece := append(make([]byte, 0, n+1), body[at:at+n]...)
		at += n
		last := int32(0)
		if at == len(body) {
			last = 1
		}
		fed := readerFeed(reader, pointer(&piece[:1][0]), uintptr(n), last)
		if fed != resultOK {
			check(false, "feed: %d", fed)
			break
		}
		for out.Result = readerNext(reader, &found); out.Result == resultItem; {
			out.Items = append(out.Items, (*item)(found).copy())
			out.Result = readerNext(reader, &found)
		}
		runtime.KeepAlive(piece)
	}
	out.Offset = readerOffset(reader)
	runtime.KeepAlive(memory)
	runtime.KeepAlive(scratch)
	return out
}

// The transaction as encoding/json finds it. Its objects lose their order; users and devices are
// looked up, not counted on to come in order.
type devices map[string]map[string]json.RawMessage

type message struct {
	Sender   string          `json:"sender"`
	Type     string          `json:"type"`
	UserID   string          `json:"to_user_id"`
	DeviceID string          `json:"to_device_id"`
	Content  json.RawMessage `json:"content"`
}

type lists struct {
	Changed []string `json:"changed"`
	Left    []string `json:"left"`
}

type body struct {
	Events     []json.RawMessage `json:"events"`
	ToDevice   []message         `json:"de.sorunome.msc2409.to_device"`
	ToDevice2  []message         `json:"to_device"`
	Ephemeral  []json.RawMessage `json:"ephemeral"`
	Ephemeral2 []json.RawMessage `json:"de.sorunome.msc2409.ephemeral"`
	Lists      lists             `json:"org.matrix.msc3202.device_lists"`
	Counts     devices           `json:"org.matrix.msc3202.device_one_time_keys_count"`
	Counts2    devices           `json:"org.matrix.msc3202.device_one_time_key_counts"`
	Types      devices           `json:"org.matrix.msc3202.device_unused_fallback_key_types"`
}

func (b *body) settle() {
	if len(b.ToDevice) == 0 {
		b.ToDevice = b.ToDevice2
	}
	if len(b.Ephemeral) == 0 {
		b.Ephemeral = b.Ephemeral2
	}
	if len(b.Counts) == 0 {
		b.Counts = b.Counts2
	}
}

// Takes the first of a list's raw values; tells whether it is this one.
func takeRaw(from *[]json.RawMessage, content []byte) bool {
	if len(*from) == 0 || !bytes.Equal((*from)[0], content) {
		return false
	}
	*from = (*from)[1:]
	return true
}

func takeString(from *[]string, found []byte) bool {
	if len(*from) == 0 || (*from)[0] != string(found) {
		return false
	}
	*from = (*from)[1:]
	return true
}

func takeDevice(from devices, it copied) bool {
	content, ok := from[string(it.UserID)][string(it.DeviceID)]
	delete(from[string(it.UserID)], string(it.DeviceID))
	if len(from[string(it.UserID)]) == 0 {
		delete(from, string(it.UserID))
	}
	return ok && bytes.Equal(content, it.Content)
}

// Takes what an item says out of the body; tells whether it was there.
func (b *body) take(it copied) bool {
	switch it.Kind {
	case toDevice:
		if len(b.ToDevice) == 0 {
			return false
		}
		m := b.ToDevice[0]
		b.ToDevice = b.ToDevice[1:]
		return m.Sender == string(it.Sender) && m.Type == string(it.Type) &&
			m.UserID == string(it.UserID) && m.DeviceID == string(it.DeviceID) &&
			bytes.Equal(m.Content, it.Content)
	case event:
		return takeRaw(&b.Events, it.Content)
	case ephemeral:
		return takeRaw(&b.Ephemeral, it.Content)
	case deviceChanged:
		return takeString(&b.Lists.Changed, it.UserID)
	case deviceLeft:
		return takeString(&b.Lists.Left, it.UserID)
	case keyCounts:
		return takeDevice(b.Counts, it)
	case fallbackTypes:
		return takeDevice(b.Types, it)
	}
	return false
}

func (b *body) left() int {
	return len(b.ToDevice) + len(b.Events) + len(b.Ephemeral) + len(b.Lists.Changed) +
		len(b.Lists.Left) + len(b.Counts) + len(b.Types)
}

func testTransactions() {
	paths, _ := filepath.Glob("test/data/synapse/transactions/*.json")
	check(len(paths) > 50, "%d bodies", len(paths))
	items := 0
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		check(err == nil, "%v", err)
		whole := read(transaction, raw, len(raw), 4096)
		pieces := read(transaction, raw, 64, len(raw))
		check(reflect.DeepEqual(whole, pieces), "%s: in pieces", path)
		check(whole.Result == resultEnd && whole.Offset == uint64(len(raw)), "%s", path)
		var other body
		err = json.Unmarshal(raw, &other)
		check(err == nil, "%v", err)
		other.settle()
		for _, it := range whole.Items {
			check(it.Error == resultOK && other.take(it), "%s: item at %d", path, it.Offset)
			items++
		}
		check(other.left() == 0, "%s: %d items were not read", path, other.left())
	}
	check(items > 100, "%d items", items)
	fmt.Printf("go: %d items of %d bodies\n", items, len(paths))
}

func testSizes() {
	check(unsafe.Sizeof(item{}) == sizeOf(objectItem), "size of an item")
	check(unsafe.Alignof(item{}) == alignOf(objectItem), "alignment of an item")
	check(sizeOf(objectReader) > 0 && alignOf(objectReader) <= 8, "reader")
	check(sizeOf(objectWriter) > 0 && alignOf(objectWriter) <= 8, "writer")
	check(sizeOf(4711) == 0 && alignOf(-1) == 0, "what there is not")
	check(version() >= 1000, "version %d", version())
}

func testBroken() {
	for _, c := range []struct {
		shape  int32
		text   string
		result int32
		offset uint64
	}{
		{transaction, `{"events":[],}`, eSyntax, 13},
		{transaction, "{\"events\":\"\xff\"}", eUTF8, 11},
		{transaction, `{"events":[`, eTruncated, 11},
		{edu, `[]`, eRoot, 0},
	} {
		for _, chunk := range []int{1, 64} {
			r := read(c.shape, []byte(c.text), chunk, 100)
			check(r.Result == c.result && r.Offset == c.offset, "%s: %d", c.text, r.Result)
		}
	}
	r := read(send, []byte(`{"messages":{"@u:b":{"D":{"n":1e400},"E":[],"F":{}}}}`), 100, 0)
	check(r.Result == resultEnd && len(r.Items) == 3, "%d items", len(r.Items))
	check(r.Items[0].Flags == hugeNumber && r.Items[1].Error == eFieldType, "%v", r.Items)
	check(itemError(&item{kind: toDevice, flags: hugeNumber}) == eNumber, "a flag as an error")
}

// A span of a string; `keep` holds it.
func spanOf(keep *[][]byte, text string) span {
	held := append([]byte(text), 0)
	*keep = append(*keep, held)
	return span{pointer(&held[0]), uintptr(len(text))}
}

// Writes items, then ends the body; returns the results, the body, and the capacity needed.
func write(shape int32, items []item, capacity uintptr) ([]int32, []byte, uintptr) {
	memory, writer := allocate(sizeOf(objectWriter))
	buffer := make([]byte, capacity+1)
	var n uintptr
	results := []int32{writerBegin(writer, shape, 0, pointer(&buffer[0]), capacity)}
	for i := range items {
		results = append(results, writerItem(writer, &items[i]))
	}
	results = append(results, writerEnd(writer, &n))
	needed := writerNeeded(writer)
	runtime.KeepAlive(memory)
	return results, buffer[:n], needed
}

func testWriting() {
	var keep [][]byte
	s := func(text string) span { return spanOf(&keep, text) }
	items := []item{
		{kind: toDevice, sender: s("@s:b"), typ: s("m.t"), userID: s("@ü:b"), deviceID: s("A\"\n"),
			content: s(`{"k":[1,"\u0041"]}`)},
		{kind: toDevice, sender: s("@s:b"), typ: s(""), userID: s("@a:b"), deviceID: s("\x00"),
			content: s(`{}`)},
		{kind: keyCounts, userID: s("@u:b"), deviceID: s("D"), content: s(`{"x":7}`)},
	}
	results, text, _ := write(transaction, items, 4096)
	check(reflect.DeepEqual(results, []int32{0, 0, 0, 0, 0}), "%v", results)
	var found body
	check(json.Unmarshal(text, &found) == nil, "%s", text)
	for i := range items {
		check(found.take(items[i].copy()), "%s: item %d", text, i)
	}
	check(found.left() == 0, "%s", text)
	results, shorter, needed := write(transaction, items, uintptr(len(text)-1))
	check(results[3] == eFull && results[4] == resultOK, "%v", results)
	check(needed == uintptr(len(text)), "%d for %d", needed, len(text))
	check(json.Valid(shorter) && len(shorter) < len(text), "%s", shorter)
	items[0].content = s(`{}],"injected":[{}`)
	results, _, _ = write(transaction, items[:1], 4096)
	check(results[1] == eSyntax && results[2] == eSyntax, "%v", results)
	id := item{kind: messageID, ident: s("m")}
	results, _, _ = write(edu, []item{id, id}, 4096)
	check(results[1] == resultOK && results[3] == eSecond, "%v", results)
	results, _, _ = write(sync, nil, 4096)
	check(results[1] == eFieldMissing, "%v", results)
	runtime.KeepAlive(keep)
}

func testResults() {
	for result, wanted := range map[int32]string{
		resultOK: " 200", eSyntax: "M_NOT_JSON 400", eFieldType: "M_BAD_JSON 400",
		eTooLarge: "M_TOO_LARGE 413", eUsage: "M_UNKNOWN 500",
	} {
		said := fmt.Sprintf("%s %d", resultErrcode(result), resultStatus(result))
		check(said == wanted, "%d: %s", result, said)
		check(resultText(result) != "" && resultText(result) != resultText(4711), "%d", result)
	}
}

func main() {
	if err := load(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	testSizes()
	testTransactions()
	testBroken()
	testWriting()
	testResults()
	fmt.Printf("bindings_go: %d passed, %d failed\n", passed, failed)
	if failed != 0 || passed == 0 {
		os.Exit(1)
	}
}
