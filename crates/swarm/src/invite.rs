//! An invite: one short word that names a swarm's model, its key and where some of its machines are. Who has it can use
//! the swarm and join it.

use std::fmt;
use std::str::FromStr;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::wire::Wire;
use crate::{Digest, Result, SwarmError};

/// What every invite begins with.
pub const PREFIX: &str = "bouquet1";

/// Characters that an invite may have.
pub const MAX_CHARS: usize = 2048;

/// Servers that an invite names.
pub const MAX_PEERS: usize = 8;

/// How to find a swarm, and the key to it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// What the swarm's founder calls the model: a name on a hub, or of a folder.
    pub model: String,
    /// Of the model as it is served.
    pub fingerprint: Digest,
    /// What the weights are computed in, by its name.
    pub encoding: String,
    /// How hidden states travel.
    pub wire: Wire,
    /// The key that all connections of the swarm are encrypted with, before anything is said.
    pub key: [u8; 32],
    /// Servers, whoever made the invite first.
    pub peers: Vec<Peer>,
}

/// A server, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its key.
    pub id: PeerId,
    /// Where it listens.
    pub addresses: Vec<Multiaddr>,
}

impl Invite {
    /// Whether a text was meant to be an invite, whole or not.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = postcard::to_allocvec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", bs58::encode(bytes).with_check().into_string())
    }
}

/// Without the key, which is a secret.
impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invite { model, fingerprint, peers, .. } = self;
        f.debug_struct("Invite")
            .field("model", model)
            .field("fingerprint", fingerprint)
            .field("peers", peers)
            .finish_non_exhaustive()
    }
}

impl FromStr for Invite {
    type Err = SwarmError;

    fn from_str(text: &str) -> Result<Invite> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(SwarmError::Invite("it should begin with bouquet1"))?;
        if rest.len() > MAX_CHARS {
            return Err(SwarmError::Invite("it is too long"));
        }
        let bytes = bs58::decode(rest).with_check(None).into_vec();
        let bytes = bytes.map_err(|_| SwarmError::Invite("a part of it is missing, or was changed"))?;
        let invite: Invite =
            postcard::from_bytes(&bytes).map_err(|_| SwarmError::Invite("it is of another version of this program"))?;
        let names = [&invite.model, &invite.encoding];
        if names.iter().any(|name| name.len() > 256 || name.chars().any(char::is_control)) {
            return Err(SwarmError::Invite("its model has no name that can be shown"));
        }
        if invite.peers.len() > MAX_PEERS {
            return Err(SwarmError::Invite("it names too many servers"));
        }
        Ok(invite)
    }
}

#[cfg(test)]
mod tests {
    use libp2p_identity::Keypair;
    use proptest::prelude::*;

    use super::*;

    fn invite() -> Invite {
        let id = Keypair::generate_ed25519().public().to_peer_id();
        Invite {
            model: "bigscience/bloom-560m".to_owned(),
            fingerprint: Digest([1; 32]),
            encoding: "int8".to_owned(),
            wire: Wire::F32,
            key: [2; 32],
            peers: vec![Peer { id, addresses: vec!["/ip4/192.168.1.4/tcp/31330".parse().unwrap()] }],
        }
    }

    #[test]
    fn it_is_a_word() {
        let invite = invite();
        let text = invite.to_string();
        assert!(text.len() < 260 && text.chars().all(|c| c.is_ascii_alphanumeric()), "{text}");
        assert_eq!(format!("  {text}\n").parse::<Invite>().unwrap(), invite);
        assert!(!format!("{invite:?}").contains("key"));
    }

    #[test]
    fn what_was_cut_off_or_mistyped_is_told() {
        let text = invite().to_string();
        for (wrong, why) in [
            (text[..text.len() - 1].to_owned(), "missing"),
            (text.replacen("bouquet1", "bouquet2", 1), "bouquet1"),
            (format!("{PREFIX}{}", "1".repeat(MAX_CHARS + 1)), "too long"),
            (PREFIX.to_owned(), "missing"),
        ] {
            let error = wrong.parse::<Invite>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<Invite>();
            let _ = format!("{PREFIX}{text}").parse::<Invite>();
            let _ = format!("{PREFIX}{}", bs58::encode(text).with_check().into_string()).parse::<Invite>();
        }
    }
}
