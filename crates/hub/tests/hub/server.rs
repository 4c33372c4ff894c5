//! A hub on this machine: the paths of Hugging Face's, a second address that large files are redirected to, and a way to
//! make it lie.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The commit of everything, until somebody says otherwise.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository. Its threads end with the process.
pub(crate) struct Server {
    hub: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// What changes an answer before it is sent.
type Behaviour = Box<dyn FnMut(&Request, &mut Reply) + Send>;

struct State {
    repository: String,
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    requests: Vec<Request>,
    behaviour: Behaviour,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// `Range`, as it came.
    pub(crate) range: Option<String>,
    /// `Authorization`, as it came.
    pub(crate) authorization: Option<String>,
    /// Whether it came to the second address.
    pub(crate) is_cdn: bool,
}

/// What is answered.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body after which the connection ends, or falls silent.
    pub(crate) cut: Option<usize>,
    /// Falls silent, until the other side has enough of it.
    pub(crate) silent: bool,
    /// Sends the body in chunks, without a length.
    pub(crate) chunked: bool,
}

impl Server {
    /// A hub with these files of `org/name`.
    pub(crate) fn new(repository: &str, files: &[(&str, &[u8])]) -> Server {
        let files = files.iter().map(|(name, contents)| ((*name).to_owned(), contents.to_vec())).collect();
        let state = State {
            repository: repository.to_owned(),
            commit: COMMIT.to_owned(),
            files,
            requests: Vec::new(),
            behaviour: Box::new(|_, _| {}),
        };
        let state = Arc::new(Mutex::new(state));
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, cdn) = (listen(), listen());
        let server = Server { hub: hub.local_addr().unwrap(), state: state.clone() };
        let cdn_address = cdn.local_addr().unwrap();
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let state = state.clone();
                    // Whoever hangs up early is one of the tests.
                    thread::spawn(move || stream.map(|stream| answer(&stream, &state, is_cdn, cdn_address)));
                }
            });
        }
        server
    }

    /// For `HF_ENDPOINT`.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// Changes what is answered from now on.
    pub(crate) fn behave(&self, behaviour: impl FnMut(&Request, &mut Reply) + Send + 'static) {
        self.state.lock().unwrap().behaviour = Box::new(behaviour);
    }

    /// A new commit, with another content of a file.
    pub(crate) fn push(&self, commit: &str, file: &str, contents: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.commit = commit.to_owned();
        state.files.insert(file.to_owned(), contents.to_vec());
    }

    /// What was asked since the last time.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

/// What a hub names contents by: as weights are stored, or as git stores them.
pub(crate) fn etag(file: &str, contents: &[u8]) -> String {
    if is_large(file) {
        hex(&Sha256::digest(contents))
    } else {
        hex(&Sha1::new_with_prefix(format!("blob {}\0", contents.len())).chain_update(contents).finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".gguf") || file == "tokenizer.json"
}

fn answer(stream: &TcpStream, state: &Mutex<State>, is_cdn: bool, cdn: SocketAddr) -> std::io::Result<()> {
    let request = read_request(stream, is_cdn)?;
    let reply = {
        let mut state = state.lock().unwrap();
        let mut reply = state.reply(&request, cdn);
        let State { requests, behaviour, .. } = &mut *state;
        requests.push(request.clone());
        behaviour(&request, &mut reply);
        reply
    };
    reply.send(stream, request.method == "HEAD")
}

fn read_request(stream: &TcpStream, is_cdn: bool) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let mut next = || lines.next().unwrap_or_else(|| Ok(String::new()));
    let first = next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { method, path, range: None, authorization: None, is_cdn };
    loop {
        let line = next()?;
        let Some((name, value)) = line.split_once(": ") else { return Ok(request) };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

impl State {
    fn reply(&self, request: &Request, cdn: SocketAddr) -> Reply {
        let State { repository, commit, files, .. } = self;
        let path = request.path.as_str();
        if request.is_cdn {
            let file = path.strip_prefix("/cdn/").and_then(|name| files.get(name));
            return file.map_or_else(|| Reply::error(404, ""), |contents| Reply::contents(contents, request));
        }
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{repository}/revision/")) {
            if revision != "main" && revision != commit {
                return Reply::error(404, "RevisionNotFound");
            }
            let names: Vec<String> = files.keys().map(|name| format!("{{\"rfilename\":{name:?}}}")).collect();
            let list = format!("{{\"id\":{repository:?},\"sha\":{commit:?},\"siblings\":[{}]}}", names.join(","));
            return Reply::new(200, list.into_bytes());
        }
        let resolved = path.strip_prefix(&format!("/{repository}/resolve/")).and_then(|rest| rest.split_once('/'));
        let Some((revision, file)) = resolved else { return Reply::error(401, "RepoNotFound") };
        if revision != "main" && revision != commit {
            return Reply::error(404, "RevisionNotFound");
        }
        let Some(contents) = files.get(file) else { return Reply::error(404, "EntryNotFound") };
        let etag = format!("\"{}\"", etag(file, contents));
        let mut reply = if is_large(file) {
            let mut reply = Reply::new(302, b"over there".to_vec());
            reply.set("Location", format!("http://{cdn}/cdn/{file}"));
            reply.set("X-Linked-Size", contents.len().to_string());
            reply.set("X-Linked-Etag", etag);
            reply
        } else {
            let mut reply = Reply::contents(contents, request);
            reply.set("ETag", etag);
            reply
        };
        reply.set("X-Repo-Commit", commit.clone());
        reply
    }
}

impl Reply {
    fn new(status: u16, body: Vec<u8>) -> Reply {
        Reply { status, headers: BTreeMap::new(), body, cut: None, silent: false, chunked: false }
    }

    /// An error, with the code that the hub gives it.
    pub(crate) fn error(status: u16, code: &str) -> Reply {
        let mut reply = Reply::new(status, Vec::new());
        reply.set("X-Error-Code", code);
        reply
    }

    /// A body, and that all is well.
    pub(crate) fn whole(body: Vec<u8>) -> Reply {
        Reply::new(200, body)
    }

    /// The contents of a file, from where they were asked for.
    fn contents(contents: &[u8], request: &Request) -> Reply {
        let first = request.range.as_ref().map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-'));
        match first.map(|first| first.parse::<usize>().unwrap()) {
            None => Reply::new(200, contents.to_vec()),
            Some(first) if first >= contents.len() => Reply::error(416, ""),
            Some(first) => {
                let mut reply = Reply::new(206, contents[first..].to_vec());
                reply.set("Content-Range", format!("bytes {first}-{}/{}", contents.len() - 1, contents.len()));
                reply
            }
        }
    }

    /// Sets a header.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.headers.insert(name.to_owned(), value.into());
    }

    fn send(mut self, mut stream: &TcpStream, head: bool) -> std::io::Result<()> {
        if self.chunked {
            self.set("Transfer-Encoding", "chunked");
        } else {
            let length = self.body.len().to_string();
            self.headers.entry("Content-Length".to_owned()).or_insert(length);
        }
        let mut text = format!("HTTP/1.1 {} Something\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes())?;
        if head {
            return Ok(());
        }
        let body = &self.body[..self.cut.unwrap_or(self.body.len()).min(self.body.len())];
        if self.chunked {
            stream.write_all(format!("{:x}\r\n", body.len()).as_bytes())?;
            stream.write_all(body)?;
            stream.write_all(b"\r\n0\r\n\r\n")?;
        } else {
            stream.write_all(body)?;
        }
        if self.silent {
            // Until the other side hangs up.
            let _ = stream.read(&mut [0]);
        }
        Ok(())
    }
}
