//! The two messages of multicast DNS that are spoken, in the format of
//! [RFC 1035](https://www.rfc-editor.org/rfc/rfc1035#section-4) with the names of
//! [RFC 6763](https://www.rfc-editor.org/rfc/rfc6763): who is of this service and subtype (a PTR question), and an answer
//! with a PTR record that names the machine and a TXT record with its addresses.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

use super::super::listen::socket_address;

const SERVICE: [&str; 3] = ["_bouquet", "_udp", "local"];

/// What an address in a TXT record begins with.
const ADDRESS: &str = "address=";

const PTR: u16 = 12;
const TXT: u16 = 16;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

/// In the class of a record: no other machine has one of this name.
const UNIQUE: u16 = 0x8000;

/// In the flags: this answers, and with authority.
const ANSWER: u16 = 0x8400;
const IS_ANSWER: u16 = 0x8000;

/// Bytes of the strings in a TXT record, so that a message fits into one packet of any network.
const MAX_TEXT: usize = 1024;

/// Records that are looked at.
const MAX_RECORDS: usize = 64;

/// What this machine and its swarm are called.
pub(super) struct Names {
    pub(super) subtype: String,
    pub(super) peer: PeerId,
}

impl Names {
    fn swarm(&self) -> Vec<String> {
        let subtype = [format!("_{}", self.subtype), "_sub".to_owned()];
        subtype.into_iter().chain(SERVICE.map(str::to_owned)).collect()
    }

    fn machine(&self) -> Vec<String> {
        std::iter::once(self.peer.to_base58()).chain(SERVICE.map(str::to_owned)).collect()
    }
}

/// A message that concerns this swarm.
#[derive(Debug, PartialEq)]
pub(super) enum Packet {
    Question,
    Answer { peer: PeerId, addresses: Vec<Multiaddr>, ttl: Duration },
}

/// Asks who of the swarm is there.
pub(super) fn question(names: &Names) -> Vec<u8> {
    let mut bytes = header(0, 1, 0);
    put_name(&mut bytes, &names.swarm());
    put(&mut bytes, &[PTR, INTERNET]);
    bytes
}

/// Says that this machine is there, for so long.
pub(super) fn answer(names: &Names, addresses: &[Multiaddr], ttl: Duration) -> Vec<u8> {
    let mut text = Vec::new();
    for address in addresses {
        let string = format!("{ADDRESS}{address}");
        let fits = text.len() + string.len() < MAX_TEXT;
        if let Some(length) = u8::try_from(string.len()).ok().filter(|_| fits) {
            text.push(length);
            text.extend(string.bytes());
        }
    }
    let mut machine = Vec::new();
    put_name(&mut machine, &names.machine());
    let mut bytes = header(ANSWER, 0, 2);
    for (name, kind, class, data) in
        [(names.swarm(), PTR, INTERNET, machine), (names.machine(), TXT, INTERNET | UNIQUE, text)]
    {
        put_name(&mut bytes, &name);
        put(&mut bytes, &[kind, class]);
        bytes.extend((ttl.as_secs() as u32).to_be_bytes());
        put(&mut bytes, &[data.len() as u16]);
        bytes.extend(data);
    }
    bytes
}

fn header(flags: u16, questions: u16, answers: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, &[0, flags, questions, answers, 0, 0]);
    bytes
}

fn put(bytes: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| bytes.extend(value.to_be_bytes()));
}

/// All labels are ours, and short.
fn put_name(bytes: &mut Vec<u8>, labels: &[String]) {
    for label in labels {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
}

/// What a message says that concerns this swarm and is not of this machine.
pub(super) fn read(bytes: &[u8], names: &Names) -> Option<Packet> {
    let mut reader = Reader { bytes, at: 0 };
    let [_, flags, questions, answers, ..] = reader.numbers::<6>()?;
    let swarm = names.swarm();
    let mut asked = false;
    for _ in 0..usize::from(questions).min(MAX_RECORDS) {
        let name = reader.name()?;
        let [kind, _class] = reader.numbers()?;
        asked |= (kind == PTR || kind == ANY) && same(&name, &swarm);
    }
    if flags & IS_ANSWER == 0 {
        return asked.then_some(Packet::Question);
    }
    let (mut named, mut said) = (None, None);
    for _ in 0..usize::from(answers).min(MAX_RECORDS) {
        let Some(record) = reader.record() else { break };
        match record.kind {
            PTR if same(&record.name, &swarm) => named = Reader { bytes, at: record.data.start }.name(),
            TXT => said = said.or(Some(record)),
            _ => {}
        }
    }
    let (named, said) = (named?, said?);
    let peer = PeerId::from_str(named.first()?).ok().filter(|peer| *peer != names.peer)?;
    if !same(&named, &said.name) || !same(&named[1..], &SERVICE.map(str::to_owned)) {
        return None;
    }
    Some(Packet::Answer { peer, addresses: addresses(bytes.get(said.data)?, &peer), ttl: said.ttl })
}

/// Names do not tell small letters from capitals; keys, of which names are made, do, and are compared as they are.
fn same(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// The addresses of a TXT record at which a machine of a local network can be.
fn addresses(mut text: &[u8], peer: &PeerId) -> Vec<Multiaddr> {
    let mut addresses = Vec::new();
    while let Some((length, rest)) = text.split_first() {
        let Some((string, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        text = rest;
        let address = std::str::from_utf8(string).ok().and_then(|string| string.strip_prefix(ADDRESS));
        let Some(address) = address.and_then(|address| Multiaddr::from_str(address).ok()) else { continue };
        let there = match socket_address(&address).map(|socket| socket.ip()) {
            Some(IpAddr::V4(ip)) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
            Some(IpAddr::V6(ip)) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
            None => false,
        };
        let whole = address.iter().skip(2).all(|part| part == Protocol::P2p(*peer));
        if there && whole && address.iter().count() <= 3 {
            addresses.push(address);
        }
    }
    addresses
}

struct Record {
    name: Vec<String>,
    kind: u16,
    ttl: Duration,
    data: std::ops::Range<usize>,
}

/// Reads a message from its front; nothing where it is no message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn numbers<const N: usize>(&mut self) -> Option<[u16; N]> {
        let end = self.at + 2 * N;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(std::array::from_fn(|i| u16::from_be_bytes([bytes[2 * i], bytes[2 * i + 1]])))
    }

    /// A name: labels, of which the last ones may be where they were said before. As each pointer goes further to the
    /// front, and a name has at most 255 bytes, there is an end.
    fn name(&mut self) -> Option<Vec<String>> {
        let (mut labels, mut length) = (Vec::new(), 0);
        let (mut at, mut jumped) = (self.at, None);
        loop {
            let first = usize::from(*self.bytes.get(at)?);
            match first >> 6 {
                0 if first == 0 => {
                    self.at = jumped.unwrap_or(at + 1);
                    return Some(labels);
                }
                0 => {
                    length += first + 1;
                    if length > 254 {
                        return None;
                    }
                    let label = self.bytes.get(at + 1..at + 1 + first)?;
                    labels.push(String::from_utf8_lossy(label).into_owned());
                    at += 1 + first;
                }
                3 => {
                    let target = (first & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                    if target >= at {
                        return None;
                    }
                    jumped = jumped.or(Some(at + 2));
                    at = target;
                }
                _ => return None,
            }
        }
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let [kind, _class, high, low, length] = self.numbers()?;
        let data = self.at..self.at + usize::from(length);
        self.bytes.get(data.clone())?;
        self.at = data.end;
        let ttl = Duration::from_secs(u64::from(high) << 16 | u64::from(low));
        Some(Record { name, kind, ttl, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(subtype: &str) -> Names {
        Names { subtype: subtype.to_owned(), peer: PeerId::random() }
    }

    #[test]
    fn what_is_asked_and_answered_is_read() {
        let (us, them, others) = (names("00ff"), names("00ff"), names("11ff"));
        assert_eq!(read(&question(&us), &them), Some(Packet::Question));
        assert_eq!(read(&question(&us), &others), None);
        let address = |text: &str| -> Multiaddr { text.parse().unwrap() };
        let (near, named) =
            (address("/ip4/192.168.1.4/tcp/31330"), address(&format!("/ip6/fd00::1/tcp/1/p2p/{}", us.peer)));
        let said = [
            near.clone(),
            address("/ip4/127.0.0.1/tcp/1"),
            address("/ip4/192.168.1.4/udp/1"),
            address(&format!("/ip4/192.168.1.4/tcp/1/p2p/{}", them.peer)),
            named.clone(),
        ];
        let bytes = answer(&us, &said, Duration::from_secs(150));
        let expected = Packet::Answer { peer: us.peer, addresses: vec![near, named], ttl: Duration::from_secs(150) };
        assert_eq!(read(&bytes, &them), Some(expected));
        assert_eq!(read(&bytes, &us), None, "its own");
        assert_eq!(read(&bytes, &others), None, "another swarm's");
    }

    #[test]
    fn an_answer_fits_into_a_packet() {
        let address: Multiaddr = "/ip6/2001:db8:1234:5678:9abc:def0:1234:5678/tcp/65535".parse().unwrap();
        let bytes = answer(&names("0011223344556677"), &vec![address; 100], Duration::from_secs(1));
        assert!(bytes.len() < 1400, "{}", bytes.len());
    }

    #[test]
    fn a_name_that_points_at_itself_is_none() {
        for pointer in [[0xc0, 12], [0xc0, 200], [0x40, 0]] {
            let mut bytes = header(0, 1, 0);
            bytes.extend(pointer);
            put(&mut bytes, &[PTR, INTERNET]);
            assert_eq!(read(&bytes, &names("00")), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, &names("00"));
        }

        #[test]
        fn no_change_panics(at in 0_usize..150, byte: u8, cut in 0_usize..300) {
            let us = names("00");
            let mut bytes = answer(&us, &["/ip4/10.0.0.1/tcp/1".parse().unwrap()], Duration::from_secs(1));
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(cut);
            let _ = read(&bytes, &names("00"));
        }
    }
}
