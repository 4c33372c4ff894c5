//! Where models come from and where they are kept: the environment variables of Python's `huggingface_hub`, with the
//! meaning that they have there.
//!
//! | variable | meaning |
//! |---|---|
//! | `HF_HUB_CACHE` | the cache; else `hub` in `HF_HOME`, else `$XDG_CACHE_HOME/huggingface/hub`, else in `~/.cache` |
//! | `HF_TOKEN` | the token; else the file `HF_TOKEN_PATH`, else `token` in `HF_HOME` |
//! | `HF_ENDPOINT` | the hub, `https://huggingface.co` unless told otherwise |
//! | `HF_HUB_OFFLINE` | `1`, `true`, `yes` or `on`: ask nobody |
//! | `SSL_CERT_FILE` | certificates to trust (PEM), instead of those of the web: for networks that read what is encrypted |
//!
//! An empty variable is none. Proxies are those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{HubError, Result};

/// The hub of Hugging Face.
const ENDPOINT: &str = "https://huggingface.co";

/// Bytes that the file of a token may have.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// Where models come from and where they are kept.
#[derive(Clone)]
pub struct Settings {
    /// Address of the hub.
    pub endpoint: String,
    /// The folder of the cache, `.../huggingface/hub`.
    pub cache: PathBuf,
    /// What lets a user see private and gated models. Sent to the hub itself and to nobody else.
    pub token: Option<String>,
    /// A file of the certificates (PEM) that are trusted instead of those of the web.
    pub certificates: Option<PathBuf>,
    /// Ask nobody; what is not in the cache is not there.
    pub offline: bool,
    /// How long to wait for what.
    pub patience: Patience,
}

/// How long to wait, and how often to try again.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next byte.
    pub silence: Duration,
    /// For another process that fetches the same file, while nothing comes there.
    pub lock: Duration,
    /// How often a request is made again that failed in passing, before it counts as failed.
    pub retries: u32,
    /// Before the first of these; twice as long before each further one.
    pub first_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Patience {
            connect: seconds(10),
            silence: seconds(30),
            lock: seconds(300),
            retries: 5,
            first_wait: Duration::from_millis(500),
        }
    }
}

impl Settings {
    /// The hub of Hugging Face without a token, and a cache.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        let (endpoint, patience) = (ENDPOINT.to_owned(), Patience::default());
        Settings { endpoint, cache: cache.into(), token: None, certificates: None, offline: false, patience }
    }

    /// What the environment says.
    ///
    /// # Errors
    /// No cache where there is no home; a file of a token that cannot be read.
    pub fn from_env() -> Result<Self> {
        Settings::from_variables(|name| std::env::var_os(name), std::env::home_dir())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<Self> {
        let text = |name| variable(name).filter(|value| !value.is_empty());
        let path = |name| text(name).map(|value| expanded(Path::new(&value), home.as_deref()));
        let hf_home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let in_home = |name| hf_home.as_ref().map(|folder| folder.join(name));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).or_else(|| in_home("hub"));
        let cache = cache.ok_or(HubError::NoHome)?;
        let token = match text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Some(token.to_string_lossy().into_owned()),
            None => path("HF_TOKEN_PATH").or_else(|| in_home("token")).map_or(Ok(None), |path| read_token(&path))?,
        };
        let endpoint = text("HF_ENDPOINT").map(|value| value.to_string_lossy().into_owned());
        let is_true = |value: OsString| {
            let value = value.to_string_lossy().to_ascii_lowercase();
            ["1", "true", "yes", "on"].contains(&value.as_str())
        };
        Ok(Settings {
            endpoint: endpoint.unwrap_or_else(|| ENDPOINT.to_owned()),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            certificates: path("SSL_CERT_FILE"),
            offline: text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE")).is_some_and(is_true),
            ..Settings::new(cache)
        })
    }
}

/// The token stays out of logs.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { endpoint, cache, token, certificates, offline, patience } = self;
        f.debug_struct("Settings")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("token", &token.as_ref().map(|_| "..."))
            .field("certificates", certificates)
            .field("offline", offline)
            .field("patience", patience)
            .finish()
    }
}

/// `~/models` in the home of the user.
fn expanded(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

fn read_token(path: &Path) -> Result<Option<String>> {
    let mut token = String::new();
    match File::open(path).and_then(|file| file.take(MAX_TOKEN_BYTES).read_to_string(&mut token)) {
        Ok(_) => Ok(Some(token)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], home: &Path) -> Settings {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Settings::from_variables(variable, Some(home.to_owned())).unwrap()
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let home = Path::new("/ada");
        for (variables, cache) in [
            (&[][..], "/ada/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/caches")], "/caches/huggingface/hub"),
            (&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/caches")], "/ada/hf/hub"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/hf")], "/old"),
            (&[("HF_HUB_CACHE", "/cache"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/cache"),
            (&[("HF_HUB_CACHE", ""), ("HF_HOME", "/hf")], "/hf/hub"),
        ] {
            assert_eq!(settings(variables, home).cache, Path::new(cache), "{variables:?}");
        }
        let nowhere = Settings::from_variables(|_| None, None);
        assert!(matches!(nowhere, Err(HubError::NoHome)));
    }

    #[test]
    fn the_token_is_a_variable_or_in_a_file() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(settings(&[], home.path()).token, None);
        let folder = home.path().join(".cache/huggingface");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "hf_file\n").unwrap();
        assert_eq!(settings(&[], home.path()).token.as_deref(), Some("hf_file"));
        assert_eq!(settings(&[("HF_TOKEN", " hf_variable ")], home.path()).token.as_deref(), Some("hf_variable"));
        let other = home.path().join("other");
        std::fs::write(&other, "hf_other").unwrap();
        let token = settings(&[("HF_TOKEN_PATH", other.to_str().unwrap())], home.path());
        assert_eq!(token.token.as_deref(), Some("hf_other"));
        assert!(!format!("{token:?}").contains("hf_other"), "{token:?}");
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        let home = Path::new("/");
        for (value, offline) in [("1", true), ("ON", true), ("yes", true), ("True", true), ("0", false), ("", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)], home).offline, offline, "{value}");
        }
        assert_eq!(settings(&[("SSL_CERT_FILE", "~/c.pem")], home).certificates, Some(home.join("c.pem")));
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror/")], home).endpoint, "http://mirror/");
    }
}
