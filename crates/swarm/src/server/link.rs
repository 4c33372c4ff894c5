//! What goes to the next server: one long-lived stream for a session, opened by the machine before.

use std::sync::Weak;
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shared;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::frame::{self, Frame};
use crate::wire::message::{Greeting, Pushed, Request, SessionId};

/// How often the next server hears that this one is there.
const BEAT: Duration = Duration::from_secs(5);

/// How long the next server may be silent. It beats four times as often.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a frame may take to leave this machine.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends frames to the next server until there are no more, or it does not take them, which the client is told.
pub(super) async fn run(
    server: Weak<Shared>,
    id: SessionId,
    block: u32,
    hop: u64,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    mut frames: mpsc::Receiver<Frame>,
) {
    let Some(shared) = server.upgrade() else { return };
    let fingerprint = shared.settings.fingerprint;
    let request = Request::Push { id, block };
    let greeting = Greeting { version: PROTOCOL_VERSION, fingerprint, request };
    let opened = shared.transport.open(peer, addresses).await;
    drop(shared);
    if let Ok(stream) = opened {
        let (mut writer, mut reader) = (stream.writer, stream.reader);
        let sending = async {
            let mut written = write(&Frame::new(&greeting, &[]), &mut writer).await;
            while written {
                let frame = match timeout(BEAT, frames.recv()).await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return true,
                    Err(_) => Frame::new(&Pushed::Beat, &[]),
                };
                written = write(&frame, &mut writer).await;
                let Some(shared) = server.upgrade() else { return true };
                if let (true, Some(held)) = (written, shared.state().sessions.get_mut(&id)) {
                    held.pump(shared.settings.wire, &shared.counters);
                }
            }
            false
        };
        let hearing =
            async { while let Ok(Ok((Pushed::Beat, _))) = timeout(SILENCE, frame::read(&mut reader, 0)).await {} };
        let over = tokio::select! {
            biased;
            over = sending => over,
            () = hearing => false,
        };
        if over {
            return;
        }
    }
    if let Some(shared) = server.upgrade() {
        shared.state().sessions.get_mut(&id).into_iter().for_each(|held| held.lose(hop));
    }
}

async fn write(frame: &Frame, writer: &mut crate::transport::Writer) -> bool {
    matches!(timeout(WRITE_TIMEOUT, frame.write(writer)).await, Ok(Ok(())))
}
