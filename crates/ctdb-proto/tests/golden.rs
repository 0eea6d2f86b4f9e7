//! Packets recorded from the original: each must decode to its fields, and encode to its bytes.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod view;

use std::net::IpAddr;

use bytes::Bytes;
use ctdb_proto::{
    Body, FrameReader, HEADER_LEN, Header, Message, Opcode, Packet, Padding, RecBuffer, RecData,
    Reply, ReqControl, ReqMessage, Request, Transport, Wire, decode_exact,
};
use serde_json::{Value, json};
use view::{View, hex};

/// One line of the file.
struct Golden {
    line: Value,
    bytes: Bytes,
}

impl Golden {
    fn all() -> Vec<Self> {
        let text = include_str!("golden/wire.jsonl");
        let all: Vec<Self> = text.lines().map(Self::parse).collect();
        assert_eq!(all.len(), 910, "lines in the file");
        all
    }

    fn parse(line: &str) -> Self {
        let line: Value = serde_json::from_str(line).unwrap();
        let bytes = unhex(line["hex"].as_str().unwrap()).into();
        Self { line, bytes }
    }

    fn text(&self, key: &str) -> &str {
        self.line[key].as_str().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.text("name")
    }

    fn is_malformed(&self) -> bool {
        self.line["malformed"] == true
    }

    /// A control sent without the argument it needs, to see what the daemon says: -1.
    fn lacks_argument(&self) -> bool {
        ["unix.client.REQ_CONTROL.DB_ATTACH.1"].contains(&self.name())
    }

    fn is_canonical(&self) -> bool {
        self.line["canonical"] == true
    }

    fn request_opcode(&self) -> Opcode {
        Opcode(u32::try_from(self.line["request_opcode"].as_u64().unwrap()).unwrap())
    }

    /// The habit of whoever sent it. Samba and packets made by hand are not padded at all.
    fn padding(&self) -> Padding {
        match self.text("from") {
            "client" if self.bytes.len().is_multiple_of(8) => Padding::Client,
            "client" => Padding::Exact,
            _ => Padding::Daemon,
        }
    }

    /// The packet, by way of the splitter.
    fn decode(&self) -> Packet {
        let transport = match self.text("transport") {
            "tcp" => Transport::Tcp,
            _ => Transport::Unix,
        };
        let mut frames = FrameReader::new(transport);
        frames.push(&self.bytes);
        let frame = frames.next_frame().unwrap().expect("a whole packet");
        assert!(!frames.is_mid_packet(), "{}", self.name());
        Packet::decode(frame).unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    /// What the file says the packet says, without what decoders leave out on purpose: garbage in
    /// padding, in unused parts of addresses, and pointers.
    fn expected(&self) -> Value {
        let mut fields = self.line["fields"].clone();
        respell_addresses(&mut fields);
        if !self.is_canonical() {
            remove_garbage(&mut fields);
        }
        fields
    }
}

/// The file spells `::ffff:10.21.0.1` as `::ffff:a15:1`; it is the same address.
fn respell_addresses(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(addr)) = map.get_mut("addr") {
                *addr = addr.parse::<IpAddr>().unwrap().to_string();
            }
            map.values_mut().for_each(respell_addresses);
        }
        Value::Array(list) => list.iter_mut().for_each(respell_addresses),
        _ => {}
    }
}

fn remove_garbage(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !key.starts_with("_pad") && key != "rest");
            if let Some(pointer) = map.get_mut("ptr") {
                *pointer = json!(0);
            }
            map.values_mut().for_each(remove_garbage);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_garbage),
        _ => {}
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

#[test]
fn every_packet_says_what_the_file_says() {
    for golden in Golden::all() {
        let packet = golden.decode();
        let mut fields = view::body(&packet.body);
        fields["header"] = header(&golden);
        let unpadded = packet.encode(Padding::Exact).len();
        fields["trailing_len"] = json!(golden.bytes.len() - unpadded);
        add_payload(&golden, &packet.body, &mut fields);
        assert_eq!(fields, golden.expected(), "{}", golden.name());
    }
}

fn header(golden: &Golden) -> Value {
    let peek = Header::peek(&golden.bytes[..HEADER_LEN]).unwrap();
    json!({
        "length": peek.length,
        // Header::peek accepts no others.
        "magic": 0x4354_4442,
        "version": 1,
        "generation": peek.header.generation.get(),
        "operation": peek.operation,
        "destnode": peek.header.dest,
        "srcnode": peek.header.src,
        "reqid": peek.header.reqid.get(),
    })
}

/// The payload as the file has it: decoded, or raw where it is malformed or nobody's.
fn add_payload(golden: &Golden, body: &Body, fields: &mut Value) {
    match body {
        Body::ReqControl(control) => add_request(golden, control, fields),
        Body::ReplyControl(reply) => {
            let opcode = golden.request_opcode();
            assert_eq!(
                golden.text("control"),
                control_name(opcode),
                "{}",
                golden.name()
            );
            let reply = Reply::from_control(opcode, reply)
                .unwrap_or_else(|error| panic!("{}: {error}", golden.name()));
            fields["payload"] = reply.view();
        }
        Body::ReqMessage(message) => add_message(golden, message, fields),
        _ => {}
    }
}

fn add_request(golden: &Golden, control: &ReqControl, fields: &mut Value) {
    assert_eq!(
        golden.text("control"),
        control_name(control.opcode),
        "{}",
        golden.name()
    );
    fields["pad"] = json!(u32::decode(&mut &golden.bytes[36..40]).unwrap());
    let request = Request::from_control(control);
    if golden.is_malformed() {
        request.expect_err(golden.name());
        fields["data"] = hex(&control.data);
        fields["malformed"] = json!(true);
    } else if golden.lacks_argument() {
        request.expect_err(golden.name());
        fields["payload"] = json!({ "name": null });
    } else if Opcode::served()
        .iter()
        .any(|(opcode, _)| *opcode == control.opcode)
    {
        let request = request.unwrap_or_else(|error| panic!("{}: {error}", golden.name()));
        fields["payload"] = request.view();
    } else {
        request.expect_err(golden.name());
        fields["payload"] = Value::Null;
    }
}

fn control_name(opcode: Opcode) -> String {
    opcode
        .name()
        .map_or_else(|| format!("UNKNOWN_{}", opcode.get()), str::to_owned)
}

fn add_message(golden: &Golden, message: &ReqMessage, fields: &mut Value) {
    // A record of a recovery goes to an address that has no name in the file.
    fields["srvid_name"] = match message.srvid.name() {
        Some("RECOVERY") | None => Value::Null,
        Some(name) => json!(name),
    };
    let payload_type = &golden.line["fields"]["payload_type"];
    let payload = match payload_type.as_str() {
        None => {
            fields["data"] = hex(&message.data);
            return;
        }
        Some("int32") => json!({ "result": decode_exact::<i32>(&message.data[..]).unwrap() }),
        // Also where a tool chose the address itself, to restore a database.
        Some("recbuf") => decode_exact::<RecBuffer>(message.data.clone())
            .unwrap()
            .view(),
        Some("rec") => decode_exact::<RecData>(message.data.clone())
            .unwrap()
            .view(),
        Some(_) => Message::from_message(message)
            .unwrap_or_else(|error| panic!("{}: {error}", golden.name()))
            .view(),
    };
    fields["payload_type"] = payload_type.clone();
    fields["payload"] = payload;
}

#[test]
fn every_packet_is_encoded_to_the_bytes_of_the_original() {
    let mut canonical = 0;
    for golden in Golden::all() {
        let packet = recode_payload(&golden, golden.decode());
        let bytes = packet.encode(golden.padding());
        if golden.is_canonical() {
            canonical += 1;
            assert_eq!(hex(&bytes), hex(&golden.bytes), "{}", golden.name());
        } else {
            assert_eq!(bytes.len(), golden.bytes.len(), "{}", golden.name());
            assert_ne!(bytes, golden.bytes, "{}", golden.name());
        }
    }
    assert_eq!(canonical, 904);
}

/// The packet with its payload decoded and encoded again.
fn recode_payload(golden: &Golden, mut packet: Packet) -> Packet {
    match &mut packet.body {
        Body::ReqControl(control) => {
            if let Ok(request) = Request::from_control(control) {
                let (opcode, srvid, data) = request.encode();
                assert_eq!(opcode, control.opcode);
                // Some senders fill in the field where it is not the argument.
                assert!(
                    srvid.get() == 0 || srvid == control.srvid,
                    "{}",
                    golden.name()
                );
                control.data = data;
            }
        }
        Body::ReplyControl(reply) => {
            let decoded = Reply::from_control(golden.request_opcode(), reply).unwrap();
            (reply.status, reply.data) = decoded.encode();
        }
        Body::ReqMessage(message) => *message = Message::from_message(message).unwrap().encode(),
        _ => {}
    }
    packet
}

#[test]
fn no_packet_can_be_cut_short() {
    for golden in Golden::all() {
        let exact = golden.decode().encode(Padding::Exact);
        // The flags of a moved record may be missing, and so may the body of a keepalive.
        let shortest = match golden.text("op") {
            "REQ_DMASTER" | "REPLY_DMASTER" => exact.len() - 4,
            _ => exact.len(),
        };
        for len in (HEADER_LEN + 1..shortest).rev().take(64) {
            let mut cut = exact[..len].to_vec();
            cut[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
            assert!(
                Packet::decode(cut.into()).is_err(),
                "{} cut to {len}",
                golden.name()
            );
        }
    }
}
