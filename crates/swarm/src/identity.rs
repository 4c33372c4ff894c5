//! Who a machine is: a key pair in a file. The machine's id is made of the public key, so nobody else can be it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use libp2p_identity::Keypair;

use crate::{Digest, Result, SwarmError};

/// Bytes that the file may have; a key pair has about 70.
const MAX_BYTES: u64 = 1024;

/// Reads the key pair of a file, or makes one and writes it, whole or not at all, so that only its owner can read it.
/// When two programs begin at once, both get the same.
///
/// # Errors
/// [`SwarmError::Network`], which names the file: it cannot be read or written, or is no key pair.
pub fn load_or_create(path: &Path) -> Result<Keypair> {
    let failed = |what: &str, error: io::Error| {
        SwarmError::Network(format!("cannot {what} the key of this machine, {}: {error}", path.display()))
    };
    if let Some(keypair) = load(path).map_err(|error| failed("read", error))? {
        return Ok(keypair);
    }
    let keypair = Keypair::generate_ed25519();
    match create(path, &keypair) {
        Ok(()) => Ok(keypair),
        // Somebody else was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match load(path) {
            Ok(Some(keypair)) => Ok(keypair),
            Ok(None) => Err(failed("write", error)),
            Err(error) => Err(failed("read", error)),
        },
        Err(error) => Err(failed("write", error)),
    }
}

/// The key of the swarm that this machine founds for a model, the same each time: after a restart the invites of before
/// are good. Says nothing of the machine's own key.
pub fn swarm_key(keypair: &Keypair, fingerprint: Digest) -> Option<[u8; 32]> {
    keypair.derive_secret(&[b"bouquet swarm".as_slice(), &fingerprint.0].concat())
}

/// Nothing if there is no file.
fn load(path: &Path) -> io::Result<Option<Keypair>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let damaged = "the file is damaged; without it the machine gets a new key, and others take it for a new machine";
    Ok(Some(decode(&bytes).ok_or_else(|| io::Error::other(damaged))?))
}

/// The key pair that a file's bytes are; `None` if they are damaged.
pub fn decode(bytes: &[u8]) -> Option<Keypair> {
    Keypair::from_protobuf_encoding(bytes).ok()
}

fn create(path: &Path, keypair: &Keypair) -> io::Result<()> {
    let bytes = keypair.to_protobuf_encoding().map_err(io::Error::other)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Only its owner may read it, from the first byte.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_stays_who_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("of this machine").join("key");
        let first = load_or_create(&path).unwrap().public();
        assert_eq!(load_or_create(&path).unwrap().public(), first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn machines_are_different() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| load_or_create(&folder.path().join(name)).unwrap().public();
        assert_ne!(key("one"), key("other"));
    }

    #[test]
    fn of_two_that_begin_at_once_both_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let both = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_create(&path).unwrap().public())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(both.iter().all(|key| *key == both[0]));
    }

    #[test]
    fn a_damaged_file_is_named_and_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        load_or_create(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &[], &[0xff; 5000]] {
            fs::write(&path, bytes).unwrap();
            let error = load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("damaged") && error.contains("key"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_founder_has_one_swarm_for_a_model() {
        let [one, other] = [1, 2].map(|byte| Keypair::ed25519_from_bytes([byte; 32]).unwrap());
        let key = |keypair: &Keypair, model: u8| swarm_key(keypair, Digest([model; 32])).unwrap();
        assert_eq!(key(&one, 3), key(&one.clone(), 3));
        assert_ne!(key(&one, 3), key(&one, 4));
        assert_ne!(key(&one, 3), key(&other, 3));
    }
}
