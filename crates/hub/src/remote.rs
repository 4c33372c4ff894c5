//! What is asked of a hub: which files a revision has, and what each of them is.
//!
//! ```text
//! GET  /api/models/ORG/NAME/revision/REVISION   {"sha": COMMIT, "siblings": [{"rfilename": FILE}, ...]}
//! HEAD /ORG/NAME/resolve/COMMIT/FILE            X-Repo-Commit, X-Linked-Etag or ETag, X-Linked-Size or Content-Length
//! GET  /ORG/NAME/resolve/COMMIT/FILE            the contents, behind redirects
//! ```

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Instant;

use serde::Deserialize;
use ureq::http::header::{CONTENT_LENGTH, ETAG};
use ureq::http::{HeaderMap, Method};

use crate::attempts::Failure;
use crate::checksum::Etag;
use crate::files::{self, shown};
use crate::http::{Answer, Client, reading_problem};
use crate::name::{is_commit, percent_encoded};
use crate::{Event, HubError, Name, Result};

/// Bytes that a list of files may have: some hundred thousand of them.
const MAX_LISTING_BYTES: u64 = 32 << 20;

const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

/// A revision, as the hub has it.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: BTreeSet<String>,
}

/// What a file is, before it is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) file: String,
    pub(crate) etag: Etag,
    pub(crate) size: u64,
}

/// Asks which files a revision has.
pub(crate) fn listing(client: &Client, name: &Name, observe: &mut dyn FnMut(Event)) -> Result<Listing> {
    let path = format!("/api/models/{}/revision/{}", name.repository(), percent_encoded(name.revision()));
    let what = "the list of files";
    let bytes = short_answer(client, name, &path, what, MAX_LISTING_BYTES, observe)?;
    parse_listing(&bytes, name).map_err(|problem| wrong(&client.host(), what, problem))
}

/// Asks what a file is.
pub(crate) fn facts(
    client: &Client,
    name: &Name,
    commit: &str,
    file: &str,
    observe: &mut dyn FnMut(Event),
) -> Result<Facts> {
    let path = resolve_path(name, commit, file);
    client.attempts().until(observe, || {
        let described = |headers: &HeaderMap| headers.contains_key(LINKED_ETAG);
        let answer = client.ask(Method::HEAD, &path, 0, described)?;
        if !answer.response.status().is_redirection() {
            check(&answer, name, client)?;
        }
        parse_facts(&answer, commit, file).map_err(|problem| wrong(&answer.host, file, problem).into())
    })
}

/// Asks for a short file, as the hub has it: without a look at its checksum.
pub(crate) fn contents(
    client: &Client,
    name: &Name,
    commit: &str,
    file: &str,
    limit: u64,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<u8>> {
    short_answer(client, name, &resolve_path(name, commit, file), file, limit, observe)
}

/// Where the contents of a file are asked for.
pub(crate) fn resolve_path(name: &Name, commit: &str, file: &str) -> String {
    let file: Vec<String> = file.split('/').map(percent_encoded).collect();
    format!("/{}/resolve/{commit}/{}", name.repository(), file.join("/"))
}

/// [`HubError::Wrong`].
pub(crate) fn wrong(host: &str, what: &str, problem: impl Into<String>) -> HubError {
    HubError::Wrong { host: host.to_owned(), what: what.to_owned(), problem: problem.into() }
}

/// What a status means that is no success.
pub(crate) fn check(answer: &Answer, name: &Name, client: &Client) -> std::result::Result<(), Failure> {
    answer.check_passing()?;
    let status = answer.response.status();
    if status.is_success() {
        return Ok(());
    }
    let message = answer.message();
    let repository = name.repository();
    let error = match (status.as_u16(), answer.header("x-error-code").unwrap_or_default()) {
        // Only the hub knows who may see what; who serves the contents has other reasons.
        _ if answer.host != client.host() => answer.status(),
        (_, "GatedRepo") => HubError::Gated { repository, message },
        (_, "RevisionNotFound") => HubError::NoSuchRevision { repository, revision: name.revision().to_owned() },
        (404, "EntryNotFound") => answer.status(),
        (401 | 403 | 404, _) => {
            HubError::NoSuchModel { host: answer.host.clone(), name: repository, with_token: client.has_token() }
        }
        _ => answer.status(),
    };
    Err(error.into())
}

fn parse_listing(bytes: &[u8], name: &Name) -> std::result::Result<Listing, String> {
    #[derive(Deserialize)]
    struct Info {
        sha: String,
        siblings: Vec<Sibling>,
    }
    #[derive(Deserialize)]
    struct Sibling {
        rfilename: String,
    }
    let Info { sha, siblings } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if !is_commit(&sha) {
        return Err(format!("{} is no commit", shown(&sha)));
    }
    if name.commit().is_some_and(|commit| commit != sha) {
        return Err(format!("it is of another commit, {sha}"));
    }
    Ok(Listing { commit: sha, files: siblings.into_iter().map(|sibling| sibling.rfilename).collect() })
}

fn parse_facts(answer: &Answer, commit: &str, file: &str) -> std::result::Result<Facts, String> {
    if let Some(other) = answer.header("x-repo-commit").filter(|other| *other != commit) {
        return Err(format!("it is of another commit, {}", shown(other)));
    }
    let header = answer.header(LINKED_ETAG).or_else(|| answer.header(ETAG.as_str()));
    let header = header.ok_or("it has no ETag, which names its contents")?;
    let etag = Etag::parse(header).ok_or_else(|| format!("its ETag is no name of a file: {}", shown(header)))?;
    let length = || answer.header(CONTENT_LENGTH.as_str()).filter(|_| !answer.response.status().is_redirection());
    let size = answer.header(LINKED_SIZE).or_else(length).ok_or("it is not said how long it is")?;
    let size = size.trim().parse().map_err(|_| format!("its length is no number: {}", shown(size)))?;
    match files::limit(file) {
        Some(limit) if size > limit => {
            Err(format!("it should have {size} bytes, and more than {limit} of such a file are not read"))
        }
        _ => Ok(Facts { file: file.to_owned(), etag, size }),
    }
}

/// A short answer, whole: never more of it than a limit, and not for longer than a while.
fn short_answer(
    client: &Client,
    name: &Name,
    path: &str,
    what: &str,
    limit: u64,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<u8>> {
    client.attempts().until(observe, || {
        let answer = client.ask(Method::GET, path, 0, |_| false)?;
        check(&answer, name, client)?;
        let (host, mut body) = (answer.host, answer.response.into_body().into_reader());
        let (start, mut bytes, mut piece) = (Instant::now(), Vec::new(), vec![0; 64 << 10]);
        loop {
            match body.read(&mut piece).map_err(|error| Failure::passing(&host, reading_problem(&error)))? {
                0 => return Ok(bytes),
                read => bytes.extend_from_slice(&piece[..read]),
            }
            if bytes.len() as u64 > limit {
                return Err(wrong(&host, what, format!("it has more than {limit} bytes")).into());
            }
            if start.elapsed() > 4 * client.silence() {
                return Err(Failure::passing(&host, format!("{what} comes too slowly")));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_files_is_of_a_commit() {
        let commit = "0123456789012345678901234567890123456789";
        let listing = |sha: &str, name: &str| {
            let text = format!(r#"{{"id": "a/b", "sha": {sha:?}, "siblings": [{{"rfilename": "config.json"}}]}}"#);
            parse_listing(text.as_bytes(), &Name::parse(name).unwrap())
        };
        assert!(listing(commit, "a/b").unwrap().files.contains("config.json"));
        assert!(listing(commit, &format!("a/b@{commit}")).is_ok());
        assert!(listing(&commit.replace('9', "8"), &format!("a/b@{commit}")).is_err());
        for sha in ["main", "../../../etc", "", "0123"] {
            assert!(listing(sha, "a/b").is_err(), "{sha}");
        }
        for text in ["", "[]", "{}", r#"{"sha": "0123456789012345678901234567890123456789"}"#] {
            assert!(parse_listing(text.as_bytes(), &Name::parse("a/b").unwrap()).is_err(), "{text}");
        }
    }
}
