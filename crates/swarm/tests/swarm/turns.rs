//! Who is computed when: tokens do not wait for all of something long, and what fails in one session is that one's alone.

use std::sync::Arc;
use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_span::fake::FakeSpan;
use bouquet_span::{HiddenStates, Keep, Limits, Pass, Returned, Span, SpanError};
use bouquet_swarm::client::Client;
use bouquet_swarm::simulated::Road;
use bouquet_swarm::wire::frame::{self, Frame};
use bouquet_swarm::wire::message::{Answer, Greeting, PassHeader, PassRequest, Request, ToClient};
use bouquet_swarm::wire::{PROTOCOL_VERSION, bulk};
use bouquet_swarm::{Figures, Refusal, Stream};
use libp2p_identity::PeerId;
use tokio::time::Instant;

use crate::world::{FINGERPRINT, TOKEN, WIDTH, World, alone, ring, stride, strides};

/// As long as a chunk of a prompt takes in 8 blocks, and a step of few tokens besides.
fn a_chunk() -> Duration {
    TOKEN * 8 * 128 + Duration::from_millis(30)
}

fn bytes(values: &HiddenStates) -> Vec<u8> {
    values.values().data().iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A request without a session, and what comes of it.
async fn pass(client: &Client, server: PeerId, hidden: &HiddenStates, gradient: &HiddenStates, leaf: u64) -> Vec<u8> {
    let Stream { mut reader, mut writer, .. } = client.transport.open(server, Vec::new()).await.unwrap();
    let body = [bytes(hidden), bytes(gradient)].concat();
    let request = Request::Pass(PassRequest {
        blocks: 0..8,
        lengths: hidden.lengths().iter().map(|&length| length as u32).collect(),
        backward: true,
        pass: PassHeader { leaf, ..PassHeader::default() },
        bytes: body.len() as u64,
    });
    let greeting = Greeting { version: PROTOCOL_VERSION, fingerprint: FINGERPRINT, request };
    Frame::new(&greeting, &[]).write(&mut writer).await.unwrap();
    bulk::write(&mut writer, &body).await.unwrap();
    loop {
        match frame::read::<Answer>(&mut reader, 0).await.unwrap().0 {
            Answer::Beat => {}
            Answer::Done { bytes } => {
                return bulk::read(&mut reader, bytes as usize, bulk::PART_TIMEOUT).await.unwrap();
            }
            Answer::Refused(refusal) => panic!("{refusal}"),
        }
    }
}

/// Decodes until something is over, and returns the longest time that a token took.
async fn decode_beside(client: &Arc<Client>, done: &tokio::sync::Notify) -> (Duration, usize) {
    let mut session = ring(client, 1, 0..8).await;
    let (mut positions, mut longest, mut tokens) = (vec![0; 2], Duration::ZERO, 0);
    let mut random = Random::new(1);
    let done = done.notified();
    tokio::pin!(done);
    loop {
        let before = Instant::now();
        let hidden = random.hidden(&[1, 1], WIDTH);
        let limits = Limits::default();
        let step = session.step(&hidden, Returned::Last, &limits);
        tokio::select! {
            biased;
            () = &mut done => return (longest, tokens),
            output = step => drop(output.unwrap()),
        }
        (longest, tokens) = (longest.max(before.elapsed()), tokens + 1);
        positions[0] += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn training_of_seconds_holds_up_a_token_for_a_chunk_at_most() {
    let mut world = World::new(Road { delay: Duration::from_millis(1), bytes_per_second: 0 });
    let server = world.serve(0..8);
    let (decoding, training) = (world.client(), world.client());
    let mut random = Random::new(2);
    let lengths = [vec![100; 20], vec![0, 7, 900]].concat();
    let (hidden, gradient) = (random.hidden(&lengths, WIDTH), random.hidden(&lengths, WIDTH));
    let over = tokio::sync::Notify::new();
    let train = async {
        let before = Instant::now();
        // Two clients at once.
        let (one, other) = tokio::join!(
            pass(&training, server, &hidden, &gradient, 1),
            pass(&training, server, &hidden, &gradient, 1)
        );
        let took = before.elapsed();
        over.notify_one();
        (one, other, took)
    };
    let ((one, other, took), (longest, tokens)) = tokio::join!(train, decode_beside(&decoding, &over));
    let alone = FakeSpan::new(0..8, WIDTH);
    let pass = Pass { leaf: 1, keep: Keep::BlockInputs, ..Pass::default() };
    let (_, kept) = alone.forward(hidden, &pass).unwrap();
    let (expected, _) = alone.backward(kept, gradient, &pass).unwrap();
    assert!(one == bytes(&expected) && other == one, "the bits of one machine");
    assert!(took > Duration::from_secs(20), "it takes its time: {took:?}");
    // The longest sequence is one leaf, of which one block is the smallest piece there is.
    let most = a_chunk().max(TOKEN * 2 * 900 + Duration::from_millis(30));
    assert!(longest < most && tokens > 100, "{longest:?}, {tokens} tokens");
    // And it is not held up by them for ever: a token takes a small part of a piece.
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn prompts_of_several_hold_up_a_token_for_a_chunk_at_most() {
    let mut world = World::new(Road { delay: Duration::from_millis(1), bytes_per_second: 0 });
    world.serve(0..8);
    let clients: Vec<_> = (0..4).map(|_| world.client()).collect();
    let over = tokio::sync::Notify::new();
    let prompt = strides(3, 500, 0);
    let prompts = async {
        let each = clients[1..].iter().enumerate().map(|(number, client)| {
            let prompt = &prompt[0];
            async move {
                let mut session = ring(client, 10 + number as u8, 0..8).await;
                let before = Instant::now();
                let output = stride(&mut session, &mut vec![0; 2], prompt).await.unwrap();
                (output, before.elapsed())
            }
        });
        let all = futures::future::join_all(each).await;
        over.notify_one();
        all
    };
    let (outputs, (longest, tokens)) = tokio::join!(prompts, decode_beside(&clients[0], &over));
    let expected = alone(0..8, &prompt);
    assert!(outputs.iter().all(|(output, _)| *output == expected[0]));
    assert!(longest < a_chunk() && tokens > 10, "{longest:?}, {tokens} tokens");
    // Three prompts side by side, none behind the others.
    let times: Vec<Duration> = outputs.iter().map(|(_, took)| *took).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*last - *first < 4 * a_chunk(), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_finite_is_named_and_harms_nobody_in_the_same_batch() {
    let mut world = World::new(Road { delay: Duration::from_millis(5), bytes_per_second: 0 });
    let server = world.serve(2..6);
    let (sick, well) = (world.client(), world.client());
    let (mut one, mut other) = (ring(&sick, 1, 2..6).await, ring(&well, 2, 2..6).await);
    let strides = strides(7, 3, 6);
    let expected = alone(2..6, &strides);
    let (mut first_at, mut second_at) = (vec![0; 2], vec![0; 2]);
    for (number, (step, expected)) in strides.iter().zip(&expected).enumerate() {
        let (before, mut infinite) = (world.counts(server), step.clone());
        let row = infinite.hidden.tokens().saturating_sub(1);
        let broken = number == 3 && infinite.hidden.tokens() > 0;
        if broken {
            infinite.hidden.values_mut().row_mut(row)[1] = f32::NAN;
        }
        let (first, second) =
            tokio::join!(stride(&mut one, &mut first_at, &infinite), stride(&mut other, &mut second_at, step));
        assert_eq!(&second.unwrap(), expected, "stride {number}");
        let counts = world.counts(server);
        assert_eq!(counts.stepped - before.stepped, 2 * (counts.steps - before.steps), "together, in stride {number}");
        if broken {
            let error = first.unwrap_err();
            let named = match error {
                SpanError::NotFinite { block, token } | SpanError::InputNotFinite { block, token } => (block, token),
                other => panic!("{other}"),
            };
            assert_eq!(named, (2, row));
            // It goes on where it was.
            assert_eq!(&stride(&mut one, &mut first_at, step).await.unwrap(), expected);
        } else {
            assert_eq!(&first.unwrap(), expected, "stride {number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_that_never_come_back_are_noticed_by_all() {
    let mut world = World::new(Road { delay: Duration::from_millis(5), bytes_per_second: 0 });
    let well = world.serve(0..4);
    // Of two, the guide takes the last.
    world.token = Duration::from_secs(3600);
    let stuck = world.serve(0..4);
    let client = world.client();
    let strides = strides(8, 40, 3);
    let expected = alone(0..4, &strides);
    let mut session = ring(&client, 1, 0..4).await;
    assert_eq!(session.servers(), [(stuck, 0..4)]);
    let mut positions = vec![0; 2];
    let before = Instant::now();
    for (step, expected) in strides.iter().zip(&expected) {
        assert_eq!(&stride(&mut session, &mut positions, step).await.unwrap(), expected);
    }
    assert!(before.elapsed() < Duration::from_secs(35), "{:?}", before.elapsed());
    assert_eq!(session.servers(), [(well, 0..4)]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    // It tells that others would wait, and takes nothing on.
    let server = &world.running[&stuck].0;
    assert!(server.figures(Figures::default()).queued_seconds > 30.0);
    let mut stream = client.transport.open(stuck, Vec::new()).await.unwrap();
    let open = bouquet_swarm::wire::message::OpenSession {
        id: crate::world::id(9),
        blocks: 0..4,
        sequences: 1,
        max_tokens: 8,
        revision: 0,
        edits: Vec::new(),
        pass: PassHeader { leaf: 8, ..PassHeader::default() },
    };
    let greeting = Greeting { version: PROTOCOL_VERSION, fingerprint: FINGERPRINT, request: Request::Session(open) };
    Frame::new(&greeting, &[]).write(&mut stream.writer).await.unwrap();
    let (answer, _) = frame::read::<ToClient>(&mut stream.reader, 0).await.unwrap();
    assert!(matches!(answer, ToClient::Refused(Refusal::Failed(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn two_thousand_sessions_leave_nothing_behind() {
    let mut world = World::new(Road::default());
    let servers = [world.serve(0..2), world.serve(2..4)];
    let client = world.client();
    let free = || servers.map(|server| world.running[&server].0.figures(Figures::default()).free_cache_tokens);
    let whole = free();
    let strides = strides(9, 4, 2);
    let expected = alone(0..4, &strides);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut early = 0;
    for round in 0..100 {
        let sessions = (0..20).map(|number| {
            let (client, strides, expected) = (&client, &strides, &expected);
            async move {
                let mut session = ring(client, number, 0..4).await;
                let mut positions = vec![0; 2];
                for (one, expected) in strides.iter().zip(expected) {
                    assert_eq!(&stride(&mut session, &mut positions, one).await.unwrap(), expected);
                }
            }
        });
        futures::future::join_all(sessions).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        if round == 4 {
            early = tasks();
        }
    }
    assert_eq!(servers.map(|server| world.running[&server].0.sessions()), [0, 0]);
    assert_eq!(free(), whole);
    assert!(tasks() <= early, "{} tasks, and {early} after the first hundred", tasks());
    assert!(world.simulation.pipes() <= 100, "{} pipes", world.simulation.pipes());
}

/// Sessions that come one by one, but close to each other, share the reading of weights.
#[tokio::test(start_paused = true)]
async fn who_comes_at_about_the_same_time_is_stepped_together() {
    const TOGETHER: usize = 8;
    const STEPS: usize = 20;
    let mut world = World::new(Road::default());
    let server = world.serve(0..8);
    let clients: Vec<Arc<Client>> = (0..TOGETHER).map(|_| world.client()).collect();
    let decode = async |number: usize| {
        let mut session = ring(&clients[number], number as u8 + 1, 0..8).await;
        let (mut positions, mut random) = (vec![0; 2], Random::new(number as u64));
        for _ in 0..STEPS {
            // They do not think equally long.
            tokio::time::sleep(Duration::from_micros(20 * number as u64)).await;
            let hidden = random.hidden(&[1, 1], WIDTH);
            let one = crate::world::Stride { rewind: None, reorder: None, hidden, returned: Returned::Last };
            stride(&mut session, &mut positions, &one).await.unwrap();
        }
    };
    futures::future::join_all((0..TOGETHER).map(decode)).await;
    let counts = world.counts(server);
    assert_eq!(counts.stepped as usize, TOGETHER * STEPS);
    assert!(counts.steps as usize <= STEPS * 5 / 4, "{counts:?}");
}
