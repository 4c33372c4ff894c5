//! A span without weights.
