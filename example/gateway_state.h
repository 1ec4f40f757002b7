/* gateway_state.h - all that the gateway knows while it runs: its connections, the requests on
 * their way in and out, its senders. There is one, `g`; the other headers of gateway.c use it. */
#ifndef GATEWAY_STATE_H
#define GATEWAY_STATE_H

#include "gateway_config.h"
#include "gateway_resolve.h"

#include <sys/ioctl.h>

/* A span's text, for "%.*s". */
#define SPAN(span) (int)(span)->len, (span)->ptr

enum {
    IN_BYTES = 768,          /* of a head, in the connection itself */
    OUT_BYTES = 512,         /* of an answer */
    CONTENT_MAX = 65536,     /* of a message, as sent */
    SCRATCH_BYTES = CONTENT_MAX + 4096,
    STAR_BYTES = CONTENT_MAX,
    SLOT_BYTES = SCRATCH_BYTES + STAR_BYTES,
    SLOTS_MAX = CONFIG_SLOTS, /* fewer than the batches that a log can have open */
    HEADS = 16,
    EXPRESS = 2,             /* slots, and places for heads, that are for those who are ready */
    CONNECTIONS_MAX = 4000,
    PIECE_BYTES = 16384,     /* read or written at a time */
    WORK_BYTES = 163840,     /* a message twice: as the queue holds it, and as it is sent */
    PINGS = CONFIG_APPSERVICES, /* one at a time for each */
    SILENT_MS = 60000,       /* who says nothing for so long is given up */
    SYNC_MS = 300000,        /* a /sync waits no longer: its client may have gone without a word */
    CONNECT_MS = 5000,       /* an address that says nothing, when there is another one */
    RESOLVE_MS = 30000,
    ANSWER_BYTES = 1 << 20,  /* of an appservice's answer: the rest need not come */
    HALVES = 3,              /* a success that never comes to its end is believed after so many */
    SLOW_MS = 500,           /* after so long a slot, or head's place, is to be used at 1 KiB/s */
    HANGUP_MS = 1000,        /* how long a changed configuration waits for requests */
    LINGER_MS = 2000,
    PAUSE_MS = 2000,         /* a turn that takes longer was not the clients' time */
    EARLY_MS = 5000,         /* who came when there was room is not closed for another so soon */
    ACCEPT_MS = 100,         /* how long nobody is let in when there is no descriptor */
    SPARE_DESCRIPTORS = 6,   /* for what is opened for a moment: the configuration, say */
    DEVICE_BYTES = 44,       /* of the index, for each device that has waiting messages */
    PLACE_BYTES = 24,        /* of the index, for each message that can wait */
    STORE_SECTOR = 4096,     /* of a file's storage */
    BUFFER_BYTES = 262144,   /* of the store, at the most */
    MESSAGE_BYTES = 64,      /* of the store, for each message, at the least */
    EXPIRE_MS = 300000       /* how often what waits too long is looked for */
};

/* ---- what there is ---- */

enum connection_state {
    CONNECTION_FREE,
    CONNECTION_HEAD,      /* reads a head */
    CONNECTION_WAIT_HEAD, /* its head is long, and no place for that is free */
    CONNECTION_GATHER,    /* has a body, the first of which goes where the head is */
    CONNECTION_WAIT_SLOT, /* has a body to be read */
    CONNECTION_BODY,      /* reads it */
    CONNECTION_DRAIN,     /* reads on to the end of a body that nobody needs */
    CONNECTION_COMMITTED, /* will be answered after the next flush */
    CONNECTION_SYNC,      /* waits for a message */
    CONNECTION_SYNC_SLOT, /* has one, but no slot for the answer */
    CONNECTION_STATUS_SLOT,
    CONNECTION_PING,      /* waits for an appservice's answer */
    CONNECTION_WRITE,     /* writes its answer */
    CONNECTION_LINGER     /* was answered before its request had ended: reads a while, and closes */
};

enum request_kind {
    REQUEST_SEND,
    REQUEST_SYNC,
    REQUEST_DELETE,
    REQUEST_PING,
    REQUEST_STATUS,       /* from here on: of the operator */
    REQUEST_METRICS,
    REQUEST_PARKED,
    REQUEST_RETRY,
    REQUEST_DROP,
    REQUEST_SKIP
};

struct connection {
    struct http_connection http;
    uint8_t state;
    uint8_t expects, continued;        /* sends its body when it is told to continue; it was */
    uint8_t early;                     /* it came when there was room */
    uint8_t admin;                     /* it came on the operator's address */
    uint64_t after;                    /* of /parked */
    uint8_t ready;                     /* all that it waits to send has come */
    uint32_t available;                /* bytes that had come when that was looked at */
    uint32_t head_bytes;               /* of a head that waits with its body */
    int slot, head;                    /* borrowed, or -1 */
    int status;                        /* that it will be answered with */
    const char *errcode, *error;
    unsigned kind;
    uint64_t active;                   /* last read or written */
    uint64_t begun, read;              /* when the slot was taken; bytes since */
    uint64_t deadline;                 /* of a /sync, or a ping */
    uint64_t ticket;                   /* its turn for a slot, or a head's place; 0: none */
    uint64_t body_bytes;
    msc4203_request request;
    uint32_t kept;                     /* of a ping's body, in `out` */
    int device, appservice;
    int ping;                          /* that is on its way, or -1 */
    unsigned char since_bytes;
    char since[48];
    char in[IN_BYTES], out[OUT_BYTES];
};

/* What is known of the keys of a body: see gateway_keys.h. */
struct keys {
    uint64_t at;                 /* byte that is looked at next */
    unsigned depth, code;
    unsigned messages, users;    /* how many there were so far: `messages`, and users in them */
    uint8_t in_string, escape, matched, in_messages;
};

/* A body on its way in. The answer's bytes use scratch and star. */
struct slot {
    int connection;
    uint32_t batch;
    uint16_t request;            /* counts them, to tell which users this one has named */
    unsigned users;              /* which of its users `user` is, from 1 */
    struct keys keys;
    int refused;                 /* for lack of room: what follows is only counted */
    int never;                   /* and there will never be room for it */
    uint32_t devices;            /* that it has messages for */
    uint64_t bytes, channel_bytes[MSC4203_CHANNELS]; /* of its messages; of those for each */
    int starred;                 /* `star` has a content for all devices of `user` not named */
    size_t star_bytes, user_bytes, sender_bytes, type_bytes;
    msc4203_reader reader;
    char user[CONFIG_USER_MAX], sender[CONFIG_USER_MAX], type[HTTP_HEAD_MAX];
    char scratch[SCRATCH_BYTES], star[STAR_BYTES];
};

/* A request on its way out: a transaction, or a ping. */
enum outgoing_state {
    OUTGOING_CLOSED,
    OUTGOING_OPEN,       /* is connected, and has nothing to do */
    OUTGOING_RESOLVING,  /* waits for addresses */
    OUTGOING_CONNECTING, /* to one of them */
    OUTGOING_BUSY
};
struct outgoing {
    int fd, state, reused, status, have_head, keep_alive;
    int last;                    /* the connection is not to be used again: its address changed */
    uint32_t question;           /* id of the one that was asked */
    uint32_t address;            /* the next one to be tried */
    struct resolve_answer found;
    uint64_t connects;           /* since when */
    char why[120];               /* it failed */
    uint64_t began, sent, total, got;
    size_t head_bytes;
    struct http_answer answer;
    struct http_body body;
    char head[1536];
};

struct channel {
    int appservice;              /* that it belongs to now, or CONFIG_NONE */
    int started;
    msc4203_sender_config config;
    msc4203_sender sender;
    struct outgoing out;
    uint64_t next_poll;          /* not before that, unless something happened */
    struct say_trouble bad;
    char last_error[160];
    int halves;                  /* how often it was answered with success, but not to the end */
};

struct ping {
    int connection;              /* that asked for it, or -1 */
    uint64_t began;
    size_t body_bytes, answer_bytes;
    char body[512], answer[1024];
    struct outgoing out;
};

static struct gateway {
    const char *path;
    struct config configs[2], *config;
    struct config running;       /* of it counts what changes with a restart only */
    msc4203_appservice services[CONFIG_APPSERVICES];

    msc4203_file file;
    msc4203_storage storage;
    msc4203_log log;
    msc4203_queue queue;
    void *index;
    size_t index_bytes;          /* and of the store's buffer */
    int (*sync)(void *context);  /* of the file */
    dev_t store_device;          /* which file it is */
    ino_t store_inode;
    int lost;                    /* that file is not there any more as it was */
    char store_why[160];         /* it failed */
    struct say_trouble store_bad;
    int failed;                  /* the storage has */
    uint64_t reopen_at;
    msc4203_expiry expiry;
    uint64_t expire_at;
    uint32_t devices;            /* that can have waiting messages */
    int dirty;                   /* there is something to be flushed */
    int news;                    /* and senders and /syncs to be told */

    struct connection *connections;
    int connection_count, used;
    struct slot *slots;
    int slot_count, waiting;     /* waiting: how many do, for a slot or a head's place */
    int grants;                  /* it is the turn of who asks for one */
    int express;                 /* so many of the slots are for those who are ready */
    uint64_t tickets;
    char (*heads)[HTTP_HEAD_MAX];
    int head_owner[HEADS];
    struct channel channels[MSC4203_CHANNELS];
    struct ping pings[PINGS];
    struct pollfd *polls;
    int *poll_owner;
    char *work, *response, *piece;

    int listener, admin, signals[2];
    uint64_t accept_at;          /* nobody is let in before */
    struct resolver resolver;
    uint64_t now, clock;         /* milliseconds that it has run; the system's when that was told */
    uint64_t hangup;             /* since when a changed configuration waits; 0: none */
    uint64_t unmoved;            /* when to go on changing over; 0: it is done */
    int ends;
} g;

static msc4203_span span_of(const char *string)
{
    msc4203_span span;
    span.ptr = string;
    span.len = strlen(string);
    return span;
}

#endif
