//! What others may send: nothing of it ends a server, holds its memory, or disturbs those who behave.

use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_swarm::ledger::{Edit, Rows};
use bouquet_swarm::server::{MISTAKES, WHILE};
use bouquet_swarm::simulated::Road;
use bouquet_swarm::wire::PROTOCOL_VERSION;
use bouquet_swarm::wire::frame::{self, Frame};
use bouquet_swarm::wire::message::{
    Greeting, Next, OpenSession, PassHeader, PassRequest, Pushed, Request, SessionId, ToClient, ToServer,
};
use bouquet_swarm::{Digest, Refusal, Stream};
use libp2p_identity::PeerId;
use tokio::io::AsyncWriteExt;

use crate::world::{FINGERPRINT, WIDTH, World, alone, ring, stride, strides};

fn greeting(request: Request) -> Greeting {
    Greeting { version: PROTOCOL_VERSION, fingerprint: FINGERPRINT, request }
}

fn open(blocks: std::ops::Range<u32>, sequences: u32, max_tokens: u32) -> Request {
    let pass = PassHeader { leaf: 8, ..PassHeader::default() };
    Request::Session(OpenSession {
        id: SessionId([7; 16]),
        blocks,
        sequences,
        max_tokens,
        revision: 0,
        edits: Vec::new(),
        pass,
    })
}

fn rows(starts: &[u32], lengths: &[u32]) -> Rows {
    Rows {
        revision: 0,
        edits: Vec::new(),
        starts: starts.to_vec(),
        lengths: lengths.to_vec(),
        wanted: vec![0; starts.len()],
    }
}

async fn said(stream: &mut Stream) -> Option<ToClient> {
    let heard = tokio::time::timeout(Duration::from_secs(60), frame::read::<ToClient>(&mut stream.reader, 1 << 20));
    heard.await.expect("an answer, or the end of the stream").ok().map(|(message, _)| message)
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_and_disturbs_nobody() {
    let mut world = World::new(Road::default());
    let server = world.serve(0..4);
    let client = world.client();
    let strides = strides(3, 40, 12);
    let expected = alone(0..4, &strides);
    let mut session = ring(&client, 1, 0..4).await;
    let mut positions = vec![0; 2];
    let mut random = Random::new(9);
    for (number, (one, expected)) in strides.iter().zip(&expected).enumerate() {
        assert_eq!(&stride(&mut session, &mut positions, one).await.unwrap(), expected, "stride {number}");
        let mut stream = client.transport.open(server, Vec::new()).await.unwrap();
        match number {
            0 => {
                // Bytes without a meaning, of several lengths.
                let bytes: Vec<u8> = (0..4096).map(|_| random.next_u64() as u8).collect();
                let _ = stream.writer.write_all(&bytes).await;
                assert_eq!(said(&mut stream).await, None);
            }
            1 => {
                // A frame that never ends: the greeting is waited for in vain, for a while.
                stream.writer.write_all(&[40, 0, 0, 0, 0, 0, 0, 0, 1, 2]).await.unwrap();
                assert_eq!(said(&mut stream).await, None);
            }
            2 => {
                stream.writer.write_all(&[255; 8]).await.unwrap();
                assert_eq!(said(&mut stream).await, None);
            }
            3 => {
                let other = Greeting { fingerprint: Digest([1; 32]), ..greeting(open(0..4, 1, 8)) };
                Frame::new(&other, &[]).write(&mut stream.writer).await.unwrap();
                assert!(matches!(said(&mut stream).await, Some(ToClient::Refused(Refusal::Wrong(_)))));
            }
            4..=7 => {
                let wrong =
                    [open(2..9, 1, 8), open(3..3, 1, 8), open(0..4, u32::MAX, 8), open(0..4, 4000, i32::MAX as u32)];
                let request = wrong[number - 4].clone();
                Frame::new(&greeting(request), &[]).write(&mut stream.writer).await.unwrap();
                assert!(matches!(said(&mut stream).await, Some(ToClient::Refused(_))), "case {number}");
            }
            8..=10 => {
                // Sessions whose rows do not fit what they say, or what is there.
                Frame::new(&greeting(open(0..4, 1, 64)), &[]).write(&mut stream.writer).await.unwrap();
                assert!(matches!(said(&mut stream).await, Some(ToClient::Standing(_))));
                let steer = ToServer::Steer(Next::Server {
                    peer: PeerId::random(),
                    addresses: Vec::new(),
                    standing: Default::default(),
                });
                Frame::new(&steer, &[]).write(&mut stream.writer).await.unwrap();
                let (rows, body) = match number {
                    8 => (rows(&[0], &[3]), vec![0; 5]),
                    9 => (rows(&[30], &[1]), vec![0; 4 * WIDTH]),
                    _ => {
                        let mut rows = rows(&[0, 0], &[u32::MAX, u32::MAX]);
                        rows.edits = vec![Edit::Reorder(vec![9; 100])];
                        (rows, Vec::new())
                    }
                };
                let _ = Frame::new(&ToServer::Rows(rows), &body).write(&mut stream.writer).await;
                while let Some(message) = said(&mut stream).await {
                    if matches!(message, ToClient::Gap(_) | ToClient::Refused(_)) {
                        break;
                    }
                }
                let _ = Frame::new(&ToServer::Close, &[]).write(&mut stream.writer).await;
            }
            11 => {
                // A pass that claims more than it may have.
                let request = Request::Pass(PassRequest {
                    blocks: 0..4,
                    lengths: vec![u32::MAX; 100],
                    backward: true,
                    pass: PassHeader::default(),
                    bytes: u64::MAX,
                });
                Frame::new(&greeting(request), &[]).write(&mut stream.writer).await.unwrap();
                let answer = frame::read::<bouquet_swarm::wire::message::Answer>(&mut stream.reader, 1 << 20).await;
                assert!(answer.is_ok(), "{answer:?}");
            }
            _ => {
                // Rows for a session that is not there.
                let push = greeting(Request::Push { id: SessionId([42; 16]), block: 4 });
                Frame::new(&push, &[]).write(&mut stream.writer).await.unwrap();
                let pushed = Pushed::Rows(rows(&[0], &[1]));
                let _ = Frame::new(&pushed, &[0; 4 * WIDTH]).write(&mut stream.writer).await;
                assert_eq!(said(&mut stream).await, None);
            }
        }
    }
    drop(session);
    // Whoever says what makes no sense may come back, for a minute.
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(world.running[&server].0.sessions(), 0, "nothing stays behind");
}

/// A machine may be frozen with rows for a server that has begun the session anew meanwhile, with other blocks.
#[tokio::test(start_paused = true)]
async fn rows_for_other_blocks_are_not_taken_for_those_of_this_session() {
    let mut world = World::new(Road::default());
    let server = world.serve(2..6);
    let client = world.client();
    let strides = strides(3, 40, 12);
    let expected = alone(2..6, &strides);
    let mut session = ring(&client, 1, 2..6).await;
    let late = world.peer();
    let transport = world.simulation.join(late);
    let mut streams = Vec::new();
    for block in [0, 3, 6] {
        let mut stream = bouquet_swarm::Transport::open(&*transport, server, Vec::new()).await.unwrap();
        let push = greeting(Request::Push { id: crate::world::id(1), block });
        Frame::new(&push, &[]).write(&mut stream.writer).await.unwrap();
        let body = vec![1; 4 * WIDTH * 40];
        Frame::new(&Pushed::Rows(rows(&[0, 0], &[39, 1])), &body).write(&mut stream.writer).await.unwrap();
        streams.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut positions = vec![0; 2];
    for (one, expected) in strides.iter().zip(&expected) {
        assert_eq!(&stride(&mut session, &mut positions, one).await.unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_garbage_again_and_again_is_not_heard_for_a_while() {
    let mut world = World::new(Road::default());
    let server = world.serve(0..4);
    let (client, other) = (world.client(), world.client());
    let strides = strides(3, 10, 8);
    let expected = alone(0..4, &strides);
    let mut session = ring(&client, 1, 0..4).await;
    let mut positions = vec![0; 2];
    let asks = async |client: &bouquet_swarm::client::Client| {
        let mut stream = client.transport.open(server, Vec::new()).await.unwrap();
        let _ = Frame::new(&greeting(Request::Resume(SessionId([42; 16]))), &[]).write(&mut stream.writer).await;
        said(&mut stream).await.is_some()
    };
    for _ in 0..MISTAKES {
        assert!(asks(&client).await);
        let mut stream = client.transport.open(server, Vec::new()).await.unwrap();
        let _ = stream.writer.write_all(&[255; 64]).await;
        assert_eq!(said(&mut stream).await, None);
    }
    // It is not heard, others are, and what it has goes on.
    assert!(!asks(&client).await && asks(&other).await);
    for (one, expected) in strides.iter().zip(&expected) {
        assert_eq!(&stride(&mut session, &mut positions, one).await.unwrap(), expected);
    }
    tokio::time::sleep(WHILE).await;
    assert!(asks(&client).await);
}

/// Streams without a word, and words without an end.
#[tokio::test(start_paused = true)]
async fn a_thousand_silent_streams_end_by_themselves() {
    let mut world = World::new(Road::default());
    let server = world.serve(0..4);
    let (client, other) = (world.client(), world.client());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = tasks();
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(client.transport.open(server, Vec::new()).await.unwrap());
        let mut slow = client.transport.open(server, Vec::new()).await.unwrap();
        // The sizes of a frame that never comes.
        slow.writer.write_all(&[0, 255, 0, 0, 0, 0, 0, 3]).await.unwrap();
        silent.push(slow);
    }
    let strides = strides(3, 10, 8);
    let expected = alone(0..4, &strides);
    let mut session = ring(&other, 1, 0..4).await;
    let mut positions = vec![0; 2];
    for (one, expected) in strides.iter().zip(&expected) {
        // A byte a second each.
        for stream in &mut silent {
            let _ = stream.writer.write_all(&[0]).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(&stride(&mut session, &mut positions, one).await.unwrap(), expected);
    }
    drop(session);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(tasks() <= before, "{} tasks, and {before} before", tasks());
    for mut stream in silent {
        assert_eq!(said(&mut stream).await, None);
    }
}
