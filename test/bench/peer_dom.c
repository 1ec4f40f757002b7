/* peer_dom.c - cJSON and jansson as contestants. Both make a tree of the whole body and lose the
 * spans of the contents; cJSON does not look at UTF-8. */
#include <cjson/cJSON.h>
#include <jansson.h>

#include "test/bench/job.h"

static const job_text nothing = {NULL, 0};

static job_text text_of(const char *string)
{
    job_text text;
    text.ptr = string ? string : "";
    text.len = strlen(text.ptr);
    return text;
}

static job_text member(const cJSON *object, const char *key)
{
    return text_of(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key)));
}

int cjson_read(job_reading *job)
{
    cJSON *root = cJSON_ParseWithLengthOpts(job->body, job->size + 1, NULL, 1);
    const cJSON *message;
    job_begin(job);
    if (!root)
        return -1;
    cJSON_ArrayForEach(message,
                       cJSON_GetObjectItemCaseSensitive(root, "de.sorunome.msc2409.to_device"))
    {
        if (!cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(message, "content"))) {
            cJSON_Delete(root);
            return -1;
        }
        job_message(job, member(message, "sender"), member(message, "type"),
                    member(message, "to_user_id"), member(message, "to_device_id"), nothing);
    }
    cJSON_Delete(root);
    return 0;
}

static job_text string_at(const json_t *object, const char *key)
{
    const json_t *string = json_object_get(object, key);
    job_text text;
    text.ptr = json_string_value(string);
    text.len = json_string_length(string);
    return text;
}

int jansson_read(job_reading *job)
{
    json_t *root = json_loadb(job->body, job->size, JSON_ALLOW_NUL, NULL);
    const json_t *messages, *message;
    size_t i;
    job_begin(job);
    if (!root)
        return -1;
    messages = json_object_get(root, "de.sorunome.msc2409.to_device");
    json_array_foreach(messages, i, message)
    {
        if (!json_is_object(json_object_get(message, "content"))) {
            json_decref(root);
            return -1;
        }
        job_message(job, string_at(message, "sender"), string_at(message, "type"),
                    string_at(message, "to_user_id"), string_at(message, "to_device_id"), nothing);
    }
    json_decref(root);
    return 0;
}

const char *cjson_version(void)
{
    return cJSON_Version();
}

const char *jansson_version(void)
{
    return jansson_version_str();
}
