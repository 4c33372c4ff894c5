//! What comes in on a stream: a greeting, which says what the stream is for, and then that.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Shared, passes, sessions};
use crate::Refusal;
use crate::transport::{Stream, Writer};
use crate::wire::PROTOCOL_VERSION;
use crate::wire::frame::{self, Frame, FrameError, MAX_BODY_BYTES};
use crate::wire::message::{Greeting, Request, Tables, ToClient};

/// How long a greeting may take to come.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a frame may take to leave this machine.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers whoever opened a stream. What is no message of this protocol ends it.
pub(super) async fn serve(shared: Arc<Shared>, stream: Stream) {
    let Stream { peer, mut reader, mut writer } = stream;
    if shared.state().tolerance.is_over(&peer) {
        return;
    }
    let mistake = || shared.state().tolerance.mistake(peer);
    let greeting = timeout(GREETING_TIMEOUT, frame::read::<Greeting>(&mut reader, MAX_BODY_BYTES)).await;
    let (greeting, body) = match greeting {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(FrameError::Garbage(_))) => return mistake(),
        _ => return,
    };
    let Greeting { version, fingerprint, request } = greeting;
    let known = version == PROTOCOL_VERSION && fingerprint == shared.settings.fingerprint;
    match request {
        Request::Exchange(_) if version == PROTOCOL_VERSION && !known => {
            let other = Tables::Other(shared.settings.fingerprint);
            let _ = timeout(WRITE_TIMEOUT, Frame::new(&other, &[]).write(&mut writer)).await;
        }
        _ if !known => refuse(&mut writer, Refusal::Wrong("it serves another model, or speaks otherwise".into())).await,
        Request::Session(open) => {
            let id = open.id;
            match sessions::open(&shared, open, &body).await {
                Ok(()) => sessions::serve_client(shared, (peer, id), reader, writer).await,
                Err(refusal) => {
                    if matches!(refusal, Refusal::Wrong(_)) {
                        mistake();
                    }
                    refuse(&mut writer, refusal).await;
                }
            }
        }
        Request::Resume(id) => {
            let known = shared.state().sessions.contains_key(&id);
            match known {
                true => sessions::serve_client(shared, (peer, id), reader, writer).await,
                false => refuse(&mut writer, Refusal::NoSession).await,
            }
        }
        Request::Exchange(summary) => shared.directory.answer(&summary, &mut reader, &mut writer).await,
        Request::Files => {
            let files = postcard::to_allocvec(&shared.shelf.list()).expect("names can be encoded");
            passes::answer(&mut writer, Ok(files)).await;
        }
        Request::File { name, offset } => {
            let shelf = shared.shelf.clone();
            // Disks are slow, and the network thread has others to hear.
            let read = tokio::task::spawn_blocking(move || shelf.read(&name, offset)).await;
            let gone = |_| Err(Refusal::Failed("a file cannot be read".to_owned()));
            passes::answer(&mut writer, read.unwrap_or_else(gone)).await;
        }
        Request::Pass(request) => {
            if passes::serve(&shared, request, reader, writer).await.is_err() {
                mistake();
            }
        }
        Request::Adapter { digest, bytes } => {
            if passes::keep_adapter(&shared, digest, bytes, reader, writer).await.is_err() {
                mistake();
            }
        }
        Request::Push { id, block } => {
            if sessions::hear_pushed(&shared, id, block, reader, writer).await.is_err() {
                mistake();
            }
        }
    }
}

pub(super) async fn refuse(writer: &mut Writer, refusal: Refusal) {
    let _ = timeout(WRITE_TIMEOUT, Frame::new(&ToClient::Refused(refusal), &[]).write(writer)).await;
}
