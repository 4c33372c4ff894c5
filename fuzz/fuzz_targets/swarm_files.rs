//! Any bytes as what a swarm's machine finds on its disk or hears on its local network: packets of multicast DNS, the list of
//! a model's hashes, the file with the machine's key.
#![no_main]

use bouquet_model::manifest::Manifest;
use bouquet_swarm::{identity, network};
use libfuzzer_sys::fuzz_target;

/// The swarm of the seeds.
const KEY: [u8; 32] = [7; 32];

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    match kind % 3 {
        0 => {
            let me = libp2p_identity::PeerId::from_multihash(Default::default()).expect("a machine");
            if let Some((peer, addresses)) = network::heard_nearby(bytes, &KEY, me) {
                assert_ne!(peer, me);
                let said: usize = addresses.iter().map(|address| address.to_string().len()).sum();
                assert!(said <= 16 * bytes.len(), "an address says no more than was said");
            }
        }
        1 => {
            if let Some(manifest) = Manifest::parse(bytes) {
                assert_eq!(Manifest::parse(manifest.to_json().as_bytes()), Some(manifest));
            }
        }
        _ => {
            if let Some(keypair) = identity::decode(bytes) {
                let again = identity::decode(&keypair.to_protobuf_encoding().expect("a key can be written"));
                assert_eq!(again.expect("what is written is read").public(), keypair.public());
            }
        }
    }
});
