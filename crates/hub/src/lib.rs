//! From the name of a model as people write it, `org/name`, `org/name@revision` or `org/name:Q4_K_M`, to a folder or a GGUF
//! file on this machine. Before the data path begins: this room knows which files a model is made of, and nothing of what is in them.
//!
//! A model is fetched from a hub that speaks the paths of Hugging Face's into the cache that Python's `huggingface_hub`
//! uses, laid out as it does, so that each finds what the other put there:
//!
//! ```text
//! HF_HUB_CACHE/
//!   .locks/models--org--name/ETAG.lock      held by whoever fetches that blob
//!   models--org--name/
//!     blobs/ETAG                            contents, named by their checksum
//!     blobs/ETAG.incomplete                 what has come of one so far
//!     refs/main                             the commit that a revision was last seen at
//!     .no_exist/COMMIT/tokenizer.json       the repository has no such file
//!     snapshots/COMMIT/config.json          a link to ../../blobs/ETAG
//! ```
//!
//! Nothing that a hub sends is taken on trust. File names, lengths and checksums are checked before a name is given to
//! what came, every wait has a deadline, and the token goes to the hub alone. What is half there is under no name that
//! anybody opens, and the next attempt goes on from it, however the last one ended.
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`name`] | what a user may write |
//! | [`settings`] | the environment variables that users of the hub know |
//! | [`fetch`] | the whole way, from a [`Name`] to a folder or a GGUF file |
//! | `files` | which files of a repository are needed |
//! | `gguf` | which GGUF file of a repository is meant |
//! | `remote` | what is asked of a hub, and what it may answer |
//! | `http` | requests: deadlines, redirects, the token |
//! | `attempts` | what failed and may pass, and when to try again |
//! | `download` | one blob, whole and checked |
//! | `checksum` | SHA-256, or the SHA-1 of git |
//! | `cache` | the layout above |
//! | `lock` | one process at a time, and none after its death |
//! | `system` | what is particular to a system |
//!
//! ```
//! use bouquet_hub::{Hub, HubError, Name, Settings};
//! let name = Name::parse("bigscience/bloom-560m@main").expect("a name of the hub");
//! let cache = std::env::temp_dir().join("an-empty-cache");
//! let hub = Hub::open(Settings { offline: true, ..Settings::new(cache) })?;
//! let missing = hub.fetch(&name, &mut |_| {}).unwrap_err();
//! assert!(matches!(missing, HubError::NotCached { .. }));
//! # Ok::<(), HubError>(())
//! ```

#![forbid(unsafe_code)]

mod attempts;
mod cache;
mod checksum;
mod download;
pub mod error;
pub mod fetch;
mod files;
mod gguf;
mod http;
mod lock;
pub mod name;
mod remote;
pub mod settings;
mod system;

pub use error::{HubError, Result};
pub use fetch::{Event, Hub, Missing, Plan};
pub use gguf::models;
pub use name::Name;
pub use settings::{Patience, Settings};
