// peer_simdjson.cpp - simdjson as a contestant, in three ways:
//   both      the DOM parser validates all of the body, then On-Demand reads the messages
//   walk      On-Demand alone, but it visits every value, and so validates (nearly) all
//   ondemand  On-Demand alone: it validates UTF-8, but not the grammar of what it skips
// Compiled for the machine at hand, so that On-Demand too uses the best kernel there is; parsers
// and their buffers are reused, and the body has been padded outside of the timing.
#include <simdjson.h>

#include "test/bench/job.h"

using namespace simdjson;

static dom::parser dom_parser;
static ondemand::parser parser;

static job_text text_of(std::string_view view)
{
    job_text text = {view.data(), view.size()};
    return text;
}

// Walks through a value, so that all of it is looked at.
static bool walk(ondemand::value value)
{
    ondemand::json_type type;
    if (value.type().get(type))
        return false;
    switch (type) {
    case ondemand::json_type::object: {
        ondemand::object object;
        if (value.get_object().get(object))
            return false;
        for (auto field : object) {
            ondemand::value member;
            std::string_view key;
            if (field.unescaped_key().get(key) || field.value().get(member) || !walk(member))
                return false;
        }
        return true;
    }
    case ondemand::json_type::array: {
        ondemand::array array;
        if (value.get_array().get(array))
            return false;
        for (auto each : array) {
            ondemand::value element;
            if (each.get(element) || !walk(element))
                return false;
        }
        return true;
    }
    case ondemand::json_type::string: {
        std::string_view string;
        return !value.get_string().get(string);
    }
    case ondemand::json_type::number: {
        ondemand::number number;
        return !value.get_number().get(number);
    }
    case ondemand::json_type::boolean: {
        bool boolean;
        return !value.get_bool().get(boolean);
    }
    case ondemand::json_type::null:
        return value.is_null();
    }
    return false;
}

// The four strings and the content's span of each message; in whatever order they come, but
// quickest in this one, which is that of the bodies.
template <bool walked> static int read_messages(job_reading *job, ondemand::array messages)
{
    for (auto each : messages) {
        ondemand::object message, content;
        std::string_view raw, sender, device_id, user_id, type;
        if (each.get_object().get(message) || message["content"].get_object().get(content))
            return -1;
        if (content.raw_json().get(raw))
            return -1;
        if (walked) {
            if (content.reset().error())
                return -1;
            for (auto field : content) {
                ondemand::value member;
                std::string_view key;
                if (field.unescaped_key().get(key) || field.value().get(member) || !walk(member))
                    return -1;
            }
        }
        if (message["sender"].get_string().get(sender) ||
            message["to_device_id"].get_string().get(device_id) ||
            message["to_user_id"].get_string().get(user_id) ||
            message["type"].get_string().get(type))
            return -1;
        job_message(job, text_of(sender), text_of(type), text_of(user_id), text_of(device_id),
                    text_of(raw));
    }
    return 0;
}

template <bool walked> static int read_body(job_reading *job)
{
    padded_string_view body(job->body, job->size, job->size + SIMDJSON_PADDING);
    ondemand::document document;
    ondemand::object object;
    bool found = false;
    job_begin(job);
    if (parser.iterate(body).get(document) || document.get_object().get(object))
        return -1;
    if (!walked) {
        ondemand::array messages;
        if (object["de.sorunome.msc2409.to_device"].get_array().get(messages))
            return -1;
        return read_messages<false>(job, messages);
    }
    for (auto field : object) {
        ondemand::raw_json_string key;
        ondemand::value value;
        if (field.key().get(key) || field.value().get(value))
            return -1;
        if (key.is_equal("de.sorunome.msc2409.to_device")) {
            ondemand::array messages;
            if (value.get_array().get(messages) || read_messages<true>(job, messages))
                return -1;
            found = true;
        } else if (!walk(value)) {
            return -1;
        }
    }
    // Nothing may come after the object.
    return found && document.current_location().error() == OUT_OF_BOUNDS ? 0 : -1;
}

int simdjson_both_read(job_reading *job)
{
    dom::element root;
    if (dom_parser.parse(job->body, job->size, false).get(root))
        return -1;
    return read_body<false>(job);
}

int simdjson_walk_read(job_reading *job)
{
    return read_body<true>(job);
}

int simdjson_ondemand_read(job_reading *job)
{
    return read_body<false>(job);
}

const char *simdjson_version(void)
{
    static std::string text;
    text = SIMDJSON_STRINGIFY(SIMDJSON_VERSION) " (" + get_active_implementation()->name() + ")";
    return text.c_str();
}
