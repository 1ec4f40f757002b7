//! serde_json as a contestant of the benchmark: the same work as in ../job.h.
//!
//! Reading: one pass of `str::from_utf8` over the body, then strings borrowed where they have no
//! escapes, contents as `RawValue`, and the messages folded into the digests as they come, without
//! a list of them. Writing: each content validated as a `RawValue`, everything serialised into the
//! caller's buffer.

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// `job_reading` in ../job.h.
#[repr(C)]
pub struct Job {
    body: *const u8,
    size: usize,
    full: usize,
    messages: usize,
    strings: u64,
    contents: u64,
}

fn quick(bytes: &[u8]) -> u64 {
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => (bytes.len() as u64)
            .wrapping_mul(0x10001)
            .wrapping_add(u64::from(first) << 40)
            .wrapping_add(u64::from(last) << 48),
        _ => 1,
    }
}

fn full(bytes: &[u8]) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in bytes {
        digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    digest.wrapping_add(bytes.len() as u64)
}

#[derive(Clone, Copy, Default)]
struct Digests {
    messages: usize,
    strings: u64,
    contents: u64,
}

impl Digests {
    #[inline]
    fn message<const FULL: bool>(&mut self, message: &Message) {
        let one = if FULL { full } else { quick };
        let strings = one(message.sender.as_bytes())
            .wrapping_mul(3)
            .wrapping_add(one(message.kind.as_bytes()).wrapping_mul(5))
            .wrapping_add(one(message.to_user_id.as_bytes()).wrapping_mul(7))
            .wrapping_add(one(message.to_device_id.as_bytes()).wrapping_mul(11));
        let fold = |digest: u64, with: u64| {
            digest
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(with)
        };
        self.messages += 1;
        self.strings = fold(self.strings, strings);
        self.contents = fold(self.contents, one(message.content.get().as_bytes()));
    }
}

#[derive(serde::Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    sender: Cow<'a, str>,
    #[serde(borrow)]
    to_device_id: Cow<'a, str>,
    #[serde(borrow)]
    to_user_id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

struct Messages<const FULL: bool>(Digests);

impl<'de, const FULL: bool> Deserialize<'de> for Messages<FULL> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fold<const FULL: bool>;
        impl<'de, const FULL: bool> Visitor<'de> for Fold<FULL> {
            type Value = Messages<FULL>;
            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("a list of messages")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut digests = Digests::default();
                while let Some(message) = seq.next_element::<Message>()? {
                    digests.message::<FULL>(&message);
                }
                Ok(Messages(digests))
            }
        }
        deserializer.deserialize_seq(Fold::<FULL>)
    }
}

#[derive(serde::Deserialize)]
struct Body<const FULL: bool> {
    #[serde(rename = "de.sorunome.msc2409.to_device")]
    to_device: Messages<FULL>,
    #[serde(rename = "events")]
    _events: IgnoredAny,
}

fn read<const FULL: bool>(bytes: &[u8]) -> Option<Digests> {
    let text = std::str::from_utf8(bytes).ok()?;
    let body: Body<FULL> = serde_json::from_str(text).ok()?;
    Some(body.to_device.0)
}

/// # Safety
/// `job` points to a job whose body has `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn serde_read(job: *mut Job) -> i32 {
    let job = &mut *job;
    let bytes = std::slice::from_raw_parts(job.body, job.size);
    let digests = if job.full != 0 {
        read::<true>(bytes)
    } else {
        read::<false>(bytes)
    };
    let Some(digests) = digests else { return -1 };
    job.messages = digests.messages;
    job.strings = digests.strings;
    job.contents = digests.contents;
    0
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    ptr: *const u8,
    len: usize,
}

impl Text {
    fn bytes(&self) -> &[u8] {
        if self.ptr.is_null() {
            return &[];
        }
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
    fn str<E: serde::ser::Error>(&self) -> Result<&str, E> {
        std::str::from_utf8(self.bytes()).map_err(E::custom)
    }
    /// Validates, without copying: grammar and UTF-8.
    fn json<E: serde::ser::Error>(&self) -> Result<&RawValue, E> {
        let text = std::str::from_utf8(self.bytes()).map_err(E::custom)?;
        serde_json::from_str(text).map_err(E::custom)
    }
}

/// `job_item` in ../job.h.
#[repr(C)]
pub struct Item {
    section: usize,
    sender: Text,
    kind: Text,
    user_id: Text,
    device_id: Text,
    content: Text,
}

const TO_DEVICE: usize = 0;
const EVENT: usize = 1;
const EPHEMERAL: usize = 2;
const CHANGED: usize = 3;
const COUNTS: usize = 4;
const FALLBACK: usize = 5;

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        match self.section {
            TO_DEVICE => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("content", self.content.json()?)?;
                map.serialize_entry("sender", self.sender.str()?)?;
                map.serialize_entry("to_device_id", self.device_id.str()?)?;
                map.serialize_entry("to_user_id", self.user_id.str()?)?;
                map.serialize_entry("type", self.kind.str()?)?;
                map.end()
            }
            CHANGED => serializer.serialize_str(self.user_id.str()?),
            _ => self
                .content
                .json::<S::Error>()
                .map_err(S::Error::custom)?
                .serialize(serializer),
        }
    }
}

/// The items of a section that is a list.
struct List<'a>(&'a [Item]);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        for item in self.0 {
            seq.serialize_element(item)?;
        }
        seq.end()
    }
}

/// `device_lists`.
struct Changed<'a>(&'a [Item]);

impl Serialize for Changed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("changed", &List(self.0))?;
        map.end()
    }
}

/// The items of a section that is an object of users: here each has one device.
struct Users<'a>(&'a [Item]);
struct Device<'a>(&'a Item);

impl Serialize for Users<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for item in self.0 {
            map.serialize_entry(item.user_id.str::<S::Error>()?, &Device(item))?;
        }
        map.end()
    }
}

impl Serialize for Device<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.0.device_id.str::<S::Error>()?, self.0)?;
        map.end()
    }
}

struct Transaction<'a>(&'a [Item]);

impl Serialize for Transaction<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut rest = self.0;
        let mut events = false;
        while let Some(first) = rest.first() {
            let count = rest
                .iter()
                .take_while(|item| item.section == first.section)
                .count();
            let (items, others) = rest.split_at(count);
            rest = others;
            events |= first.section == EVENT;
            match first.section {
                TO_DEVICE => map.serialize_entry("de.sorunome.msc2409.to_device", &List(items))?,
                EVENT => map.serialize_entry("events", &List(items))?,
                EPHEMERAL => map.serialize_entry("ephemeral", &List(items))?,
                CHANGED => {
                    map.serialize_entry("org.matrix.msc3202.device_lists", &Changed(items))?
                }
                COUNTS => map.serialize_entry(
                    "org.matrix.msc3202.device_one_time_keys_count",
                    &Users(items),
                )?,
                FALLBACK => map.serialize_entry(
                    "org.matrix.msc3202.device_unused_fallback_key_types",
                    &Users(items),
                )?,
                _ => return Err(serde::ser::Error::custom("section")),
            }
        }
        if !events {
            map.serialize_entry("events", &List(&[]))?;
        }
        map.end()
    }
}

/// # Safety
/// `items` points to `count` items, `output` to `capacity` bytes.
#[no_mangle]
pub unsafe extern "C" fn serde_write(
    items: *const Item,
    count: usize,
    output: *mut u8,
    capacity: usize,
) -> std::os::raw::c_long {
    let items = std::slice::from_raw_parts(items, count);
    let mut rest: &mut [u8] = std::slice::from_raw_parts_mut(output, capacity);
    match serde_json::to_writer(&mut rest, &Transaction(items)) {
        Ok(()) => (capacity - rest.len()) as std::os::raw::c_long,
        Err(_) => -1,
    }
}
