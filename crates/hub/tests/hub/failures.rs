//! What goes wrong on the way and may go right the next time.

use std::collections::BTreeSet;
use std::fs;

use crate::server::Reply;
use crate::*;

/// The part of the weights.
fn part(bench: &Bench, length: usize) -> PathBuf {
    let name = format!("{}.incomplete", server::etag("model.safetensors", &weights(length)));
    bench.repository().join("blobs").join(name)
}

#[test]
fn an_attempt_goes_on_where_the_last_one_ended() {
    let bench = Bench::model(3000);
    let mut first = true;
    bench.server.behave(move |request, reply| {
        if request.is_cdn && request.path.ends_with("model.safetensors") && std::mem::take(&mut first) {
            reply.cut = Some(1000);
        }
    });
    let mut retries = 0;
    let folder = bench.fetch_with(bench.settings(), "org/name", &mut |event| {
        retries += usize::from(matches!(event, Event::Retries { .. }));
    });
    assert_eq!(fs::read(folder.unwrap().join("model.safetensors")).unwrap(), weights(3000));
    let requests = bench.server.requests();
    let ranges: Vec<_> = requests.iter().filter(|request| request.path == "/cdn/model.safetensors").collect();
    assert_eq!((retries, ranges.len()), (1, 2));
    assert_eq!(ranges[1].range.as_deref(), Some("bytes=1000-"));
}

#[test]
fn the_next_run_goes_on_where_the_last_one_ended() {
    let bench = Bench::model(3000);
    fs::create_dir_all(bench.repository().join("blobs")).unwrap();
    fs::write(part(&bench, 3000), &weights(3000)[..1234]).unwrap();
    let hub = bench.hub();
    let plan = hub.plan(&bench.name(), &mut |_| {}).unwrap();
    assert_eq!(plan.bytes_arrived(), 1234);
    hub.carry_out(&plan, &mut |_| {}).unwrap();
    assert!(bench.server.requests().iter().any(|request| request.range.as_deref() == Some("bytes=1234-")));
    assert!(!part(&bench, 3000).exists());
}

#[test]
fn a_part_with_something_else_in_it_is_begun_anew() {
    // After a power failure: the length is there, the bytes are not. And one that is whole, and one too long.
    for length in [1234, 3000, 4000] {
        let bench = Bench::model(3000);
        fs::create_dir_all(bench.repository().join("blobs")).unwrap();
        fs::write(part(&bench, 3000), vec![0; length]).unwrap();
        let folder = bench.fetch().unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(3000), "{length}");
    }
}

#[test]
fn a_hub_that_cannot_go_on_begins_anew() {
    for refuse in [false, true] {
        let bench = Bench::model(3000);
        fs::create_dir_all(bench.repository().join("blobs")).unwrap();
        fs::write(part(&bench, 3000), &weights(3000)[..1234]).unwrap();
        bench.server.behave(move |request, reply| {
            if request.is_cdn && request.range.is_some() {
                *reply = if refuse { Reply::error(416, "") } else { Reply::whole(weights(3000)) };
            }
        });
        let folder = bench.fetch().unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(3000));
    }
}

#[test]
fn a_hub_that_is_busy_is_asked_again() {
    for status in [500, 503, 429] {
        let bench = Bench::model(300);
        let mut asked = BTreeSet::new();
        bench.server.behave(move |request, reply| {
            if asked.insert((request.method.clone(), request.path.clone())) {
                *reply = Reply::error(status, "");
                reply.set("Retry-After", "0");
            }
        });
        bench.fetch().unwrap();
    }
}

#[test]
fn a_hub_that_stays_busy_is_given_up() {
    let bench = Bench::model(300);
    bench.server.behave(|_, reply| *reply = Reply::error(503, ""));
    assert!(matches!(bench.fetch(), Err(HubError::Status { status: 503, .. })));
    assert_eq!(bench.server.requests().len(), 6, "one attempt and five more");
    bench.assert_nothing_is_whole();
}

#[test]
fn a_hub_that_falls_silent_is_given_up() {
    let bench = Bench::model(3000);
    bench.server.behave(|request, reply| {
        if request.path.ends_with("model.safetensors") && request.is_cdn {
            (reply.cut, reply.silent) = (Some(100), true);
        }
    });
    let patience = Patience { retries: 1, ..bench.settings().patience };
    let settings = || Settings { patience: patience.clone(), ..bench.settings() };
    let error = bench.fetch_with(settings(), "org/name", &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::Unreachable { problem, .. } if problem.contains("in time")), "{error}");
    assert_eq!(part(&bench, 3000).metadata().unwrap().len(), 200, "what came is kept");
    bench.assert_nothing_is_whole();
    // Not even a first line.
    bench.server.behave(|_, reply| (reply.cut, reply.silent, reply.status) = (Some(0), true, 200));
    assert!(matches!(bench.fetch_with(settings(), "org/name", &mut |_| {}), Err(HubError::Unreachable { .. })));
}

#[test]
fn nobody_at_the_address_is_an_error_that_says_so() {
    let bench = Bench::model(30);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Settings { endpoint: format!("http://{free}"), ..bench.settings() };
    let error = bench.fetch_with(settings, "org/name", &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn a_body_that_is_always_cut_does_not_go_on_for_ever() {
    let bench = Bench::model(3000);
    bench.server.behave(|request, reply| {
        if request.is_cdn && request.path.ends_with("model.safetensors") {
            reply.cut = Some(1);
        }
    });
    assert!(matches!(bench.fetch(), Err(HubError::Unreachable { .. })));
    assert_eq!(part(&bench, 3000).metadata().unwrap().len(), 6, "a byte for each attempt");
}

#[test]
fn a_file_that_another_process_fetches_is_waited_for() {
    let bench = Bench::model(300);
    let locks = bench.cache.path().join(".locks/models--org--name");
    fs::create_dir_all(&locks).unwrap();
    let path = locks.join(format!("{}.lock", server::etag("model.safetensors", &weights(300))));
    let held = fs::File::create(path).unwrap();
    held.lock().unwrap();
    let error = bench.fetch().unwrap_err();
    assert!(matches!(error, HubError::Locked { .. }), "{error}");
    let mut held = Some(held);
    let mut waited = Vec::new();
    let fetched = bench.fetch_with(bench.settings(), "org/name", &mut |event| {
        if let Event::Waits { file } = event {
            waited.push(file.to_owned());
            held.take();
        }
    });
    fetched.unwrap();
    assert_eq!(waited, ["model.safetensors"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_an_error_with_its_path() {
    let bench = Bench::model(300);
    let file = bench.cache.path().join("file");
    fs::write(&file, "").unwrap();
    let settings = Settings { cache: file.join("cache"), ..bench.settings() };
    let error = bench.fetch_with(settings, "org/name", &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::Write { path, .. } if path.starts_with(&file)), "{error}");
    assert!(bench.server.requests().iter().all(|request| request.method == "HEAD" || request.path.starts_with("/api")));
}

#[cfg(unix)]
#[test]
fn a_model_that_cannot_fit_is_refused_before_it_is_fetched() {
    let bench = Bench::model(300);
    bench.server.behave(|request, reply| {
        if request.path.ends_with("model.safetensors") {
            reply.set("X-Linked-Size", (1u64 << 60).to_string());
        }
    });
    assert!(matches!(bench.fetch(), Err(HubError::NoSpace { needed, .. }) if needed >= 1 << 60));
    assert!(bench.listed("blobs").is_empty());
}
