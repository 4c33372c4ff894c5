//! A hub that lies: one sentence, and nothing of it is taken for whole.

use std::sync::{Arc, Mutex};

use crate::server::{Reply, Request};
use crate::*;

/// Holds that a lie is found, with words that say which.
fn found(lie: impl FnMut(&Request, &mut Reply) + Send + 'static, words: &str) -> Bench {
    let bench = Bench::model(3000);
    bench.server.behave(lie);
    let error = bench.fetch().unwrap_err();
    let text = error.to_string();
    assert!(text.contains(words), "{words:?} is not said by: {text}");
    assert!(text.len() < 400 && !text.contains('\n'), "{text}");
    bench.assert_nothing_is_whole();
    bench
}

fn is_weights(request: &Request) -> bool {
    request.path.ends_with("model.safetensors")
}

#[test]
fn other_contents_are_found_by_their_checksum() {
    let bench = found(
        |request, reply| {
            if is_weights(request) && request.is_cdn {
                reply.body[7] ^= 1;
            }
        },
        "checksum",
    );
    assert!(!bench.listed("blobs").into_keys().any(|name| name.ends_with(".incomplete")), "it is of no use");
    found(
        |request, reply| {
            if request.path.ends_with("config.json") && request.method == "GET" {
                reply.body[7] ^= 1;
            }
        },
        "checksum",
    );
}

#[test]
fn another_length_is_found_before_it_is_read() {
    let shorter = |request: &Request, reply: &mut Reply| {
        if is_weights(request) && request.is_cdn {
            reply.body.truncate(2000);
        }
    };
    found(shorter, "2000 were announced");
    let longer = |request: &Request, reply: &mut Reply| {
        if is_weights(request) && request.is_cdn {
            reply.body.push(0);
        }
    };
    found(longer, "3001 were announced");
}

#[test]
fn a_body_without_a_length_ends_where_it_should() {
    let endless = |request: &Request, reply: &mut Reply| {
        if is_weights(request) && request.is_cdn {
            reply.chunked = true;
            reply.body = vec![0; 1 << 20];
        }
    };
    let bench = found(endless, "more than its 3000 bytes");
    assert!(!bench.listed("blobs").into_keys().any(|name| name.ends_with(".incomplete")));
    let short = |request: &Request, reply: &mut Reply| {
        if is_weights(request) && request.is_cdn {
            reply.chunked = true;
            reply.body.truncate(1);
        }
    };
    found(short, "ended after");
}

#[test]
fn a_range_that_nobody_asked_for_is_not_written() {
    let other = |request: &Request, reply: &mut Reply| {
        if is_weights(request) && request.is_cdn {
            reply.status = 206;
            reply.set("Content-Range", "bytes 5-3004/3005");
        }
    };
    found(other, "begins at byte 0");
}

#[test]
fn a_page_for_a_login_does_not_cost_what_has_come() {
    let bench = Bench::model(3000);
    std::fs::create_dir_all(bench.repository().join("blobs")).unwrap();
    let part = format!("{}.incomplete", server::etag("model.safetensors", &weights(3000)));
    std::fs::write(bench.repository().join("blobs").join(&part), &weights(3000)[..1234]).unwrap();
    for chunked in [false, true] {
        bench.server.behave(move |request, reply| {
            if is_weights(request) && request.is_cdn {
                *reply = Reply::whole(b"<html>".to_vec());
                reply.chunked = chunked;
            }
        });
        assert!(matches!(bench.fetch(), Err(HubError::Wrong { .. })));
        assert_eq!(bench.listed("blobs")[&part], 1234);
    }
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let bench = Bench::model(300);
    let settings = Settings { token: Some("hf_secret".to_owned()), ..bench.settings() };
    bench.fetch_with(settings, "org/name", &mut |_| {}).unwrap();
    for request in bench.server.requests() {
        let expected = if request.is_cdn { None } else { Some("Bearer hf_secret") };
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }
}

#[test]
fn a_repository_that_was_renamed_is_followed_with_the_token() {
    let bench = Bench::model(300);
    bench.server.behave(|request, reply| {
        if request.path.starts_with("/api/models/org/name/") && !request.path.contains("moved") {
            *reply = Reply::error(307, "");
            reply.set("Location", format!("{}?moved", request.path.replace("main", server::COMMIT)));
        } else if request.path.contains("moved") {
            let list = format!(r#"{{"sha": "{}", "siblings": [{{"rfilename": "config.json"}}]}}"#, server::COMMIT);
            *reply = Reply::whole(list.into_bytes());
        }
    });
    let settings = Settings { token: Some("hf_secret".to_owned()), ..bench.settings() };
    let error = bench.fetch_with(settings, "org/name", &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::NotAModel { .. }), "{error}");
    assert!(bench.server.requests().iter().all(|request| request.authorization.is_some()));
}

#[test]
fn redirects_end() {
    found(
        |request, reply| {
            *reply = Reply::error(302, "");
            reply.set("Location", request.path.clone());
        },
        "redirects",
    );
    for nowhere in ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "\u{1}", "x"] {
        found(
            move |_, reply| {
                *reply = Reply::error(302, "");
                reply.set("Location", nowhere);
            },
            "",
        );
    }
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for etag in ["../../../evil", "/etc/passwd", "", "a/b", "..", "x.incomplete"] {
        found(
            move |request, reply| {
                if is_weights(request) && !request.is_cdn {
                    reply.set("X-Linked-Etag", format!("\"{etag}\""));
                }
            },
            "ETag",
        );
    }
    for commit in ["../../evil", "main", ""] {
        found(
            move |request, reply| {
                if request.path.starts_with("/api") {
                    let text = String::from_utf8(reply.body.clone()).unwrap();
                    reply.body = text.replace(server::COMMIT, commit).into_bytes();
                }
            },
            "is no commit",
        );
    }
    for shard in ["../evil.safetensors", "/tmp/evil.safetensors", "a/../../evil.safetensors", "..\\\\evil.safetensors"]
    {
        let index = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
        let bench = Bench::new(&[("config.json", CONFIG), ("model.safetensors.index.json", index.as_bytes())]);
        let error = bench.fetch().unwrap_err();
        assert!(matches!(error, HubError::Wrong { .. }), "{error}");
        assert!(listed(bench.cache.path()).is_empty());
    }
}

#[test]
fn an_index_that_promises_too_much_is_refused() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors"}}"#;
    let bench = Bench::new(&[("config.json", CONFIG), ("model.safetensors.index.json", index)]);
    let error = bench.fetch().unwrap_err();
    assert!(error.to_string().contains("model-1.safetensors"), "{error}");
}

#[test]
fn what_is_too_large_to_be_true_is_not_read() {
    for (file, size) in [("config.json", 1u64 << 30), ("tokenizer.json", 1 << 40)] {
        found(
            move |request, reply| {
                if request.path.ends_with(file) && request.method == "HEAD" {
                    reply.set("X-Linked-Size", size.to_string());
                }
            },
            "are not read",
        );
    }
    found(
        |request, reply| {
            if request.path.starts_with("/api") {
                reply.chunked = true;
                reply.body = vec![b' '; 40 << 20];
            }
        },
        "more than",
    );
    found(
        |request, reply| {
            if request.path.starts_with("/api") {
                reply.body = "[".repeat(1 << 20).into_bytes();
            }
        },
        "list of files",
    );
}

#[test]
fn a_file_of_another_commit_is_refused() {
    found(
        |request, reply| {
            if is_weights(request) {
                reply.set("X-Repo-Commit", "f".repeat(40));
            }
        },
        "another commit",
    );
}

#[test]
fn what_is_not_said_is_not_guessed() {
    for header in ["X-Linked-Etag", "X-Linked-Size"] {
        let bench = Bench::model(300);
        bench.server.behave(move |request, reply| {
            if is_weights(request) && !request.is_cdn {
                reply.headers.remove(header);
                reply.set("Location", "/nowhere");
            }
        });
        assert!(bench.fetch().is_err(), "{header}");
        bench.assert_nothing_is_whole();
    }
}

#[test]
fn headers_without_end_are_not_read() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let bench = Bench::model(300);
    bench.server.behave(move |_, reply| {
        *count.lock().unwrap() += 1;
        reply.set("X-Endless", "a".repeat(10 << 20));
    });
    assert!(matches!(bench.fetch(), Err(HubError::Unreachable { .. })));
    assert!(*asked.lock().unwrap() >= 1);
}
