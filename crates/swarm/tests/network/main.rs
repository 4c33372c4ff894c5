//! The network as it is, on loopback: real sockets, real connections.

#[path = "../relay/mod.rs"]
mod relay;

mod door;
mod links;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use bouquet_swarm::network::Settings;
use bouquet_swarm::{Network, Stream, Transport};
use libp2p_identity::Keypair;
use multiaddr::Multiaddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long anything may take here before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// The key of the swarm of most tests.
const KEY: [u8; 32] = [7; 32];

/// A machine that listens on loopback.
fn machine(key: [u8; 32]) -> Arc<Network> {
    machine_at(key, "/ip4/127.0.0.1/tcp/0")
}

fn machine_at(key: [u8; 32], listen: &str) -> Arc<Network> {
    let listen = listen.split_whitespace().map(|address| address.parse().unwrap()).collect();
    let settings = Settings { keypair: Keypair::generate_ed25519(), key, listen, mdns: true };
    Arc::new(Network::start(settings).unwrap())
}

/// Where a machine listens.
fn socket(machine: &Network) -> std::net::SocketAddr {
    let address = machine.addresses()[0].to_string();
    let parts: Vec<&str> = address.split('/').collect();
    format!("{}:{}", parts[2], parts[4]).parse().unwrap()
}

fn multiaddr(socket: std::net::SocketAddr) -> Multiaddr {
    format!("/ip4/{}/tcp/{}", socket.ip(), socket.port()).parse().unwrap()
}

/// A stream from one machine to another, both ends of it.
async fn pair(from: &Network, to: &Network) -> (Stream, Stream) {
    let (opened, accepted) = tokio::join!(from.open(to.peer_id(), to.addresses()), to.accept());
    (opened.unwrap(), accepted.unwrap())
}

/// Runs a test that must not hang.
fn within<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it hangs") })
}

/// Sends back what comes in on every stream, until it ends.
fn echo(machine: &Arc<Network>) {
    let machine = machine.clone();
    let handle = machine.handle().clone();
    handle.spawn(async move {
        while let Some(mut stream) = machine.accept().await {
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut stream.reader, &mut stream.writer).await;
                let _ = stream.writer.shutdown().await;
            });
        }
    });
}

/// Asserts that a stream carries bytes there and back. It reads while it writes: a stream has room for so many bytes, and
/// who reads nothing makes none, so that two machines that only write wait for each other.
async fn assert_carries(stream: &mut Stream, text: &[u8]) {
    let Stream { reader, writer, .. } = stream;
    let write = async {
        writer.write_all(text).await.unwrap();
        writer.flush().await.unwrap();
    };
    let mut back = vec![0; text.len()];
    let (_, read) = tokio::join!(write, reader.read_exact(&mut back));
    read.unwrap();
    assert!(back == text);
}
