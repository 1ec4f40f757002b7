//! `interop serve PORT HS_TOKEN OUT`: an appservice around ruma-appservice-api, which writes a line
//! of JSON for each thing that it decodes. HTTP, and remembering transaction ids, is up to whoever
//! embeds ruma.
//!
//! `interop encode`: writes with ruma's encoder, to standard output, the body of a transaction that
//! holds what is in the one on standard input.

use std::{collections::HashSet, fs::File, io::Write};

use ruma_appservice_api::{HomeserverToken, event::push_events::v1};
use ruma_common::api::{IncomingRequestExt, OutgoingRequestExt, auth_scheme::AuthScheme};
use serde_json::{Value, json, value::RawValue};

type Error = Box<dyn std::error::Error>;

fn decode(request: http::Request<&[u8]>, id: &str, out: &mut File) -> Result<(), Error> {
    let transaction = v1::Request::try_from_http_request(request, &[id])?;
    let mut lines = Vec::new();
    for raw in &transaction.to_device {
        let event = raw.deserialize()?;
        lines.push(json!(["to_device", {
            "type": event.event_type().to_string(), "sender": event.sender(),
            "to_user_id": event.to_user_id, "to_device_id": event.to_device_id,
            "content": raw.get_field::<Value>("content")?,
        }]));
    }
    for raw in &transaction.events {
        let event = raw.deserialize()?;
        lines.push(json!(["events", {"type": event.event_type().to_string(),
            "sender": event.sender(), "room_id": event.room_id(), "event_id": event.event_id(),
            "content": raw.get_field::<Value>("content")?}]));
    }
    for raw in &transaction.ephemeral {
        lines.push(json!(["ephemeral", raw.deserialize()?.data()]));
    }
    if !transaction.device_lists.is_empty() {
        lines.push(json!(["device_lists", transaction.device_lists]));
    }
    for (kind, map) in [
        (
            "device_one_time_keys_count",
            json!(transaction.device_one_time_keys_count),
        ),
        (
            "device_unused_fallback_key_types",
            json!(transaction.device_unused_fallback_key_types),
        ),
    ] {
        for (user, devices) in map.as_object().unwrap() {
            for (device, value) in devices.as_object().unwrap() {
                lines.push(json!([kind, {user: {device: value}}]));
            }
        }
    }
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn serve(port: &str, token: &str, out: &str) -> Result<(), Error> {
    let mut out = File::options().append(true).create(true).open(out)?;
    let mut seen = HashSet::new();
    let server = tiny_http::Server::http(format!("127.0.0.1:{port}")).map_err(|e| e.to_string())?;
    println!("receiver: listening");
    for mut request in server.incoming_requests() {
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body)?;
        let mut http = http::Request::builder().method("PUT").uri(request.url());
        for header in request.headers() {
            http = http.header(header.field.as_str().as_str(), header.value.as_str());
        }
        let http = http.body(body.as_slice())?;
        let id = request.url().rsplit('/').next().unwrap().to_owned();
        let status = match HomeserverToken::extract_authentication(&http) {
            Ok(given) if given == token => {
                if seen.contains(&id) {
                    200
                } else if let Err(error) = decode(http, &id, &mut out) {
                    eprintln!("{error}");
                    400
                } else {
                    seen.insert(id);
                    200
                }
            }
            _ => 401,
        };
        request.respond(tiny_http::Response::from_string("{}").with_status_code(status))?;
    }
    Ok(())
}

fn encode() -> Result<(), Error> {
    let input: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_reader(std::io::stdin())?;
    let field = |name: &str| input.get(name).map_or("[]", |raw| raw.get());
    let map = |name: &str| input.get(name).map_or("{}", |raw| raw.get());
    let mut request = v1::Request::new("1".into(), serde_json::from_str(field("events"))?);
    request.to_device = serde_json::from_str(field("to_device"))?;
    request.ephemeral = serde_json::from_str(field("ephemeral"))?;
    request.device_lists = serde_json::from_str(map("device_lists"))?;
    request.device_one_time_keys_count = serde_json::from_str(map("device_one_time_keys_count"))?;
    request.device_unused_fallback_key_types =
        serde_json::from_str(map("device_unused_fallback_key_types"))?;
    let request = request.try_into_http_request::<Vec<u8>>("http://127.0.0.1", "token", ())?;
    std::io::stdout().write_all(request.body())?;
    Ok(())
}

fn main() -> Result<(), Error> {
    let words: Vec<String> = std::env::args().collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["serve", port, token, out] => serve(port, token, out),
        ["encode"] => encode(),
        _ => Err("usage: interop serve PORT HS_TOKEN OUT | encode".into()),
    }
}
