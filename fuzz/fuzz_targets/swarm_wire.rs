//! Any bytes as what another machine of a swarm says: frames of every kind, records, invites, adapters, hidden states.
#![no_main]

use bouquet_swarm::wire::frame::{self, MAX_BODY_BYTES};
use bouquet_swarm::wire::message::{Answer, Greeting, Pushed, Tables, ToClient, ToServer};
use bouquet_swarm::wire::{bulk, codes, pass};
use bouquet_swarm::{Invite, SignedRecord, Wire};
use futures::FutureExt;
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;

fn read<H: DeserializeOwned>(bytes: &[u8]) {
    let mut reader = bytes;
    // What lies in memory is read at once.
    while let Some(Ok((_, body))) = frame::read::<H>(&mut reader, MAX_BODY_BYTES).now_or_never() {
        assert!(body.len() <= bytes.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    match kind % 11 {
        0 => read::<Greeting>(bytes),
        1 => read::<ToServer>(bytes),
        2 => read::<ToClient>(bytes),
        3 => read::<Pushed>(bytes),
        4 => read::<Answer>(bytes),
        5 => read::<Tables>(bytes),
        6 => read::<bulk::Part>(bytes),
        7 => {
            let third = bytes.len() / 3;
            let [key, record, signature] =
                [&bytes[..third], &bytes[third..2 * third], &bytes[2 * third..]].map(<[u8]>::to_vec);
            let _ = SignedRecord { key, record, signature }.open();
        }
        8 => {
            let _ = String::from_utf8_lossy(bytes).parse::<Invite>();
        }
        9 => {
            let _ = pass::unpack_adapter(bytes);
        }
        _ => {
            for wire in Wire::ALL {
                for width in [1, 7, 16, 65] {
                    let rows = bytes.len() / codes::bytes(wire, 1, width).expect("a row");
                    let exact = codes::bytes(wire, rows, width).expect("some rows");
                    if let Some(values) = codes::decode(wire, &bytes[..exact], rows, width) {
                        assert_eq!(values.rows(), rows);
                    }
                }
            }
        }
    }
});
