// peer_rapidjson.cpp - RapidJSON's SAX reader and writer as a contestant. It validates UTF-8, does
// not convert numbers, and reuses its buffers.
#define RAPIDJSON_SSE2
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>
#include <rapidjson/writer.h>

#include <string>

#include "test/bench/job.h"

using namespace rapidjson;

static const unsigned flags = kParseValidateEncodingFlag | kParseNumbersAsStringsFlag;

namespace
{

// Takes the messages out of a body: they are at level 3, in a list at level 2, in the root object.
struct Messages : BaseReaderHandler<UTF8<>, Messages> {
    enum Field { none, sender, type, user_id, device_id, content };
    job_reading *into;
    const StringStream *stream;
    int level = 0;
    bool in_list = false;
    Field field = none;
    size_t content_from = 0, content_to = 0;
    std::string strings[4];

    bool is(const char *key, SizeType length, const char *name)
    {
        return strlen(name) == length && memcmp(key, name, length) == 0;
    }
    bool Key(const char *key, SizeType length, bool)
    {
        if (level == 1)
            in_list = is(key, length, "de.sorunome.msc2409.to_device");
        if (level == 3 && in_list) {
            field = is(key, length, "content")        ? content
                    : is(key, length, "sender")       ? sender
                    : is(key, length, "type")         ? type
                    : is(key, length, "to_user_id")   ? user_id
                    : is(key, length, "to_device_id") ? device_id
                                                      : none;
        }
        return true;
    }
    bool String(const char *string, SizeType length, bool)
    {
        if (level == 3 && field != none && field != content) {
            strings[field - sender].assign(string, length);
            field = none;
        }
        return true;
    }
    bool StartObject()
    {
        if (level == 3 && field == content)
            content_from = stream->Tell() - 1;
        level++;
        return true;
    }
    bool EndObject(SizeType)
    {
        level--;
        if (level == 3 && field == content) {
            content_to = stream->Tell();
            field = none;
        }
        if (level == 2 && in_list)
            message();
        return true;
    }
    bool StartArray()
    {
        level++;
        return true;
    }
    bool EndArray(SizeType)
    {
        level--;
        return true;
    }
    void message()
    {
        job_text text[4], raw = {into->body + content_from, content_to - content_from};
        for (int i = 0; i < 4; i++) {
            text[i].ptr = strings[i].data();
            text[i].len = strings[i].size();
        }
        job_message(into, text[0], text[1], text[2], text[3], raw);
    }
};

// A buffer that is large enough.
struct Output {
    typedef char Ch;
    char *next;
    void Put(char c)
    {
        *next++ = c;
    }
    void Flush()
    {
    }
};

typedef Writer<Output> Json;

} // namespace

static Reader reader;

int rapidjson_read(job_reading *job)
{
    static Messages messages;
    StringStream stream(job->body);
    job_begin(job);
    messages.into = job;
    messages.stream = &stream;
    messages.level = 0;
    return reader.Parse<flags>(stream, messages) ? 0 : -1;
}

static bool write_content(Json &json, Output &output, job_text content)
{
    BaseReaderHandler<> nothing;
    MemoryStream stream(content.ptr, content.len);
    if (!reader.Parse<flags>(stream, nothing))
        return false;
    json.RawValue("", 0, kObjectType); // what comes between values; RawValue() copies bytes singly
    memcpy(output.next, content.ptr, content.len);
    output.next += content.len;
    return true;
}

static void write_string(Json &json, const char *key, job_text text)
{
    json.Key(key);
    json.String(text.ptr, SizeType(text.len));
}

static bool write_item(Json &json, Output &output, const job_item &item)
{
    switch (item.section) {
    case JOB_TO_DEVICE:
        json.StartObject();
        json.Key("content");
        if (!write_content(json, output, item.content))
            return false;
        write_string(json, "sender", item.sender);
        write_string(json, "to_device_id", item.device_id);
        write_string(json, "to_user_id", item.user_id);
        write_string(json, "type", item.type);
        return json.EndObject();
    case JOB_CHANGED:
        return json.String(item.user_id.ptr, SizeType(item.user_id.len));
    case JOB_EVENT:
    case JOB_EPHEMERAL:
        return write_content(json, output, item.content);
    default: // here each user has one device
        json.Key(item.user_id.ptr, SizeType(item.user_id.len));
        json.StartObject();
        json.Key(item.device_id.ptr, SizeType(item.device_id.len));
        return write_content(json, output, item.content) && json.EndObject();
    }
}

long rapidjson_write(const job_item *items, size_t count, char *buffer, size_t)
{
    static const char *const keys[JOB_SECTIONS] = {
        "de.sorunome.msc2409.to_device",
        "events",
        "ephemeral",
        "org.matrix.msc3202.device_lists",
        "org.matrix.msc3202.device_one_time_keys_count",
        "org.matrix.msc3202.device_unused_fallback_key_types"};
    Output output = {buffer};
    Json json(output);
    bool events = false;
    json.StartObject();
    for (size_t i = 0; i < count;) {
        size_t section = items[i].section;
        bool object = section >= JOB_CHANGED;
        events |= section == JOB_EVENT;
        json.Key(keys[section]);
        if (object)
            json.StartObject();
        if (section == JOB_CHANGED)
            json.Key("changed");
        if (section <= JOB_CHANGED)
            json.StartArray();
        for (; i < count && items[i].section == section; i++)
            if (!write_item(json, output, items[i]))
                return -1;
        if (section <= JOB_CHANGED)
            json.EndArray();
        if (object)
            json.EndObject();
    }
    if (!events) {
        json.Key("events");
        json.StartArray();
        json.EndArray();
    }
    json.EndObject();
    return long(output.next - buffer);
}

const char *rapidjson_version(void)
{
    return RAPIDJSON_VERSION_STRING;
}
