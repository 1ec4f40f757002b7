"""samples.py - contents that are hard to get through unharmed, and real ones."""
import json
import re

from harness import ROOT

# JSON text, as a client writes it: escapes and numbers keep their spelling.
CONTENTS = {
    "empty": "{}",
    "escapes": r'{"a":"\"\\\/\b\f\n\r\t\u0000\u001f\u007f\u00e9\ud83c\udf89",'
               r'"\u006bey\n":"\\u0041"}',
    "unicode": '{"\u043a\u043b\u044e\u0447":"\u00fc\u03bb\u4e2d\U0001f389\u2028\u200f\x7f","":""}',
    "numbers": '{"n":[0,-0.0,1e-7,1E+21,9007199254740993,12345678901234567890,1.5e300,-17]}',
    "values": '{"a":[true,false,null,[],{},[[]],""],"type":"x","content":{"to_user_id":"@y"}}',
    "spaces": '{ "a" :\t[ 1 , 2 ] }',
    "nested": '{"a":' * 90 + "{}" + "}" * 90,
    "html": '{"<script>":"&amp;</script>"}',
}


def captured():
    """(type, content) of messages captured from Synapse: Olm, key requests, verification, custom
    ones; see test/data/synapse/transactions/index.md. Not the deepest and the largest ones."""
    found = []
    for path in sorted((ROOT / "test/data/synapse/transactions").glob("0??-td-*.json")):
        for m in json.loads(path.read_bytes()).get("de.sorunome.msc2409.to_device", []):
            message = (m["type"], m["content"])
            if m["type"] and not re.search("nest|size", path.name) and message not in found:
                found.append(message)
    assert len(found) > 15
    return found
