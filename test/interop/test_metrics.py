"""test_metrics.py - /metrics of build/gateway, as the parser of Prometheus' own Python client reads
it: every family has a type and a help text, and nothing is said twice."""
import http.client

from prometheus_client.parser import text_string_to_metric_families

from harness import Appservice, Gateway, free_port, wait_for


def families(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/metrics")
        return {f.name: f for f in text_string_to_metric_families(
            connection.getresponse().read().decode())}
    finally:
        connection.close()


def value(found, name, **labels):
    values = [s.value for s in found[name].samples if s.labels == labels]
    assert len(values) == 1, (name, found[name].samples)
    return values[0]


def test_metrics(folder, started):
    appservice = started(Appservice(folder))
    admin = free_port()
    gateway = started(Gateway(folder, appservice.url,
                              [("@alice:gw.example", "A", "alice"),
                               ("@_irc_bob:gw.example", "B", "bob", "by irc")],
                              extra=f"admin 127.0.0.1:{admin}"))
    gateway.send("alice", "m.room.encrypted", "1", {
        "@_irc_bob:gw.example": {"B": "{}"}, "@alice:gw.example": {"A": "{}"}})
    wait_for(lambda: appservice.items("to_device"), "the message")
    wait_for(lambda: value(families(admin), "gateway_appservice_delivered", appservice="irc") == 1,
             "the acknowledgement")
    found = families(admin)
    for family in found.values():
        assert family.name.startswith("gateway_") and family.documentation, family
        assert family.type in ("counter", "gauge"), family
        assert family.samples, family
        labels = [tuple(sorted(s.labels.items())) for s in family.samples]
        assert len(labels) == len(set(labels)), family
    assert value(found, "gateway_sync_pending") == 1
    assert value(found, "gateway_appservice_pending", appservice="irc") == 0
